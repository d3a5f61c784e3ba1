"""Cached entries that somebody changed after they were made: noticed, put away and made again."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.core import progress
from pipeline.core.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLOCK_OF_FILES = 5  # CLOCK_REALTIME_COARSE: the kernel takes a file's times from it (clock_gettime(2))


def not_called(path: Path) -> None:
    raise AssertionError(f"made again in {path}")


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / ".tmp").iterdir()]


def same_times(path: Path) -> Callable[[], None]:
    """Return what gives a file back the times that it has now."""
    status = path.stat()
    return lambda: os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_content(data: Path) -> None:
    """As many bytes, at the same time, in place."""
    restore = same_times(data / "sub/deep")
    with (data / "sub/deep").open("r+b") as stream:
        stream.write(b"X")
    restore()


def replaced(data: Path) -> None:
    """Another file that looks the same."""
    shutil.copy2(data / "made", data / "copy")
    (data / "copy").replace(data / "made")
    os.utime(data, ns=(0, 0))


def cut_short(data: Path) -> None:
    os.truncate(data / "made", 3)


def emptied(data: Path) -> None:
    restore = same_times(data / "made")
    os.truncate(data / "made", 0)
    restore()


def removed(data: Path) -> None:
    (data / "sub/deep").unlink()


def added(data: Path) -> None:
    restore = same_times(data / "sub")
    (data / "sub/more").write_text("")
    restore()


def renamed(data: Path) -> None:
    (data / "made").rename(data / "make")


def other_mode(data: Path) -> None:
    (data / "made").chmod(0o4755)


def other_target(data: Path) -> None:
    (data / "link").unlink()
    (data / "link").symlink_to("deep")


def linked_again(data: Path) -> None:
    """Through the second name the file can be changed where nobody looks."""
    (data / "sub/again").hardlink_to(data / "made")
    (data / "sub/again").unlink()


def no_directory(data: Path) -> None:
    shutil.rmtree(data / "sub")


def copied(data: Path) -> None:
    shutil.copytree(data, data.with_name("copy"), symlinks=True)
    shutil.rmtree(data)
    data.with_name("copy").rename(data)


def no_fingerprint(data: Path) -> None:
    """As an earlier version wrote it."""
    meta = json.loads((data.parent / "meta.json").read_text())
    del meta["fingerprint"]
    (data.parent / "meta.json").write_text(json.dumps(meta))


def tree(path: Path) -> None:
    (path / "made").write_text("content")
    (path / "sub").mkdir()
    (path / "sub/deep").write_text("some text")
    (path / "link").symlink_to("made")


TAMPERING = (
    other_content, replaced, cut_short, emptied, removed, added, renamed, other_mode, other_target, linked_again,
    no_directory, copied, no_fingerprint,
)  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERING)
def test_a_changed_entry_is_made_again(tmp_path: Path, tamper: Callable[[Path], None]) -> None:
    log = tmp_path / "log"
    with Cache(tmp_path / "cache") as store:
        data = store.obtain("base", {"n": 1}, tree).path
    while time.clock_gettime_ns(CLOCK_OF_FILES) <= (data / "sub/deep").stat().st_ctime_ns:
        pass  # a change within the tick of the clock in which the file was made has the same time
    tamper(data)
    with progress.session(log), Cache(tmp_path / "cache") as store:
        again = store.obtain("base", {"n": 1}, tree)
        assert not again.hit
        assert (again.path / "made").read_text() == "content"
        assert (again.path / "sub/deep").read_text() == "some text"
        assert store.obtain("base", {"n": 1}, not_called).hit
        assert left_over(tmp_path / "cache") == []
    assert f"base: the cached entry {again.key[:12]} is damaged; it is made again" in log.read_text()


def test_what_does_not_change_an_entry(tmp_path: Path) -> None:
    """Reading it, looking at the list, a move of the whole cache."""
    with Cache(tmp_path / "cache") as store:
        data = store.obtain("base", {"n": 1}, tree).path
    assert (data / "sub/deep").read_text() == "some text"
    (tmp_path / "cache").rename(tmp_path / "moved")
    with Cache(tmp_path / "moved") as store:
        assert len(store.entries()) == 1
        assert store.obtain("base", {"n": 1}, not_called).hit


@pytest.mark.parametrize(("tamper", "is_noticed"), [(linked_again, False), (cut_short, True), (other_mode, True)])
def test_an_entry_whose_files_are_linked(tmp_path: Path, tamper: Callable[[Path], None], is_noticed: bool) -> None:
    def make(path: Path) -> None:
        (path / "sub").mkdir()
        (path / "made").write_text("content")

    with Cache(tmp_path) as store:
        data = store.obtain("layer", {}, make, linked=True).path
    if tamper is linked_again:
        (tmp_path / "name").hardlink_to(data / "made")
    else:
        tamper(data)
    with Cache(tmp_path) as store:
        assert store.obtain("layer", {}, make, linked=True).hit is not is_noticed


def test_a_changed_entry_that_is_in_use_stays_for_its_user(tmp_path: Path) -> None:
    with Cache(tmp_path) as user:
        data = user.obtain("base", {}, tree).path
        before = os.open(data, os.O_RDONLY)
        other_mode(data)
        with Cache(tmp_path) as store:
            assert not store.obtain("base", {}, tree).hit
        os.close(os.open("sub/deep", os.O_RDONLY, dir_fd=before))
        assert len(left_over(tmp_path)) == 1
        os.close(before)
    with Cache(tmp_path):
        assert left_over(tmp_path) == []
