"""A build that is killed, interrupted or run twice: nothing is lost or left, and the same command gets to the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration import builds, processes
from tests.integration.builds import Project, Running
from tests.integration.conftest import Primed

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]

# The end of a line of progress, or a text in the log, that says that the build is there.
MOMENTS = (
    ("base", "log", "Unpacking "),
    ("base", "log", "Setting up "),
    ("overlay", "line", "10-tiny.sh ..."),
    ("boot", "line", " boot ..."),
    ("boot", "log", "update-initramfs: Generating"),
    ("boot loader", "line", " boot loader ..."),
    ("seal", "line", " seal ..."),
    ("disk", "line", " disk ..."),
    ("disk", "log", "$ mke2fs"),
    ("compress", "line", " compress ..."),
    ("manifest", "line", " manifest ..."),
    ("publish", "line", " publish ..."),
)


@contextmanager
def begun(project: Project) -> Iterator[Running]:
    """Start a build, and end it with the context."""
    project.log.unlink(missing_ok=True)
    running = project.start()
    try:
        yield running
    finally:
        running.stop()


def get_to(running: Running, how: str, text: str) -> None:
    (running.wait_for_log if how == "log" else running.wait_for)(text)


def strays() -> set[Path]:
    """Return what tools leave in the machine's directory for temporary files if they are killed."""
    return {path for pattern in ("apt-*", "mmdebstrap*", "*.deb") for path in Path("/tmp").glob(pattern)}


class Machine:
    """What the machine must look like after a build as it did before."""

    def __init__(self) -> None:
        self.before = (processes.mounts(), processes.loop_devices(), strays())

    def check(self, seen: list[processes.Process], session: int) -> None:
        """Wait until a build's processes are gone, then look for what they might have left."""
        processes.wait_until_gone(seen)
        processes.wait_until_gone(processes.in_session(session))
        assert (processes.mounts(), processes.loop_devices(), strays()) == self.before


def test_kill_9_in_every_step(cold: Project, primed: Primed) -> None:
    """From an empty cache, with an older image in place; at last the same command makes the same bytes as ever."""
    for package in (cold.cache / "node-images/packages/deb").glob("zstd_*.deb"):
        package.unlink()
        package.write_bytes(b"cut short")
    cold.published.parent.mkdir()
    subprocess.run(["cp", "-a", primed.project.published, cold.published.parent], check=True)
    # An image of other inputs, which is whole.
    (cold.published / "manifest.json").write_text('{"key": "another"}')
    _sum_up(cold.published)
    machine = Machine()
    for step, how, text in MOMENTS:
        with begun(cold) as running:
            get_to(running, how, text)
            seen = processes.descendants(running.process.pid)
            assert seen, f"{step}: no worker"
            running.process.kill()
            machine.check(seen, running.process.pid)
            assert running.end()[0] == -signal.SIGKILL, step
        builds.check_published(cold.published)
    status, _, err = cold.build()
    assert status == 0, err
    builds.check_published(cold.published)
    assert cold.in_the_way() == []
    assert cold.image_sha256() == primed.project.image_sha256()


def _sum_up(directory: Path) -> None:
    files = sorted(file.name for file in directory.iterdir() if file.name != "SHA256SUMS")
    done = subprocess.run(["sha256sum", *files], cwd=directory, check=True, capture_output=True, text=True)
    (directory / "SHA256SUMS").write_text(done.stdout)


def test_a_terminal_that_is_closed_leaves_nothing_running(project: Project) -> None:
    project.write("overlays/tiny/root/etc/motd", "closed\n")
    machine = Machine()
    with begun(project) as running:
        running.wait_for("10-tiny.sh ...")
        seen = processes.descendants(running.process.pid)
        running.process.send_signal(signal.SIGHUP)
        machine.check(seen, running.process.pid)
    assert project.build()[0] == 0
    assert project.in_the_way() == []


@pytest.mark.parametrize(
    ("how", "text", "whole_group"),
    [
        ("log", "Unpacking ", True),
        ("line", "10-tiny.sh ...", True),
        ("line", "10-tiny.sh ...", False),
        ("log", "$ mke2fs", True),
        ("line", " compress ...", True),
    ],
    ids=["Ctrl-C in base", "Ctrl-C in overlay", "kill -INT in overlay", "Ctrl-C in disk", "Ctrl-C in compress"],
)
def test_an_interrupted_build_cleans_up_at_once(
    cold: Project, primed: Primed, how: str, text: str, whole_group: bool
) -> None:
    if text != "Unpacking ":
        builds.copy_entries(primed.cache, cold.cache, "base", "initramfs")
    machine = Machine()
    with begun(cold) as running:
        get_to(running, how, text)
        seen = processes.descendants(running.process.pid)
        if whole_group:
            os.killpg(running.process.pid, signal.SIGINT)
        else:
            running.process.send_signal(signal.SIGINT)
        status, out, err = running.end()
        assert status == 130
        assert (out, err.splitlines()[-1]) == ("", "error: interrupted")
        assert "Traceback" not in err
        machine.check(seen, running.process.pid)
    assert cold.in_the_way() == []
    assert not cold.published.exists()


def test_two_builds_of_one_image_at_once_make_it_once(project: Project) -> None:
    project.write("overlays/tiny/root/etc/motd", "two at once\n")
    with begun(project) as first, begun(project) as second:
        results = [first.end(), second.end()]
    assert [status for status, _, _ in results] == [0, 0]
    (made, found) = sorted(results, key=lambda result: "is up to date" in result[1])
    assert "is up to date" not in made[1]
    assert "is up to date" in found[1]
    assert "is running; waiting for it" in found[2]
    builds.check_published(project.published)
    assert project.in_the_way() == []


def test_builds_of_two_checkouts_at_once_share_their_steps(project: Project, primed: Primed, tmp_path: Path) -> None:
    other = Project(tmp_path / "other", primed.cache)
    for checkout in (project, other):
        checkout.write("overlays/tiny/root/etc/motd", "two checkouts\n")
    with begun(project) as first, begun(other) as second:
        results = [first.end(), second.end()]
    assert [status for status, _, _ in results] == [0, 0]
    said = "\n".join(err for _, _, err in results)
    assert said.count("10-tiny.sh ...") == 1
    assert "overlay: another build is making the same; waiting for it" in said
    assert project.image_sha256() == other.image_sha256()


def test_a_build_goes_on_when_the_one_it_waits_for_is_killed(project: Project) -> None:
    project.write("overlays/tiny/root/etc/motd", "killed while waited for\n")
    with begun(project) as first:
        first.wait_for("10-tiny.sh ...")
        with begun(project) as second:
            second.wait_for("is running; waiting for it")
            first.process.kill()
            status, out, err = second.end()
    assert status == 0, err
    assert "is up to date" not in out
    builds.check_published(project.published)
    assert project.in_the_way() == []


def test_what_changes_while_it_is_built_is_not_cached_for_what_it_was(project: Project) -> None:
    script = project.write("overlays/tiny/scripts/20-more.sh", builds.SCRIPT.replace("tiny.done", "motd"), mode=0o755)
    before = list((project.cache / "node-images/overlay").iterdir())
    with begun(project) as running:
        running.wait_for("20-more.sh ...")
        script.write_text(script.read_text() + "# edited\n")
        status, _, err = running.end()
    assert status == 2
    assert "overlays/tiny has changed since the build began" in err
    assert "run the same command again" in err
    assert list((project.cache / "node-images/overlay").iterdir()) == before
    assert project.build()[0] == 0
