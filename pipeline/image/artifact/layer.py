"""The one layer of a published image: a tar with the disk, never on disk itself.

KubeVirt wants one file in ``/disk``, which belongs to qemu's user and group, 107 (KubeVirt user guide, containerDisk);
its importer looks for the first file below ``disk/``. The tar is not compressed: the qcow2 in it is already, and so
bytes of the layer lie at known places of the file and can be sent from any offset.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from pipeline.core.errors import InputError, VerificationError

FOLDER = "disk"
OWNER = 107
FILE_MODE, FOLDER_MODE = 0o644, 0o755
BLOCK = 1024**2
HEADERS = 2 * tarfile.BLOCKSIZE


def headers(name: str, size: int, mtime: int) -> bytes:
    """Return what comes before the disk.

    Args:
        name: the disk's file name.
        size: its bytes.
        mtime: in seconds since 1970.
    """
    folder, file = tarfile.TarInfo(FOLDER), tarfile.TarInfo(f"{FOLDER}/{name}")
    folder.type, folder.mode, file.mode, file.size = tarfile.DIRTYPE, FOLDER_MODE, FILE_MODE, size
    for info in (folder, file):
        info.uid = info.gid = OWNER
        info.mtime = mtime
    return b"".join(info.tobuf(tarfile.GNU_FORMAT) for info in (folder, file))


def padding(size: int) -> bytes:
    """Return what comes after a disk of so many bytes: the rest of its block, and the end of a tar."""
    return bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


class Layer:
    """A layer that is read from its disk's file.

    Args:
        file: the qcow2, open.
        path: its path, for its name and for errors.
        mtime: time of what is in the layer, in seconds since 1970.

    Attributes:
        size: bytes of the layer.
    """

    def __init__(self, file: IO[bytes], path: Path, mtime: int) -> None:
        self._descriptor, self._path = file.fileno(), path
        self._status = self._now()
        self._length = os.fstat(self._descriptor).st_size
        self._before, self._after = headers(path.name, self._length, mtime), padding(self._length)
        self.size = len(self._before) + self._length + len(self._after)

    def digests(self) -> tuple[str, str]:
        """Return the sha256 of the disk, and the digest of the layer; all of it is read."""
        disk, whole = hashlib.sha256(), hashlib.sha256(self._before)
        for block in self._disk():
            disk.update(block)
            whole.update(block)
        whole.update(self._after)
        return disk.hexdigest(), f"sha256:{whole.hexdigest()}"

    def open(self, offset: int) -> IO[bytes]:
        """Return a stream of the layer's bytes from an offset on.

        Raises:
            InputError: the disk has changed since it was first read.
        """
        if self._now() != self._status:
            self._changed()
        return io.BufferedReader(_Stream(self, offset), BLOCK)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return some bytes from an offset on, at least one unless the layer ends there.

        Raises:
            InputError: the disk has changed since it was first read.
        """
        if offset < len(self._before):
            return self._before[offset : offset + size]
        offset -= len(self._before)
        if offset >= self._length:
            offset -= self._length
            return self._after[offset : offset + size]
        data = os.pread(self._descriptor, min(size, self._length - offset), offset)
        return data or self._changed()

    def _disk(self) -> Iterator[bytes]:
        start = len(self._before)
        at, end = start, start + self._length
        while at < end:
            block = self.read_at(at, min(BLOCK, end - at))
            at += len(block)
            yield block

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> NoReturn:
        raise InputError(f"{self._path} has changed while it was pushed", hint="run the same command again")


class _Stream(io.RawIOBase):
    def __init__(self, layer: Layer, offset: int) -> None:
        self._layer, self._at = layer, offset

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - typeshed's own name for it is not for use
        data = self._layer.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Unpacker(io.RawIOBase):
    """Takes the bytes of a layer and writes the disk in it; everything around the disk must be as it is written here.

    Args:
        file: takes the disk.
        name: the disk's file name.
        mtime: time that everything in the layer must have.
        what: the layer's name, for errors.
    """

    def __init__(self, file: IO[bytes], name: str, mtime: int, what: str) -> None:
        self._file, self._name, self._mtime, self._what = file, name, mtime, what
        self._head, self._tail, self._left = bytearray(), bytearray(), -1
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # no buffer but these
        """Take the next bytes of the layer.

        Raises:
            VerificationError: the layer is not one of ours.
        """
        rest = memoryview(data)
        if self._left < 0:
            wanted = HEADERS - len(self._head)
            self._head += rest[:wanted]
            rest = rest[wanted:]
            if len(self._head) == HEADERS:
                self._begin()
        if self._left > 0:
            self._hash.update(rest[: self._left])
            self._file.write(rest[: self._left])
            taken = min(len(rest), self._left)
            self._left -= taken
            rest = rest[taken:]
        if rest:
            self._tail += rest
            if len(self._tail) > 3 * tarfile.BLOCKSIZE:
                self._foreign()
        return len(data)

    def finish(self) -> str:
        """Return the disk's sha256 when all of the layer has come.

        Raises:
            VerificationError: the layer is not one of ours.
        """
        if self._left != 0 or bytes(self._tail) != padding(self._size):
            self._foreign()
        return self._hash.hexdigest()

    def _begin(self) -> None:
        try:
            found = tarfile.TarInfo.frombuf(bytes(self._head[tarfile.BLOCKSIZE :]), "utf-8", "strict")
        except tarfile.HeaderError:
            self._foreign()
        self._left = self._size = found.size
        if self._left < 0 or headers(self._name, self._size, self._mtime) != bytes(self._head):
            self._foreign()

    def _foreign(self) -> NoReturn:
        raise VerificationError(
            f"{self._what}: its layer is not a tar with {FOLDER}/{self._name} alone",
            hint="it was made or changed by another program: publish it again with ./invoke publish",
        )
