"""Layers that are stored lean, made again: content from frames and bases, compressed as it was."""

from __future__ import annotations

import collections
import io
import os
import shutil
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.bundle.codec import unzstd
from pipeline.bundle.gunzip import gunzip
from pipeline.bundle.recipe import Recipe
from pipeline.bundle.tar import FRAMES, RECIPES
from pipeline.core.errors import DependencyError, StorageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.bundle.codec import Codec
    from pipeline.bundle.model import BlobSource

T = TypeVar("T")
MIB = 1024**2
CACHED_FRAMES = 8
MAGIC = b"\x28\xb5\x2f\xfd"
LARGEST_FRAME = 512 * MIB
_DAMAGED = "the bundle is damaged: copy it again from where it was packed"


def content_size(frame: bytes) -> int:
    """Return the bytes that a zstd frame holds, as its header says (RFC 8878, 3.1.1.1).

    Raises:
        VerificationError: it is none, or does not say it.
    """
    if frame[:4] != MAGIC or len(frame) < 6:
        raise VerificationError("a zstd frame does not begin as one", hint=_DAMAGED)
    flags = frame[4]
    is_single, width = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
    width = width or (1 if is_single else 0)
    start = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)
    if not width or size > LARGEST_FRAME:
        raise VerificationError(
            f"a zstd frame holds {size if width else 'it does not say how many'} bytes", hint=_DAMAGED
        )
    return size


class _Memory(Generic[T]):
    """What is made once, whoever asks first, and kept: all of it, or what was asked for last. Threads may share it."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._known: collections.OrderedDict[object, Future[T]] = collections.OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        with self._lock:
            future = self._known.get(key)
            is_first = future is None
            if future is None:
                future = self._known[key] = Future()
            self._known.move_to_end(key)
            while self._limit is not None and len(self._known) > self._limit:
                self._known.popitem(last=False)
        if is_first:
            try:
                future.set_result(make())
            except BaseException as error:  # noqa: BLE001 - those who wait get it too
                with self._lock:
                    self._known.pop(key, None)
                future.set_exception(error)
        return future.result()


class LeanStore:
    """The lean part of a bundle; threads may share it.

    Args:
        open_member: opens a member of the bundle's tar.
        members: the names of recipes and frames.
        codec: makes gzip streams again; without it, only contents can be had.
        base: where a patch finds the layers that it was made against.
        scratch: directory for temporary files; the system's if not given.
    """

    def __init__(
        self,
        open_member: Callable[[str], IO[bytes]],
        members: Iterable[str],
        codec: Codec | None,
        base: BlobSource | None,
        scratch: Path | None,
    ) -> None:
        self._open_member, self._codec, self._base, self._scratch = open_member, codec, base, scratch
        self._members = frozenset(members)
        self._recipes: _Memory[Recipe] = _Memory()
        self._frames: _Memory[bytes] = _Memory(CACHED_FRAMES)
        self._contents: _Memory[Path] = _Memory()
        self._folder: _Memory[Path] = _Memory()
        self._made: list[Path] = []

    def close(self) -> None:
        """Remove temporary files."""
        for folder in self._made:
            shutil.rmtree(str(folder), ignore_errors=True)

    def has(self, digest: str) -> bool:
        """Return whether a layer is stored here."""
        return RECIPES + digest.partition(":")[2] in self._members

    def recipe(self, digest: str) -> Recipe:
        """Return how a layer is made.

        Raises:
            VerificationError: there is no recipe, or it is damaged.
        """
        return self._recipes.get(digest, lambda: self._read_recipe(digest))

    def _read_recipe(self, digest: str) -> Recipe:
        if not self.has(digest):
            raise VerificationError(f"{digest}: the bundle has no recipe for it", hint=_DAMAGED)
        with self._open_member(RECIPES + digest.partition(":")[2]) as file:
            data = file.read()
        found = Recipe.from_bytes(unzstd(data, content_size(data), self._codec))
        if found.digest != digest:
            raise VerificationError(f"{digest}: its recipe is that of {found.digest}", hint=_DAMAGED)
        return found

    def open_raw(self, digest: str) -> IO[bytes]:
        """Open the content of a layer.

        Raises:
            VerificationError: there is none; while reading, a frame or the base is missing or damaged.
        """
        return io.BufferedReader(_Content(self, self.recipe(digest)), MIB)

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a layer as registries have it.

        Args:
            digest: which one.
            offset: bytes to leave out at its beginning; they are made all the same.

        Raises:
            VerificationError: there is none; while reading, a frame or the base is missing or damaged.
            DependencyError: nothing here makes gzip streams.
        """
        recipe = self.recipe(digest)
        if self._codec is None:
            hint = "use the bundle.pyz that lies beside the bundle, or have Go's packages where bundles are packed"
            raise DependencyError("the program that compresses layers again is not there", hint=hint)
        raw = self.open_raw(digest)
        made = io.BufferedReader(_Made(self._codec.encode(recipe.encoder, raw), raw), MIB)
        left = offset
        while left > 0:
            skipped = len(made.read(min(left, MIB)))
            if not skipped:
                break
            left -= skipped
        return made

    # --- where contents lie

    def piece(self, recipe: Recipe, place: int, offset: int, size: int) -> bytes:
        """Return a part of a frame, or of a source of a recipe.

        Raises:
            VerificationError: it is not there.
        """
        if place >= 0:
            data = self._frames.get(place, lambda: self._read_frame(place))[offset : offset + size]
        else:
            digest = recipe.sources[-1 - place]
            path = self._contents.get(digest, lambda: self._unpack(digest))
            with path.open("rb") as file:
                data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise VerificationError(f"{recipe.digest}: its recipe names bytes that are not there", hint=_DAMAGED)
        return data

    def _read_frame(self, number: int) -> bytes:
        name = f"{FRAMES}{number:06d}.zst"
        if name not in self._members:
            raise VerificationError(f"the bundle has no {name}", hint=_DAMAGED)
        with self._open_member(name) as file:
            data = file.read()
        return unzstd(data, content_size(data), self._codec)

    def _unpack(self, digest: str) -> Path:
        """Return a file with the content of a base's layer."""
        if self._base is None:
            hint = "name its base, or sync it where its base was synced"
            raise VerificationError(f"a patch is made from {digest}, which is not at hand", hint=hint)
        target = self._folder.get(None, self._make_folder) / digest.partition(":")[2]
        with gunzip(self._base.open_blob(digest)) as content:
            try:
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, MIB)
            except OSError as error:
                hint = "free some space there, or set TMPDIR to a directory with more"
                raise StorageError(f"{target}: cannot be written: {error.strerror}", hint=hint) from error
        return target

    def _make_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="bundle-", dir=None if self._scratch is None else str(self._scratch)))
        self._made.append(folder)
        return folder


class _Content(io.RawIOBase):
    """The content of a layer: its runs, one after the other."""

    def __init__(self, store: LeanStore, recipe: Recipe) -> None:
        super().__init__()
        self._store, self._recipe = store, recipe
        self._number, self._done = 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        runs = self._recipe.runs
        if self._number == len(runs):
            return 0
        place, offset, length = runs[self._number]
        size = min(len(buffer), length - self._done)
        buffer[:size] = self._store.piece(self._recipe, place, offset + self._done, size)
        self._done += size
        if self._done == length:
            self._number, self._done = self._number + 1, 0
        return size


class _Made(io.RawIOBase):
    """A gzip stream that is being made; its content may be closed only after it."""

    def __init__(self, stream: IO[bytes], raw: IO[bytes]) -> None:
        super().__init__()
        self._stream, self._raw = stream, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._raw.close()
        super().close()
