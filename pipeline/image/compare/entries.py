"""Entries of a tree that is not on this machine's file system: where their bytes are, whoever holds them."""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.image import tree

CHUNK = 1 << 20
KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file, which lie in pieces in another file; between the pieces are zeros.

    Attributes:
        file: where they lie.
        size: how many there are.
        pieces: (place in the content, place in the file, length), in bytes and in order.
    """

    file: Path
    size: int
    pieces: tuple[tuple[int, int, int], ...]

    def chunks(self, stream: IO[bytes]) -> Iterator[bytes]:
        """Yield the content from its opened file, in pieces of 1 MiB; the last one may be shorter."""
        pieces, number = self.pieces, 0
        for start in range(0, self.size, CHUNK):
            length = min(CHUNK, self.size - start)
            while number < len(pieces) and pieces[number][0] + pieces[number][2] <= start:
                number += 1
            yield self._read(stream.fileno(), start, length, number)

    def _read(self, descriptor: int, start: int, length: int, number: int) -> bytes:
        found, end = bytearray(length), start + length
        for at, place, size in self.pieces[number:]:
            if at >= end:
                break
            first, last = max(at, start), min(at + size, end)
            data = os.pread(descriptor, last - first, place + first - at)
            found[first - start : first - start + len(data)] = data
        return bytes(found)

    def read(self, limit: int = CHUNK) -> bytes:
        """Return the beginning of the content, at most 1 MiB of it."""
        with self.file.open("rb") as stream:
            return next(self.chunks(stream), b"")[:limit]

    def copy(self, target: Path) -> None:
        """Write the content to a file."""
        with self.file.open("rb") as stream, target.open("wb") as out:
            for chunk in self.chunks(stream):
                out.write(chunk)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a tree.

    Attributes:
        kind: ``file``, ``directory``, ``link`` and so on.
        mode: permissions, with set-user-ID and the like.
        owner: number of the user.
        group: number of the group.
        size: of a file, in bytes.
        target: of a symbolic link.
        device: major and minor number of a device, as ``1:3``.
        attributes: extended attributes, in the order of their names; values as they are shown.
        inode: number of the inode; entries that share one are hard links. 0 if it means nothing.
        times: name of each time and its value, as ``2026-11-25 08:53:42.000000000``.
        content: of a file.
    """

    kind: str
    mode: int
    owner: int
    group: int
    size: int = 0
    target: str = ""
    device: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    inode: int = 0
    times: tuple[tuple[str, str], ...] = ()
    content: Content | None = None


Tree = Mapping[str, Entry]


def moment(seconds: int, nanoseconds: int = 0) -> str:
    """Return a time since 1970, in UTC, for a reader."""
    base = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"{base:%Y-%m-%d %H:%M:%S}.{nanoseconds:09}"


def whole(file: Path) -> Content:
    """Return the content of a file of this machine."""
    size = file.stat().st_size
    return Content(file, size, ((0, 0, size),))


def of_directory(root: Path) -> dict[str, Entry]:
    """Return what is below a directory of this machine, with modification times in whole seconds, as FAT has them.

    Owners are those of whoever put the files there, and mean nothing.
    """
    found = {}
    for path, status in tree.walk(root):
        is_file = stat.S_ISREG(status.st_mode)
        found[path] = Entry(
            kind=KINDS[stat.S_IFMT(status.st_mode)],
            mode=0,
            owner=0,
            group=0,
            size=status.st_size if is_file else 0,
            times=(("mtime", moment(int(status.st_mtime))),) if is_file else (),
            content=whole(root / path) if is_file else None,
        )
    return found
