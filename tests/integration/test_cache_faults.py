"""The content cache under real faults: concurrent builds, kill -9, a full disk, mounts and odd files.

Every other build is a real process that is led step by step over pipes; nothing sleeps.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.cache import Cache
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 30.0  # seconds; only a test that fails gets there
NOBODY = 65534

BUILD = """
import os, sys
from pathlib import Path
from pipeline.core.cache import Cache

def tell(word):
    print(word, flush=True)

def told():
    return sys.stdin.readline().strip()

def make(path):
    (path / "made").write_text(str(os.getpid()))
    tell("making")
    if told() == "fail":
        raise SystemExit("as told")

root, how = Path(sys.argv[1]), sys.argv[2]
with Cache(root) as cache:
    if how == "workspace":
        with cache.workspace() as path:
            (path / "file").write_text("x")
            tell(path)
            told()
    else:
        entry = cache.obtain("base", {"n": 1}, make, fresh=how == "fresh")
        before = os.open(entry.path, os.O_RDONLY)  # as a mount has it: the directory, not its name
        tell("hit" if entry.hit else "made")
        told()
        tell(os.read(os.open("made", os.O_RDONLY, dir_fd=before), 99).decode())
        told()
"""


class Build:
    """Another process that uses the same cache."""

    def __init__(self, root: Path, how: str = "obtain") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BUILD, root, how],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watchdog = threading.Timer(DEADLINE, self.process.kill)
        self.watchdog.start()

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def complains(self, text: str) -> None:
        """Read its standard error up to a line that holds this text."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if text in line:
                return
        raise AssertionError(f"never said {text!r}: {lines}")

    def tell(self, word: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.watchdog.cancel()
        self.watchdog.join()  # a later fork wants no other thread
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def build(root: Path, how: str = "obtain") -> Iterator[Build]:
    running = Build(root, how)
    try:
        yield running
    finally:
        running.end()


def made_by(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        (path / "made").write_text(text)

    return make


def not_called(path: Path) -> None:
    raise AssertionError(f"made again in {path}")


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / ".tmp").iterdir()]


def test_two_builds_at_once_make_it_once(tmp_path: Path) -> None:
    with build(tmp_path) as first:
        assert first.hears() == "making"
        with build(tmp_path) as second:
            second.complains("base: another build is making the same; waiting for it")
            first.tell()
            assert first.hears() == "made"
            assert second.hears() == "hit"
            second.tell()
            assert second.hears() == str(first.process.pid)


def test_another_key_does_not_wait(tmp_path: Path) -> None:
    with build(tmp_path) as first:
        assert first.hears() == "making"
        with Cache(tmp_path) as store:
            assert not store.obtain("base", {"n": 2}, made_by("me")).hit
            assert not store.obtain("tree", {"n": 1}, made_by("me")).hit


def test_kill_while_making(tmp_path: Path) -> None:
    with build(tmp_path) as other:
        assert other.hears() == "making"
        other.kill()
    assert len(left_over(tmp_path)) == 1
    with Cache(tmp_path) as store:
        assert left_over(tmp_path) == []
        assert store.entries() == ()
        assert (store.obtain("base", {"n": 1}, made_by("me")).path / "made").read_text() == "me"


@pytest.mark.parametrize("ending", ["killed", "failed"])
def test_who_waits_takes_over(tmp_path: Path, ending: str) -> None:
    with build(tmp_path) as first:
        assert first.hears() == "making"
        with build(tmp_path) as second, build(tmp_path) as third:
            second.complains("waiting for it")
            third.complains("waiting for it")
            first.kill() if ending == "killed" else first.tell("fail")
            second.tell()  # whichever of them takes over may go on at once
            third.tell()
            words = [(other.hears(), other.hears()) for other in (second, third)]
            assert sorted(word for word, _ in words) == ["hit", "making"]
            assert len(left_over(tmp_path)) == 0


def test_what_another_process_uses_is_not_evicted(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {"n": 1}, made_by("me"))
    with build(tmp_path) as other:
        assert other.hears() == "hit"
        with Cache(tmp_path, limit=1) as store:
            store.obtain("base", {"n": 2}, made_by("me"))
            store.clear()
            assert [entry.inputs["n"] for entry in store.entries()] == [1, 2]
        other.kill()
        with Cache(tmp_path, limit=1) as store:
            store.obtain("base", {"n": 3}, made_by("me"))
            assert [entry.inputs["n"] for entry in store.entries()] == [3]


def test_fresh_while_another_process_uses_the_old(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {"n": 1}, made_by("old"))
    with build(tmp_path) as other:
        assert other.hears() == "hit"
        with Cache(tmp_path) as store:
            new = store.obtain("base", {"n": 1}, made_by("new"), fresh=True)
            assert (new.path / "made").read_text() == "new"
        with Cache(tmp_path) as store:
            store.clear()
        other.tell()
        assert other.hears() == "old"
        assert len(left_over(tmp_path)) == 1
    with Cache(tmp_path):
        assert left_over(tmp_path) == []


def test_killed_while_replacing_keeps_the_old(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {"n": 1}, made_by("old"))
    with build(tmp_path, "fresh") as other:
        assert other.hears() == "making"
        other.kill()
    with Cache(tmp_path) as store:
        assert (store.obtain("base", {"n": 1}, not_called).path / "made").read_text() == "old"
        assert left_over(tmp_path) == []


def test_workspaces_of_the_living_stay_and_of_the_dead_go(tmp_path: Path) -> None:
    with build(tmp_path, "workspace") as other:
        path = Path(other.hears())
        with Cache(tmp_path) as store:
            store.clear()
            assert (path / "file").exists()
        other.kill()
        with Cache(tmp_path):
            assert not path.exists()


def churn(root: Path, seed: int, failures: multiprocessing.SimpleQueue[str]) -> None:
    for turn in range(30):
        number = (turn * 7 + seed * 3) % 4
        with Cache(root, limit=10_000) as store:
            entry = store.obtain("base", {"n": number}, made_by(str(number)))
            store.obtain("tree", {"n": number}, made_by(str(number)))
            if turn % 5 == seed:
                store.clear()
            if (entry.path / "made").read_text() != str(number):
                failures.put(f"{entry.path} is not {number}")
    failures.put("")


def test_many_builds_with_a_cache_that_is_too_small(tmp_path: Path) -> None:
    """Evicting, making and finding the same few entries at once: none is seen half made, or lost while used."""
    context = multiprocessing.get_context("fork")
    failures: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    children = [context.Process(target=churn, args=(tmp_path, seed, failures), daemon=True) for seed in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(DEADLINE)
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert [failures.get() for _ in children] == [""] * 4
    with Cache(tmp_path):
        assert left_over(tmp_path) == []


def privately(script: str, *arguments: Path | str) -> list[str]:
    """Run a Python script in a mount namespace of its own; returns the lines it printed."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not make a mount namespace")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", script, *arguments],
        check=False, capture_output=True, text=True, cwd=REPOSITORY, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FULL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
from pipeline.core import process
from pipeline.core.cache import Cache
from pipeline.core.errors import StorageError

disk, how = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "small", disk], check=True)

def write(path):
    (path / "file").write_bytes(os.urandom(8 * 2**20))

def tool(path):
    process.run(["dd", "if=/dev/zero", f"of={path}/file", "bs=1M", "count=8"])

def inodes(path):
    for number in range(300):
        (path / str(number)).write_text("")

def nested(path):
    cache.obtain("inner", {}, write)

def small(path):
    (path / "file").write_bytes(b"x" * 2**20)

with Cache(disk / "cache") as cache:
    cache.obtain("base", {"n": 1}, small)
with Cache(disk / "cache") as cache:
    try:
        if how == "workspace":
            with cache.workspace() as path:
                write(path)
        else:
            cache.obtain("base", {"n": 2}, globals()[how])
    except StorageError as error:
        print(json.dumps([error.message, error.hint]))
    print(json.dumps([os.listdir(disk / "cache/.tmp"), [entry.inputs for entry in cache.entries()]]))
    again = cache.obtain("base", {"n": 2}, small)
    print(json.dumps([again.hit, sorted(entry.inputs["n"] for entry in cache.entries())]))
"""


@pytest.mark.parametrize("how", ["write", "tool", "inodes", "nested", "workspace"])
def test_full_disk(tmp_path: Path, how: str) -> None:
    told, left, after = (json.loads(line) for line in privately(FULL_DISK, tmp_path, how))
    message, hint = told
    doing = {"nested": "making inner", "workspace": "working"}.get(how, "making base")
    assert message.startswith(f"no space left while {doing}: "), message
    assert message.count("no space left") == 1
    assert f"on {tmp_path} (small), which holds {tmp_path}/cache" in message
    if how != "inodes":
        assert "0.0 MiB free" in message
    assert "./invoke clean --cache" in hint
    assert left == [[], [{"n": 1}]]
    assert after == [False, [1, 2]]


RESERVE = """
import json, subprocess, sys
from pathlib import Path
from pipeline.core.cache import Cache

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", disk], check=True)

def make(path):
    (path / "file").write_bytes(b"x" * 2_700_000)

for number in (1, 2, 3):
    with Cache(disk / "cache") as cache:
        cache.obtain("base", {"n": number}, make)
        print(json.dumps([entry.inputs["n"] for entry in cache.entries()]))
"""


def test_eviction_keeps_a_reserve_on_the_disk(tmp_path: Path) -> None:
    """Three entries fit on the disk, but leave less than a twentieth of it free."""
    assert privately(RESERVE, tmp_path) == ["[1]", "[1, 2]", "[2, 3]"]


STILL_MOUNTED = """
import subprocess, sys
from pathlib import Path
from pipeline.core.cache import Cache

root, precious = Path(sys.argv[1]), Path(sys.argv[2])

def make(path):
    point = path / "mount point"
    point.mkdir()
    subprocess.run(["mount", "--bind", precious, point], check=True)
    raise ValueError("stop")

with Cache(root) as cache:
    try:
        cache.obtain("base", {}, make)
    except ValueError as error:
        print(error)
    cache.clear()
"""


def test_what_is_mounted_below_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("of the host")
    assert privately(STILL_MOUNTED, tmp_path / "cache", tmp_path / "precious") == ["stop"]
    assert (tmp_path / "precious" / "file").read_text() == "of the host"
    with Cache(tmp_path / "cache"):  # the mount ended with its namespace
        assert left_over(tmp_path / "cache") == []


def odd_tree(path: Path) -> None:
    """Fill a directory with what trees and overlay layers hold, as far as this user may."""
    (path / "closed").mkdir()
    (path / "closed" / "file").write_text("x")
    (path / "closed" / "inner").mkdir()
    (path / "closed" / "inner" / "dangling").symlink_to("/nonexistent")
    (path / "closed" / "outward").symlink_to("/")
    os.mkfifo(path / "fifo")
    if os.geteuid() == 0:
        os.mknod(path / "whiteout", 0o020000, os.makedev(0, 0))
        os.mknod(path / "console", 0o020600, os.makedev(5, 1))
        os.chown(path / "closed" / "file", 1234, 4321)
        os.chown(path / "closed", 1234, 4321)
    (path / "closed" / "inner").chmod(0)
    (path / "closed").chmod(0o500 if os.geteuid() else 0)
    path.chmod(0o555)


def cycle_of_an_odd_tree(root: Path) -> None:
    """Publish, find, replace, fail and clear such a tree."""

    def fail(path: Path) -> None:
        odd_tree(path)
        raise ValueError("as told")

    with Cache(root) as store:
        made = store.obtain("base", {}, odd_tree)
        assert (made.path / "closed" / "file").read_text() == "x"
        with pytest.raises(ValueError, match="as told"):
            store.obtain("base", {}, fail, fresh=True)
        assert store.obtain("base", {}, not_called).hit
    with Cache(root) as store:
        store.obtain("base", {}, odd_tree, fresh=True)
        assert left_over(root) == []
    with Cache(root) as store:
        assert store.clear() > 0
        assert store.entries() == ()
        assert left_over(root) == []
    assert Path("/etc/passwd").exists()


def test_odd_trees(tmp_path: Path) -> None:
    cycle_of_an_odd_tree(tmp_path)


USER = """
import sys
from pathlib import Path
from pipeline.core.cache import Cache

def make(path):
    (path / "file").write_text("x")

with Cache(Path(sys.argv[1])) as cache:
    entry = cache.obtain("base", {}, make)
    print(entry.hit, cache.entries()[0].kind, entry.path.stat().st_uid)
"""


def test_owners_look_different_from_inside_of_a_user_namespace(tmp_path: Path) -> None:
    inside = ["unshare", "--user", "--map-user=12345"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this user may not make a user namespace")
    script = [sys.executable, "-c", USER, str(tmp_path)]
    said = [
        subprocess.run([*wrapper, *script], check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        for wrapper in (inside, [], inside)
    ]
    assert [done.stdout.split() for done in said] == [
        ["False", "base", "12345"], ["True", "base", str(os.geteuid())], ["True", "base", "12345"],
    ]  # fmt: skip


def as_nobody(act: Callable[[Path], None], root: Path, sender: multiprocessing.connection.Connection) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        act(root)
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
        raise
    sender.send("")


@contextmanager
def directory_of_nobody() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))  # tmp_path is closed to others
    try:
        os.chown(place, NOBODY, NOBODY)
        yield place
    finally:
        shutil.rmtree(place)


def ordinary(act: Callable[[Path], None], root: Path) -> str:
    """Do something as an ordinary user in a forked process; returns the error it ended with, or nothing."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=as_nobody, args=(act, root, sender), daemon=True)
    child.start()
    assert receiver.poll(DEADLINE)
    said: str = receiver.recv()
    child.join(DEADLINE)
    return said


def test_odd_trees_of_an_ordinary_user() -> None:
    with directory_of_nobody() as place:
        assert ordinary(cycle_of_an_odd_tree, place / "cache") == ""


def open_only(root: Path) -> None:
    with Cache(root):
        pass


def test_a_cache_of_another_user_is_refused() -> None:
    """Else root would leave files in a user's cache (sudo keeps HOME) that the user can neither read nor remove."""
    with directory_of_nobody() as place:
        open_only(place / "of-root")
        place.joinpath("of-root").chmod(0o777)
        assert "it belongs to user 0" in ordinary(open_only, place / "of-root")
        assert ordinary(open_only, place / "own") == ""
        with pytest.raises(StorageError, match=f"it belongs to user {NOBODY}") as caught:
            open_only(place / "own")
        assert "XDG_CACHE_HOME" in caught.value.hint
