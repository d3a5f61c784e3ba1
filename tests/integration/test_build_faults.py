"""A build that is killed, interrupted or run twice: nothing is lost or left, and the same command gets to the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.cache import cache_root

ROOT = Path(__file__).resolve().parents[2]
NAME = "debian-12-amd64"
STEPS = ("base", "overlay", "boot", "boot loader", "seal", "disk", "compress", "manifest", "publish")
BUILD = """
import sys
from pathlib import Path
from pipeline import image, profile
from pipeline.core.arch import Architecture
plan = image.resolve(profile.find("debian", Path("osprofiles")), None, Architecture.AMD64, overlays=Path("overlays"))
print(image.outcome(image.build(plan, Path(sys.argv[1])), "next"))
"""

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a cache of its own that holds downloaded packages only."""
    directory = tmp_path_factory.mktemp("faults")
    packages, ours = cache_root() / "packages" / "deb", directory / "cache" / "node-images" / "packages" / "deb"
    ours.parent.mkdir(parents=True, mode=0o700)
    if packages.is_dir():
        shutil.copytree(packages, ours)
    return directory


def start(place: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(place / "build")],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(place / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(build: subprocess.Popen[str], step: str) -> None:
    assert build.stderr is not None
    seen = []
    for line in build.stderr:
        seen.append(line)
        if line.rstrip().endswith(f" {step} ..."):
            return
    pytest.fail(f"the build never came to {step}:\n" + "".join(seen))


def processes_of(session: int) -> list[str]:
    """Return the command lines of every process of a session that is still there; zombies do not count."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, owner = (directory / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append((directory / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def nothing_runs(session: int) -> bool:
    deadline = time.monotonic() + 10
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_of(session)


def leftovers(place: Path) -> list[Path]:
    return [*(place / "cache/node-images/.tmp").glob("*"), *(place / "build").glob(f".{NAME}.*")]


def is_whole(place: Path) -> bool:
    words = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    return subprocess.run(words, cwd=place / "build" / NAME, check=False).returncode == 0


def forget(place: Path) -> None:
    """Have the next build make the image again, from its cached steps."""
    (place / "build" / NAME / "manifest.json").write_text("{}")


def test_kill_9_in_every_step(place: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    loops = sorted(Path("/sys/block").glob("loop*/backing_file"))
    for step in STEPS:
        build = start(place)
        wait_for_step(build, step)
        build.kill()
        build.communicate()
        assert nothing_runs(build.pid), f"after a kill in {step}"
        assert Path("/proc/self/mounts").read_text() == mounts
        assert sorted(Path("/sys/block").glob("loop*/backing_file")) == loops
        assert not (place / "build" / NAME).exists() or is_whole(place)
    last = start(place)
    said, errors = last.communicate()
    assert last.returncode == 0, errors
    assert f"{NAME}.qcow2" in said
    assert is_whole(place)
    assert leftovers(place) == []


def test_ctrl_c_cleans_up_at_once(place: Path) -> None:
    forget(place)
    build = start(place)
    wait_for_step(build, "compress")
    os.killpg(build.pid, signal.SIGINT)
    build.communicate()
    assert build.returncode != 0
    assert nothing_runs(build.pid)
    assert leftovers(place) == []


def test_two_builds_of_one_image_at_once(place: Path) -> None:
    forget(place)
    first = start(place)
    wait_for_step(first, "base")
    second = start(place)
    said, errors = first.communicate()
    assert first.returncode == 0, errors
    assert "is up to date" not in said
    said, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "another build of" in errors
    assert "is up to date" in said
    assert is_whole(place)
    assert leftovers(place) == []
