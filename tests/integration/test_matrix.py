"""Many images at once with real builds: one that fails or is killed stops no other, and Ctrl-C ends all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.arch import Architecture
from tests.integration import builds, processes
from tests.integration.builds import Project, Running

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]
ARCH = Architecture.host()
BROKEN, NOWHERE = f"broken-1-{ARCH}", f"nowhere-1-{ARCH}"
FAILS = "#!/bin/bash\necho this one is broken\nexit 1\n"


def add_profile(project: Project, name: str, **changes: object) -> None:
    """Add a profile that is the small image's, but for some keys of its release."""
    data: dict[str, Any] = json.loads(json.dumps(project.data)) | {"name": name}
    data["releases"]["1"] |= changes
    project.write(f"osprofiles/{name}.yaml", yaml.safe_dump(data))


@pytest.fixture
def three(project: Project) -> Project:
    """A checkout with a good image, one whose overlay fails, and one whose packages are nowhere to be had."""
    add_profile(project, "broken", overlays=["tiny", "broken"])
    add_profile(project, "nowhere", base=project.release["base"] | {"suites": ["no-such-suite"]})
    project.write("overlays/broken/scripts/10-fail.sh", FAILS, mode=0o755)
    project.write("overlays/tiny/root/etc/motd", f"one of many in {project.directory}\n")
    return project


@contextmanager
def started(project: Project, *words: str, systems: str = "tiny,broken,nowhere") -> Iterator[Running]:
    """Run ./invoke matrix in a session of its own, and end it with the context."""
    argv = builds.command("matrix", "--os", systems, "--arch", str(ARCH), "-j", "2", *words)
    env = dict(os.environ) | {"XDG_CACHE_HOME": str(project.cache)}
    child = subprocess.Popen(
        argv, cwd=project.directory, env=env, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    running = Running(child, project.log)
    try:
        yield running
    finally:
        running.stop()


def run(project: Project, *words: str, systems: str = "tiny,broken,nowhere") -> tuple[int, str, str]:
    with started(project, *words, systems=systems) as running:
        return running.end()


def report(project: Project) -> dict[str, Any]:
    """Return the cells of matrix.json by name."""
    found = json.loads((project.build_dir / "matrix.json").read_text())
    assert found["schema"] == 1
    assert found["started"] < found["finished"]
    return {cell["name"]: cell for cell in found["cells"]}


def test_two_at_once_build_an_image_once(project: Project) -> None:
    project.write("overlays/tiny/root/etc/motd", f"one of two in {project.directory}\n")
    with started(project, systems="tiny") as one, started(project, systems="tiny") as other:
        ended = [running.end() for running in (one, other)]
    assert [status for status, _, _ in ended] == [0, 0], ended
    tables = " ".join(out for _, out, _ in ended)
    assert tables.count("1 built") == tables.count("1 up to date") == 1, tables
    builds.check_published(project.published)


def test_one_that_fails_stops_no_other(three: Project) -> None:
    status, out, err = run(three)
    cells = report(three)
    assert {name: cell["status"] for name, cell in cells.items()} == {
        builds.NAME: "built", BROKEN: "failed", NOWHERE: "failed",
    }  # fmt: skip
    assert status == 4 == max(cell["exit_code"] for cell in cells.values())
    builds.check_published(three.published)
    good, broken, nowhere = cells[builds.NAME], cells[BROKEN], cells[NOWHERE]
    assert good["size"] == (three.published / f"{builds.NAME}.qcow2").stat().st_size
    assert good["packages"] > 50
    assert [step["title"] for step in good["steps"] if step["depth"] == 0][-1] == "publish"
    assert "overlay" in [step["title"] for step in broken["steps"]]
    assert "10-fail.sh" in broken["error"]
    assert (nowhere["exit_code"], nowhere["steps"]) == (3, [])
    log = (three.build_dir / broken["log"]).read_text()
    assert "this one is broken" in log
    assert "no-such-suite" in (three.build_dir / nowhere["log"]).read_text()
    assert f"{three.build_dir}/logs/{BROKEN}.log" in out
    assert nowhere["hint"] in out
    assert "1 built, 2 failed" in out
    assert f"{builds.NAME}: begins" in err
    assert three.in_the_way() == []
    assert not list((three.build_dir / "logs").glob("*.out"))
    _what_is_there_is_left_out(three)


def _what_is_there_is_left_out(three: Project) -> None:
    assert run(three, "--only-missing")[0] == 4
    assert report(three)[builds.NAME]["status"] == "skipped"
    log = three.log.read_text()
    status, out, _ = run(three, systems="tiny")
    assert (status, report(three)[builds.NAME]["status"]) == (0, "up to date")
    assert "1 up to date" in out
    assert three.log.read_text() == log
    status, out, _ = run(three, "--only-missing", "--dry-run")
    assert [line.split()[0] for line in out.splitlines()] == [BROKEN, NOWHERE]


def test_one_that_is_killed_stops_no_other(three: Project) -> None:
    three.write("overlays/broken/scripts/10-fail.sh", "#!/bin/bash\nsleep 60\n", mode=0o755)
    with started(three, systems="tiny,broken") as running:
        running.log = three.build_dir / "logs" / f"{BROKEN}.log"
        running.wait_for_log("10-fail.sh")
        cells = [item for item in processes.descendants(running.process.pid) if item.parent == running.process.pid]
        (broken,) = [item for item in cells if b'"os":"broken"' in Path(f"/proc/{item.pid}/cmdline").read_bytes()]
        below = processes.descendants(broken.pid)
        os.kill(broken.pid, signal.SIGKILL)
        processes.wait_until_gone(below)
        status, out, _ = running.end()
    assert {name: cell["status"] for name, cell in report(three).items()} == {builds.NAME: "built", BROKEN: "failed"}
    assert status == 70
    assert f"the build of {BROKEN} ended without an answer (signal 9)" in out
    assert report(three)[BROKEN]["steps"]


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_nothing_is_left_when_it_is_stopped(three: Project, how: str) -> None:
    before = (processes.mounts(), processes.loop_devices())
    with started(three) as running:
        running.wait_for_log("10-tiny.sh")
        seen = processes.descendants(running.process.pid)
        assert {item.session for item in seen} - {running.process.pid}, "no cell"
        if how == "Ctrl-C":
            os.killpg(running.process.pid, signal.SIGINT)
        else:
            running.process.kill()
        status, out, err = running.end()
        processes.wait_until_gone(seen)
    assert (processes.mounts(), processes.loop_devices()) == before
    assert not (three.build_dir / "matrix.json").exists()
    if how == "Ctrl-C":
        assert (status, out, err.splitlines()[-1]) == (130, "", "error: interrupted")
        assert "Traceback" not in err
        assert three.in_the_way() == []
        assert not list((three.build_dir / "logs").glob("*.out"))
