"""What is in an initramfs: cpio archives one behind the other, the last of them compressed as a rule.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.image.compare.entries import CHUNK, KINDS, Content, Entry, moment

MAGIC = (b"070701", b"070702")
HEADER = 110  # bytes
TRAILER = "TRAILER!!!"
LARGEST = 2 << 30  # bytes of an unpacked initramfs; more is an attempt to fill the disk
LONGEST_NAME = 1 << 16


class NotUnderstoodError(Exception):
    """It is not an initramfs that can be read here; says why."""


def members(image: Content, scratch: Path) -> dict[str, Entry]:
    """Return what is in an initramfs; a later archive's entries replace an earlier one's.

    Args:
        image: the initramfs.
        scratch: an empty directory for what is unpacked; it is needed as long as contents are read.

    Raises:
        NotUnderstoodError: it is damaged, or compressed in a way that is not known.
    """
    packed = scratch / "initramfs"
    image.copy(packed)
    found = dict(_archives(packed))
    if not found:
        raise NotUnderstoodError("it holds no cpio archive")
    return found


def _archives(file: Path) -> Iterator[tuple[str, Entry]]:
    with file.open("rb") as stream:
        while (place := _skip_zeros(stream)) is not None:
            magic = stream.read(6)
            stream.seek(place)
            if magic in MAGIC:
                yield from _entries(stream, file)
                continue
            unpacked = file.with_name(f"{file.name}.unpacked")
            if unpacked.exists() or file.suffix == ".unpacked":
                raise NotUnderstoodError("it is compressed twice")
            _unpack(stream, magic, unpacked)
            yield from _archives(unpacked)
            return


def _skip_zeros(stream: IO[bytes]) -> int | None:
    """Go to the next byte that is not zero; None at the end."""
    while chunk := stream.read(4096):
        if rest := chunk.lstrip(b"\0"):
            place = stream.tell() - len(rest)
            stream.seek(place)
            return place
    return None


def _entries(stream: IO[bytes], file: Path) -> Iterator[tuple[str, Entry]]:
    while True:
        header = stream.read(HEADER)
        if len(header) < HEADER or header[:6] not in MAGIC:
            raise NotUnderstoodError("a cpio archive in it ends before its end")
        try:
            numbers = [int(header[at : at + 8], 16) for at in range(6, HEADER, 8)]
        except ValueError as error:
            raise NotUnderstoodError("a cpio archive in it is damaged") from error
        _, mode, owner, group, _, mtime, size, _, _, major, minor, length, _ = numbers
        if length > LONGEST_NAME:
            raise NotUnderstoodError("a cpio archive in it is damaged")
        name = stream.read(length)[:-1].decode("utf-8", "surrogateescape")
        place = _aligned(stream.tell())
        stream.seek(_aligned(place + size))
        if name == TRAILER:
            return
        kind = KINDS.get(stat.S_IFMT(mode), "unknown")
        content = Content(file, size, ((0, place, size),))
        yield (
            name.removeprefix("./"),
            Entry(
                kind=kind,
                mode=stat.S_IMODE(mode),
                owner=owner,
                group=group,
                size=size if kind == "file" else 0,
                target=content.read().decode("utf-8", "surrogateescape") if kind == "link" else "",
                device=f"{major}:{minor}" if "device" in kind else "",
                times=(("mtime", moment(mtime)),),
                content=content if kind == "file" else None,
            ),
        )


def _aligned(place: int) -> int:
    return -(-place // 4) * 4


def _unpack(stream: IO[bytes], magic: bytes, target: Path) -> None:
    opener = next((opener for start, opener in _openers() if magic.startswith(start)), None)
    if opener is None:
        raise NotUnderstoodError(f"it is compressed in an unknown way, its bytes begin with {magic.hex()}")
    total = 0
    try:
        with contextlib.closing(opener(stream)) as source, target.open("wb") as out:
            while chunk := source.read(CHUNK):
                total += len(chunk)
                if total > LARGEST:
                    raise NotUnderstoodError(f"unpacked it has more than {LARGEST >> 30} GiB")
                out.write(chunk)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, _zstd_error()) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine's disk
        raise NotUnderstoodError(f"it cannot be unpacked: {error}") from error


def _openers() -> list[tuple[bytes, Callable[[IO[bytes]], io.BufferedIOBase | IO[bytes]]]]:
    import zstandard

    def zstd(stream: IO[bytes]) -> IO[bytes]:
        return zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True, closefd=False)

    return [
        (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
        (b"\x28\xb5\x2f\xfd", zstd),
        (b"\xfd7zXZ", lzma.LZMAFile),
        (b"\x5d\0\0", lzma.LZMAFile),
        (b"BZh", bz2.BZ2File),
    ]


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError
