"""A root file system as a directory: its digest, its times, its size.

Symbolic links are never followed: a tree may be a stranger's, and its absolute links point at the host.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError

CHUNK = 1 << 20
SHADOW = "etc/shadow"
LAST_CHANGE = 2  # field of a line: days since 1970
SECONDS_OF_A_DAY = 86400
# Bookkeeping of overlayfs that differs from run to run; "opaque" is the one mark that means something.
OVERLAY_BOOKKEEPING = tuple(f"{space}.overlay.{name}" for space in ("trusted", "user") for name in (
    "origin", "impure", "nlink", "uuid",
))  # fmt: skip


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every entry below a directory as (relative path, lstat), parents first, in sorted order."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(root / directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        below = []
        for entry in found:
            path = f"{directory}/{entry.name}" if directory else entry.name
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                below.append(path)
        pending.extend(reversed(below))


def digest(root: Path, *, ignore: Callable[[str], bool] = lambda _: False) -> str:
    """Return the sha256 (hexadecimal) of everything below a directory, except times.

    Args:
        root: the directory.
        ignore: whether to leave out an entry, given its relative path.
    """
    total = hashlib.sha256()
    for path, status in walk(root):
        if ignore(path):
            continue
        words = [path, oct(status.st_mode), str(status.st_uid), str(status.st_gid)]
        words += _content(root / path, status) + _attributes(root / path)
        total.update("\0".join(words).encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def _content(path: Path, status: os.stat_result) -> list[str]:
    if stat.S_ISREG(status.st_mode):
        return [file_sha256(path)]
    if stat.S_ISLNK(status.st_mode):
        return [str(path.readlink())]
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return [str(status.st_rdev)]
    return []


def _attributes(path: Path) -> list[str]:
    names = sorted(set(os.listxattr(path, follow_symlinks=False)) - set(OVERLAY_BOOKKEEPING))
    return [f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}" for name in names]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            total.update(chunk)
    return total.hexdigest()


def clamp_times(root: Path, epoch: int) -> None:
    """Set every modification time that is later than ``epoch`` (seconds since 1970) to it.

    So are the days on which passwords were changed last: useradd, passwd and pwconv write the clock's (shadow(5)).
    """
    _clamp_days(inside(root, SHADOW), epoch // SECONDS_OF_A_DAY)
    for path, status in [("", root.lstat()), *walk(root)]:
        if status.st_mtime > epoch and not _is_whiteout(status):
            os.utime(root / path, (epoch, epoch), follow_symlinks=False)


def _clamp_days(shadow: Path, day: int) -> None:
    if shadow.is_symlink() or not shadow.is_file():
        return
    before = shadow.read_bytes()
    lines = [line.split(b":") for line in before.split(b"\n")]
    for fields in lines:
        if len(fields) > LAST_CHANGE and fields[LAST_CHANGE].isdigit() and int(fields[LAST_CHANGE]) > day:
            fields[LAST_CHANGE] = str(day).encode()
    after = b"\n".join(b":".join(fields) for fields in lines)
    if after != before:
        with shadow.open("r+b") as stream:  # owner, permissions and attributes stay
            stream.write(after)
            stream.truncate()


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def remove_below(directory: Path) -> None:
    """Remove everything inside a directory but keep the directory; one that is missing is fine."""
    if not directory.is_dir() or directory.is_symlink():
        return
    for entry in list(os.scandir(directory)):
        if entry.is_dir(follow_symlinks=False):
            remove_below(Path(entry.path))
            Path(entry.path).rmdir()
        else:
            Path(entry.path).unlink()


def remove_files_below(directory: Path) -> None:
    """Remove everything inside a directory but its directories; one that is missing is fine."""
    if not directory.is_dir() or directory.is_symlink():
        return
    for path, status in list(walk(directory)):
        if not stat.S_ISDIR(status.st_mode):
            (directory / path).unlink()


def inside(root: Path, path: str) -> Path:
    """Return where a path of the tree is on the host, resolving the tree's links within the tree.

    An absolute link leads to the tree's root, and ``..`` never out of it, as chroot(2) would have it.

    Raises:
        PipelineError: a link leads to itself.
    """
    done = root
    pending = [part for part in path.split("/") if part]
    for _ in range(1000):
        if not pending:
            return done
        part = pending.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done if done == root else done.parent
            continue
        if (done / part).is_symlink():
            target = str((done / part).readlink())
            done = root if target.startswith("/") else done
            pending = [piece for piece in target.split("/") if piece] + pending
        else:
            done = done / part
    raise PipelineError(f"too many levels of symbolic links: {path} in {root}", hint="a link there leads to itself")


def write(root: Path, path: str, content: str | bytes, *, mode: int = 0o644) -> Path:
    """Put a file into a tree, below a directory that exists.

    What is there already is replaced: a link in its place is not followed, and other names of the file do not change.

    Args:
        root: the tree.
        path: where in the tree.
        content: what the file holds.
        mode: its permissions.

    Returns:
        Where it is on the host.
    """
    target = inside(root, str(Path(path).parent)) / Path(path).name
    target.unlink(missing_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(mode)
    return target
