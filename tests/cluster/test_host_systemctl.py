"""The stand-in for systemctl really starts, watches and ends processes, as systemd would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.host import Host
from tests.cluster.lan import Lan

pytestmark = [pytest.mark.root, pytest.mark.slow]

NOTIFY = """#!/usr/bin/python3
import os, pathlib, signal, socket, sys
pathlib.Path("/run/notifier.begun").touch()
if len(sys.argv) > 1:
    sys.exit(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
    talk.sendto(b"STATUS=nearly\\nREADY=1\\n", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lan() as lan:
        yield lan.host("units", "10.77.0.10")


def put(host: Host, name: str, service: str, unit: str = "") -> None:
    text = f"[Unit]\nDescription=A test\n{unit}\n[Service]\n{service}\n[Install]\nWantedBy=multi-user.target\n"
    host.write(f"/etc/systemd/system/{name}.service", text)
    host.run(["systemctl", "daemon-reload"])


def code(host: Host, *words: str) -> int:
    return host.run(["systemctl", *words], check=False).returncode


def show(host: Host, name: str, key: str) -> str:
    return host.run(["systemctl", "show", "-p", key, "--value", name]).stdout.strip()


def is_alive(host: Host, pid: str) -> bool:
    return host.run(["kill", "-0", pid], check=False).returncode == 0


def wait_for(host: Host, name: str, key: str, value: str) -> None:
    host.wait(["sh", "-c", f'[ "$(systemctl show -p {key} --value {name})" = {value} ]'])


def test_simple_service_and_exit_codes(host: Host) -> None:
    put(host, "simple", "ExecStart=/bin/sleep infinity")
    assert code(host, "is-active", "--quiet", "simple") == 3
    assert code(host, "start", "simple") == 0
    assert code(host, "is-active", "--quiet", "simple") == 0
    assert code(host, "status", "simple") == 0
    pid = show(host, "simple", "MainPID")
    assert host.read(f"/proc/{pid}/cmdline").startswith("/bin/sleep")
    assert code(host, "start", "simple") == 0
    assert show(host, "simple", "MainPID") == pid
    assert code(host, "stop", "simple.service") == 0
    assert not is_alive(host, pid)
    assert host.run(["systemctl", "is-active", "simple"], check=False).stdout == "inactive\n"
    assert code(host, "status", "simple") == 3


@pytest.mark.parametrize(
    ("words", "expected", "said"),
    [
        (["start", "nosuch"], 1, "not found"),
        (["stop", "nosuch"], 5, "not loaded"),
        (["status", "nosuch"], 4, "could not be found"),
        (["is-enabled", "nosuch"], 1, "No such file"),
        (["enable", "nosuch"], 1, "does not exist"),
        (["is-active", "nosuch"], 3, "inactive"),
        (["frobnicate"], 1, "not done here"),
    ],
)
def test_wrong_names(host: Host, words: list[str], expected: int, said: str) -> None:
    done = host.run(["systemctl", *words], check=False)
    assert done.returncode == expected
    assert said in done.stdout + done.stderr


def test_notify_is_waited_for(host: Host) -> None:
    host.write("/usr/local/bin/notifier", NOTIFY, 0o755)
    put(host, "notify", "Type=notify\nExecStart=/usr/local/bin/notifier")
    host.run(["systemctl", "start", "notify"])
    assert host.read("/run/notifier.begun") == ""
    assert show(host, "notify", "ActiveState") == "active"
    put(host, "early", "Type=notify\nExecStart=/usr/local/bin/notifier 0")
    put(host, "silent", "Type=notify\nTimeoutStartSec=1\nExecStart=/bin/sleep infinity")
    for name, result in (("early", "protocol"), ("silent", "timeout")):
        assert code(host, "start", name) == 1
        assert show(host, name, "Result") == result
        assert code(host, "is-failed", "--quiet", name) == 0


def test_oneshot(host: Host) -> None:
    put(host, "once", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /run/one\nExecStart=/bin/touch /run/two")
    put(host, "fails", "Type=oneshot\nExecStart=/bin/sh -c 'echo so it goes; exit 7'\nExecStart=/bin/touch /run/never")
    put(host, "forgiven", "Type=oneshot\nExecStart=-/bin/false\nExecStart=/bin/touch /run/three")
    host.run(["systemctl", "start", "once", "forgiven"])
    host.run(["ls", "/run/one", "/run/two", "/run/three"])
    assert [show(host, name, "SubState") for name in ("once", "forgiven")] == ["exited", "dead"]
    done = host.run(["systemctl", "start", "fails"], check=False)
    assert done.returncode == 1
    assert "Job for fails.service failed" in done.stderr
    assert [show(host, "fails", key) for key in ("ActiveState", "ExecMainStatus")] == ["failed", "7"]
    assert "so it goes" in host.run(["journalctl", "-u", "fails", "-n", "5", "--no-pager"]).stdout
    assert host.run(["ls", "/run/never"], check=False).returncode != 0
    host.run(["systemctl", "reset-failed", "fails"])
    assert show(host, "fails", "ActiveState") == "inactive"


def test_restart_after_death(host: Host) -> None:
    put(host, "again", "ExecStart=/bin/sleep infinity\nRestart=always\nRestartSec=0")
    host.run(["systemctl", "start", "again"])
    pid = show(host, "again", "MainPID")
    host.run(["kill", "-9", pid])
    wait_for(host, "again", "NRestarts", "1")
    wait_for(host, "again", "ActiveState", "active")
    assert show(host, "again", "MainPID") != pid
    host.run(["systemctl", "stop", "again"])
    assert show(host, "again", "ActiveState") == "inactive"


def test_a_crash_loop_waits_and_can_be_started_and_stopped(host: Host) -> None:
    put(host, "loop", "ExecStart=/bin/false\nRestart=always\nRestartSec=1000", "StartLimitIntervalSec=0")
    host.run(["systemctl", "start", "loop"])
    wait_for(host, "loop", "SubState", "auto-restart")
    assert host.run(["systemctl", "is-active", "loop"], check=False).stdout == "activating\n"
    host.run(["systemctl", "restart", "loop"])
    wait_for(host, "loop", "SubState", "auto-restart")
    host.run(["systemctl", "stop", "loop"])
    assert code(host, "is-active", "-q", "loop") == 3


def test_too_many_restarts(host: Host) -> None:
    put(
        host,
        "hasty",
        "ExecStart=/bin/false\nRestart=on-failure\nRestartSec=0",
        "StartLimitBurst=3\nStartLimitIntervalSec=60",
    )
    host.run(["systemctl", "start", "hasty"])
    wait_for(host, "hasty", "Result", "start-limit-hit")
    assert show(host, "hasty", "NRestarts") == "2"


def test_a_service_that_ignores_term_is_killed(host: Host) -> None:
    put(
        host,
        "deaf",
        "ExecStart=/bin/sh -c 'trap \"\" TERM; touch /run/deaf; while :; do sleep 1; done'\nTimeoutStopSec=1",
    )
    host.run(["systemctl", "start", "deaf"])
    host.wait(["ls", "/run/deaf"])
    pid = show(host, "deaf", "MainPID")
    host.run(["systemctl", "stop", "deaf"])
    assert not is_alive(host, pid)
    assert "ignored SIGTERM: killed" in host.run(["journalctl", "-u", "deaf"]).stdout


@pytest.mark.parametrize(("mode", "survives"), [("control-group", False), ("mixed", False), ("process", True)])
def test_what_a_service_left_in_the_background(host: Host, mode: str, survives: bool) -> None:
    script = f"(setsid sleep 1111 & echo $! >/run/left-{mode}); exec sleep infinity"
    put(host, f"left-{mode}", f"ExecStart=/bin/sh -c '{script}'\nKillMode={mode}")
    host.run(["systemctl", "start", f"left-{mode}"])
    pid = host.wait(["cat", f"/run/left-{mode}"]).strip()
    assert is_alive(host, pid)
    host.run(["systemctl", "stop", f"left-{mode}"])
    assert is_alive(host, pid) == survives


def test_forking(host: Host) -> None:
    put(
        host,
        "forks",
        "Type=forking\nPIDFile=/run/forks.pid\nExecStart=/bin/sh -c 'sleep 2222 & echo $! >/run/forks.pid'",
    )
    host.run(["systemctl", "start", "forks"])
    pid = host.read("/run/forks.pid").strip()
    assert show(host, "forks", "MainPID") == pid
    host.run(["kill", pid])
    wait_for(host, "forks", "ActiveState", "inactive")


def test_environment_and_drop_ins(host: Host) -> None:
    host.write("/etc/default/words", "# a comment\nTWO=\"b  c\"\nARGS=--x=1 --y='2 3'\n")
    put(
        host,
        "env@",
        "Type=oneshot\nEnvironment=ONE=a 'SPACE=x y'\nEnvironmentFile=/etc/default/words\nEnvironmentFile=-/nosuch\n"
        "ExecStart=/bin/false",
    )
    host.write(
        "/etc/systemd/system/env@.service.d/10-exec.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/printf '<%%s>' %i ${ONE} ${TWO} $SPACE \\\n  $ARGS $NOTHING end\n",
    )
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "start", "env@host"])
    assert host.run(["journalctl", "-u", "env@host"]).stdout == "<host><a><b  c><x><y><--x=1><--y=2 3><end>\n"


def test_order_and_dependencies(host: Host) -> None:
    for name, unit in (
        ("c", "Requires=b.service\nAfter=b.service"),
        ("b", "Wants=a.service\nAfter=a.service"),
        ("a", ""),
    ):
        put(host, name, f"Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo {name} >>/run/order'", unit)
    host.run(["systemctl", "start", "c"])
    assert host.read("/run/order").split() == ["a", "b", "c"]
    host.run(["systemctl", "stop", "b"])
    assert [show(host, name, "ActiveState") for name in "abc"] == ["active", "inactive", "inactive"]
    put(host, "needy", "ExecStart=/bin/sleep infinity", "Requires=broken.service\nAfter=broken.service")
    put(host, "broken", "Type=oneshot\nExecStart=/bin/false")
    done = host.run(["systemctl", "start", "needy"], check=False)
    assert done.returncode == 1
    assert "A dependency job for needy.service failed" in done.stderr


def test_pre_post_and_reload(host: Host) -> None:
    put(
        host,
        "phases",
        "ExecStartPre=/bin/sh -c 'echo pre >>/run/phases'\nExecStart=/bin/sleep infinity\n"
        "ExecStartPost=/bin/sh -c 'echo post $MAINPID >>/run/phases'\n"
        "ExecReload=/bin/sh -c 'echo reload $MAINPID >>/run/phases'\n"
        "ExecStop=/bin/sh -c 'echo stop $MAINPID >>/run/phases'\nExecStopPost=/bin/sh -c 'echo over >>/run/phases'",
    )
    host.run(["systemctl", "start", "phases"])
    pid = show(host, "phases", "MainPID")
    host.run(["systemctl", "reload", "phases"])
    host.run(["systemctl", "stop", "phases"])
    assert host.read("/run/phases").splitlines() == ["pre", f"post {pid}", f"reload {pid}", f"stop {pid}", "over"]
    assert code(host, "reload", "phases") == 1


def test_a_changed_file_counts_after_daemon_reload(host: Host) -> None:
    path = Path("/etc/systemd/system/changed.service")
    put(host, "changed", "Type=oneshot\nExecStart=/bin/echo old")
    host.run(["systemctl", "start", "changed"])
    host.write(str(path), "[Service]\nType=oneshot\nExecStart=/bin/echo new\n")
    assert "daemon-reload" in host.run(["systemctl", "start", "changed"]).stderr
    assert show(host, "changed", "NeedDaemonReload") == "yes"
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "start", "changed"])
    assert host.run(["journalctl", "-u", "changed"]).stdout.split() == ["old", "old", "new"]


def test_conditions_and_masks(host: Host) -> None:
    put(host, "maybe", "Type=oneshot\nExecStart=/bin/touch /run/maybe", "ConditionPathExists=!/etc/hostname")
    assert code(host, "start", "maybe") == 0
    assert host.run(["ls", "/run/maybe"], check=False).returncode != 0
    host.run(["systemctl", "mask", "cloud.service"])
    assert host.run(["systemctl", "is-enabled", "cloud"], check=False).stdout == "masked\n"
    assert "masked" in host.run(["systemctl", "start", "cloud"], check=False).stderr
    host.run(["systemctl", "unmask", "cloud.service"])
    assert code(host, "is-enabled", "cloud") == 1


def test_enable_and_timer(host: Host) -> None:
    put(host, "wanted", "ExecStart=/bin/sleep infinity")
    assert host.run(["systemctl", "is-enabled", "wanted"], check=False).stdout == "disabled\n"
    host.run(["systemctl", "enable", "--now", "wanted"])
    assert code(host, "is-enabled", "-q", "wanted") == code(host, "is-active", "-q", "wanted") == 0
    host.run(["systemctl", "disable", "--now", "wanted"])
    assert code(host, "is-enabled", "-q", "wanted") == 1
    assert code(host, "is-active", "-q", "wanted") == 3
    host.write("/etc/systemd/system/tick.timer", "[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n")
    host.run(["systemctl", "enable", "--now", "tick.timer"])
    assert "tick.timer tick.service" in host.run(["systemctl", "list-timers"]).stdout


def test_a_unit_that_starts_another_is_not_its_owner(host: Host) -> None:
    put(host, "inner", "ExecStart=/bin/sleep infinity")
    put(host, "outer", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/systemctl start inner")
    host.run(["systemctl", "start", "outer"])
    host.run(["systemctl", "stop", "outer"])
    assert code(host, "is-active", "-q", "inner") == 0


def test_a_long_start_can_be_stopped(host: Host) -> None:
    put(host, "long", "Type=oneshot\nExecStart=/bin/sleep infinity")
    host.run(["systemctl", "start", "--no-block", "long"])
    wait_for(host, "long", "ActiveState", "activating")
    host.run(["systemctl", "stop", "long"])
    assert show(host, "long", "ActiveState") == "inactive"
