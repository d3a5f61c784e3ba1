"""./invoke on first use, as a user meets it: in copies of this checkout, with real environments made in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import quality

SET_UP_SECONDS = 600
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
NO_SUCH = "no-such-package-of-node-images"
STAMP = Path(".venv", "set-up-from")


def copy_checkout(target: Path) -> Path:
    for path in quality.tracked_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(quality.ROOT / path, target / path)
    return target


def start(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ./invoke from another directory, as the leader of a session of its own."""
    return subprocess.Popen(
        [checkout / "invoke", *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(running: subprocess.Popen[str]) -> str:
    """Wait for a ./invoke --list; returns what it said on standard error."""
    out, said = running.communicate(timeout=SET_UP_SECONDS)
    assert running.returncode == 0, said
    assert "lint" in out
    return said


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + SET_UP_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def say_what_is_missing(checkout: Path, *wrapper: str) -> tuple[int, str]:
    done = subprocess.run(
        [*wrapper, checkout / "invoke", "--list"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("front") / "a checkout")


@pytest.fixture
def readable() -> Iterator[Path]:
    """A copy that any user may read; pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield copy_checkout(Path(directory) / "a checkout")


@pytest.mark.slow
@pytest.mark.network
class TestFirstUse:
    """One copy, in the order of a checkout's life."""

    def test_two_first_uses_at_once_set_it_up_once(self, checkout: Path) -> None:
        both = [start(checkout, "--list"), start(checkout, "--list")]
        said = "".join(finish(running) for running in both)
        assert said.count("making .venv on Python 3.") == 1
        assert said.count("this checkout is set up") >= 1

    def test_the_bindings_of_the_system_are_there(self, checkout: Path) -> None:
        subprocess.run([checkout / ".venv/bin/python", "-I", "-c", "import guestfs, pydantic"], check=True)

    def test_plain_invoke_in_the_environment_is_the_same(self, checkout: Path) -> None:
        done = subprocess.run(
            [checkout / ".venv/bin/invoke", "--list"], cwd=checkout, capture_output=True, text=True, check=True
        )
        assert "lint" in done.stdout

    def test_a_later_use_sets_nothing_up(self, checkout: Path) -> None:
        made = (checkout / STAMP).stat().st_mtime_ns
        assert finish(start(checkout, "--list")) == ""
        assert (checkout / STAMP).stat().st_mtime_ns == made

    def test_a_link_to_it_works_from_anywhere(self, checkout: Path, tmp_path: Path) -> None:
        (tmp_path / "invoke").symlink_to(checkout / "invoke")
        assert finish(start(tmp_path, "--list")) == ""

    def test_changed_requirements_are_installed_into_the_same_environment(self, checkout: Path) -> None:
        with (checkout / "requirements.txt").open("a") as file:
            file.write("# changed\n")
        said = finish(start(checkout, "--list"))
        assert "installing requirements.txt" in said
        assert "making .venv" not in said

    def test_a_requirement_with_another_hash_is_refused(self, checkout: Path) -> None:
        requirements = checkout / "requirements.txt"
        good = requirements.read_text()
        requirements.write_text(good + f"\nsix==1.17.0 --hash=sha256:{'0' * 64}\n")
        running = start(checkout, "--list")
        _, said = running.communicate(timeout=SET_UP_SECONDS)
        requirements.write_text(good)
        assert running.returncode == 4
        assert "DO NOT MATCH THE HASHES" in said
        assert f"the full log is {checkout}/build/set-up.log" in said

    @pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["the script", "everything"])
    def test_one_that_was_killed_is_repeated(self, checkout: Path, kill: Callable[[int, int], None]) -> None:
        (checkout / STAMP).unlink(missing_ok=True)
        running = start(checkout, "--list")
        wait_for(checkout / ".venv" / "pyvenv.cfg")
        kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=SET_UP_SECONDS)
        assert not (checkout / STAMP).exists()
        finish(start(checkout, "--list"))
        assert finish(start(checkout, "--list")) == ""


@pytest.mark.root
class TestWithoutRoot:
    """What an ordinary user reads where nothing can be installed."""

    def test_the_exact_command_is_printed(self, readable: Path) -> None:
        with (readable / "pipeline/setup/apt.txt").open("a") as file:
            file.write(f"{NO_SUCH}  # a reason\n")
        code, said = say_what_is_missing(readable, *NOBODY)
        assert code == 3
        assert said == (
            f"error: packages are missing, and installing them needs root: {NO_SUCH}\n"
            f"hint: as root, run: apt-get update && apt-get install -y --no-install-recommends {NO_SUCH}\n"
        )
        assert not (readable / ".venv").exists()

    def test_a_checkout_of_someone_else_is_named(self, readable: Path) -> None:
        code, said = say_what_is_missing(readable, *NOBODY)
        assert code == 5
        assert said.startswith(f"error: {readable} is not set up yet, and you may not write to it\nhint: ")

    def test_a_kernel_is_asked_for_where_there_is_none(self, readable: Path) -> None:
        hide = 'mount -t tmpfs tmpfs /boot && exec "$@"'
        code, said = say_what_is_missing(readable, "unshare", "-m", "sh", "-c", hide, "sh", *NOBODY)
        if code == 5:
            pytest.skip("that kernel's package is installed here")
        assert code == 3
        assert "hint: as root, run: apt-get update && apt-get install" in said
        assert "linux-image-" in said

    def test_a_python_that_is_too_old_is_named(self, readable: Path, tmp_path: Path) -> None:
        old = tmp_path / "python3"
        old.write_text('#!/bin/sh\n[ "$1" != -V ] || { echo Python 3.9.2; exit; }\nexit 1\n')
        old.chmod(0o755)
        hide = f'mount --bind "{old}" "$(readlink -f /usr/bin/python3)" && exec "$@"'
        code, said = say_what_is_missing(readable, "unshare", "-m", "sh", "-c", hide, "sh")
        assert code == 3
        assert "error: /usr/bin/python3 is Python 3.9.2, too old: 3.11 or later is needed\nhint: use " in said
