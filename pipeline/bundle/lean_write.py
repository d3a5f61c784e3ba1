"""Stores gzip layers lean: their contents in chunks, each chunk once, in zstd frames; and how to make them again.

The same layers in the same order give the same bytes, however many threads compress. Memory is bounded: chunks are
remembered in a file, and there are never more frames in memory than threads and one.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import zstandard

from pipeline.bundle import chunks
from pipeline.bundle.codec import CARRIED, Codec, Encoder
from pipeline.bundle.gunzip import gunzip
from pipeline.bundle.model import LeanInfo
from pipeline.bundle.recipe import Recipe
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive

LEVEL, WINDOW_LOG = 9, 27
FRAME_SIZE = 32 * 1024**2  # bytes of content
KEY = 16  # bytes of a chunk's sha256 that tell chunks apart
_SPACE = "free some space, or name another directory, and pack again: what was fetched stays"


@dataclass(frozen=True)
class LeanResult:
    """What layers became.

    Attributes:
        recipes: how each is made again, by its digest, compressed.
        frames: files with the chunks, in their order.
        sources: layers of bases whose content is taken from.
        info: how it was made.
    """

    recipes: Mapping[str, bytes]
    frames: tuple[Path, ...]
    sources: tuple[str, ...]
    info: LeanInfo


class LeanWriter:
    """Takes layers one after the other; see the module.

    Args:
        scratch: directory for what is made; is made itself.
        codec: what makes gzip streams again; its identity is noted.
        level: of zstd.
        window_log: of zstd.
        frame_size: bytes of content in a frame.
        threads: frames that are compressed at once.
    """

    def __init__(
        self,
        scratch: Path,
        codec: Codec,
        *,
        level: int = LEVEL,
        window_log: int = WINDOW_LOG,
        frame_size: int = FRAME_SIZE,
        threads: int = 2,
    ) -> None:
        with _storage(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
        self._codec, self._level, self._window_log = codec, level, window_log
        self._index = _Index(scratch / "chunks.sqlite")
        self._frames = _Frames(scratch, level, window_log, frame_size, threads)
        self._frame_size = frame_size
        self._sources: list[str] = []
        self._used: dict[str, None] = {}
        self._recipes: dict[str, bytes] = {}
        self._encoders: dict[str, Encoder] = {}

    def seed(self, base: Archive, digests: Iterable[str]) -> None:
        """Remember the chunks of a base's gzip layers: they are taken from there.

        Args:
            base: the bundle.
            digests: its layers.

        Raises:
            VerificationError: a layer is not there, or damaged.
        """
        for digest in digests:
            self._sources.append(digest)
            offset = 0
            with base.open_raw(digest) as raw:
                for chunk in chunks.cut(raw):
                    self._index.add(_key(chunk), -len(self._sources), offset)
                    offset += len(chunk)

    def add(self, digest: str, size: int, encoder: Encoder, open_blob: Callable[[], IO[bytes]]) -> bool:
        """Store a layer.

        Args:
            digest: the layer's.
            size: its bytes.
            encoder: what makes it again, proven to.
            open_blob: opens it.

        Returns:
            Whether it is stored: not if the encoder is one that is not carried.

        Raises:
            VerificationError: the layer is damaged.
            StorageError: the scratch directory cannot be written.
        """
        if encoder.name not in CARRIED:
            return False
        runs: list[tuple[int, int, int]] = []
        raw_size = 0
        with gunzip(open_blob()) as raw:
            for chunk in chunks.cut(raw):
                key = _key(chunk)
                place = self._index.find(key)
                if place is None:
                    place = self._frames.append(chunk)
                    self._index.add(key, *place)
                _extend(runs, place, len(chunk))
                raw_size += len(chunk)
        recipe = Recipe(digest, size, raw_size, encoder, *self._localised(runs))
        recipe.check()
        self._recipes[digest] = zstandard.ZstdCompressor(level=self._level).compress(recipe.to_bytes())
        self._encoders[str(encoder)] = encoder
        return True

    def finish(self) -> LeanResult:
        """Write what is left, and return everything.

        Raises:
            StorageError: the scratch directory cannot be written.
        """
        frames = self._frames.finish()
        self._index.close()
        shown = [{"name": one.name, "level": one.level, "block": one.block} for one in self._encoders.values()]
        frame = {"level": self._level, "window_log": self._window_log, "size": self._frame_size}
        shown.sort(key=lambda one: sorted(map(str, one.items())))
        info = LeanInfo(self._codec.id, tuple(shown), chunks.described(), frame)
        return LeanResult(self._recipes, frames, tuple(self._used), info)

    def _localised(self, runs: list[tuple[int, int, int]]) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
        """Number the sources as this one recipe sees them."""
        numbers: dict[int, int] = {}
        for place, _, _ in runs:
            if place < 0:
                numbers.setdefault(place, -1 - len(numbers))
        sources = tuple(self._sources[-1 - place] for place in numbers)
        self._used.update(dict.fromkeys(sources))
        return sources, tuple((numbers.get(place, place), offset, length) for place, offset, length in runs)


def _extend(runs: list[tuple[int, int, int]], place: tuple[int, int], length: int) -> None:
    if runs and runs[-1][0] == place[0] and runs[-1][1] + runs[-1][2] == place[1]:
        number, offset, before = runs[-1]
        runs[-1] = (number, offset, before + length)
    else:
        runs.append((*place, length))


def _key(chunk: bytes) -> bytes:
    return hashlib.sha256(chunk).digest()[:KEY]


class _Index:
    """Where each chunk is; in a file, so that memory does not grow with the bundle."""

    def __init__(self, path: Path) -> None:
        with _sqlite(path):
            self._path, self._connection = path, sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute("CREATE TABLE chunks (key BLOB PRIMARY KEY, place INT, offset INT) WITHOUT ROWID")
            self._connection.execute("BEGIN")

    def find(self, key: bytes) -> tuple[int, int] | None:
        with _sqlite(self._path):
            row = self._connection.execute("SELECT place, offset FROM chunks WHERE key = ?", (key,)).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def add(self, key: bytes, place: int, offset: int) -> None:
        with _sqlite(self._path):
            self._connection.execute("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?)", (key, place, offset))

    def close(self) -> None:
        self._connection.close()
        self._path.unlink(missing_ok=True)


class _Frames:
    """Chunks in a row, compressed in frames by several threads."""

    def __init__(self, folder: Path, level: int, window_log: int, size: int, threads: int) -> None:
        self._folder, self._size = folder, size
        self._level, self._window_log = level, window_log
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        self._buffer = bytearray()
        self._running: list[Future[None]] = []
        self._paths: list[Path] = []

    def append(self, chunk: bytes) -> tuple[int, int]:
        """Add a chunk; returns its frame and its offset there."""
        place = len(self._paths), len(self._buffer)
        self._buffer += chunk
        if len(self._buffer) >= self._size:
            self._end()
        return place

    def _end(self) -> None:
        path = self._folder / f"{len(self._paths):06d}.zst"
        self._paths.append(path)
        content, self._buffer = self._buffer, bytearray()
        while len(self._running) >= self._threads:  # no more in memory than are compressed
            self._running.pop(0).result()
        self._running.append(self._pool.submit(self._compress, content, path))

    def _compress(self, content: bytearray, path: Path) -> None:
        settings = zstandard.ZstdCompressionParameters.from_level(
            self._level, source_size=len(content), window_log=self._window_log
        )
        with _storage(path):
            path.write_bytes(zstandard.ZstdCompressor(compression_params=settings).compress(content))

    def finish(self) -> tuple[Path, ...]:
        if self._buffer:
            self._end()
        for one in self._running:
            one.result()
        self._pool.shutdown()
        return tuple(self._paths)


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}", hint=_SPACE) from error


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be written: {error}", hint=_SPACE) from error
