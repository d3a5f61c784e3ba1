"""Debian archives, decompressed by idle processors before dpkg needs them.

dpkg unpacks one package at a time, and two thirds of that time is xz. It gets the same files from an archive whose
data is not compressed. Sources: deb(5), ar(5).
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from pipeline.core import progress

MAGIC = b"!<arch>\n"
HEADER = 60  # bytes before each member of an archive
NAME, SIZE = slice(0, 16), slice(48, 58)
PIECE = 1024**2
MOST_THREADS = 4  # each may need the 64 MiB of xz's largest dictionary


@contextlib.contextmanager
def ahead(archives: Path, place: Path) -> Iterator[Callable[[], None]]:
    """Decompress archives while the context lasts; what has not been done by its end is left undone.

    Whatever cannot be decompressed is left to dpkg, which says what is wrong with it.

    Args:
        archives: directory of packages.
        place: is made, and gets them under the same names; each appears when it is whole. At the end it is removed.

    Yields:
        What is called when the packages are there.
    """
    stopped = threading.Event()
    place.mkdir()
    with ThreadPoolExecutor(min(max(len(os.sched_getaffinity(0)) - 1, 1), MOST_THREADS)) as pool:
        log = progress.current()

        def do(archive: Path) -> None:
            try:
                decompress(archive, place, stopped.is_set)
            except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
                log.write(f"{archive.name} is left to dpkg as it is: {error}")

        def begin() -> None:
            for archive in sorted(archives.glob("*.deb"), key=lambda file: file.stat().st_size, reverse=True):
                pool.submit(do, archive)

        try:
            yield begin
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(place)


def decompress(archive: Path, place: Path, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Write an archive with data that is not compressed; of one that was not compressed with xz, nothing is written.

    Args:
        archive: the package.
        place: directory that gets it under the same name, at once and whole.
        is_stopped: asked now and then; if so, nothing is written.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: it is no archive.
        EOFError: it ends too early.
        lzma.LZMAError: its data is damaged.
    """
    unfinished = place / f".{archive.name}"
    try:
        with archive.open("rb") as packed, unfinished.open("wb") as plain:
            is_done = _copy(packed, plain, is_stopped)
        if is_done:
            unfinished.rename(place / archive.name)
    finally:
        unfinished.unlink(missing_ok=True)


def _copy(packed: IO[bytes], plain: IO[bytes], is_stopped: Callable[[], bool]) -> bool:
    """Copy member by member; returns whether there was something to decompress, and it was all done."""
    if packed.read(len(MAGIC)) != MAGIC:
        raise ValueError("it is no archive")
    plain.write(MAGIC)
    found = False
    while header := packed.read(HEADER):
        size = int(header[SIZE])
        if header[NAME].rstrip(b" /") == b"data.tar.xz":
            found = True
            if not _decompress_member(packed, plain, header, size, is_stopped):
                return False
        else:
            plain.write(header + packed.read(size))
            plain.write(b"\n" * (plain.tell() % 2))
        packed.seek(packed.tell() % 2, os.SEEK_CUR)
    return found


def _decompress_member(
    packed: IO[bytes], plain: IO[bytes], header: bytes, size: int, is_stopped: Callable[[], bool]
) -> bool:
    """Decompress the member of a given size that follows; returns False if stopped."""
    place = plain.tell()
    plain.seek(HEADER, os.SEEK_CUR)
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    while size > 0:
        if is_stopped():
            return False
        piece = packed.read(min(size, PIECE))
        size -= len(piece)
        plain.write(decompressor.decompress(piece))
        if not piece:
            raise EOFError("it is cut short")
    if not decompressor.eof or decompressor.unused_data:
        raise lzma.LZMAError("its data is not one xz stream")
    end = plain.tell()
    plain.write(b"\n" * (end % 2))
    plain.seek(place)
    plain.write(b"data.tar".ljust(16) + header[16:48] + str(end - place - HEADER).encode().ljust(10) + header[58:])
    plain.seek(0, os.SEEK_END)
    return True
