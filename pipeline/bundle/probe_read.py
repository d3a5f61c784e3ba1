"""Beginnings of layers out of a registry, and what lean makes of a sample of their contents."""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import zstandard

from pipeline.bundle import chunks
from pipeline.bundle.gunzip import gunzip
from pipeline.bundle.lean_write import FRAME_SIZE, KEY, LEVEL, WINDOW_LOG
from pipeline.core.errors import NetworkError, VerificationError
from pipeline.oci import NotThereError

if TYPE_CHECKING:
    from pipeline.bundle.store import LayoutSource
    from pipeline.oci import Descriptor, Registry

CHUNK = 1024**2


class _Enough(Exception):
    """As much was read as was wanted."""


class _Beginning(io.RawIOBase):
    """Takes so many bytes, then ends what writes them: the connection is closed, the rest is not sent."""

    def __init__(self, target: IO[bytes], limit: int) -> None:
        super().__init__()
        self._target, self._left = target, limit

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401 - as io declares it
        self._target.write(data[: self._left])
        self._left -= len(data)
        if self._left <= 0:
            self._stop()
        return len(data)

    def _stop(self) -> NoReturn:
        raise _Enough


class Place:
    """A blob in a registry, or in the store if it was fetched already.

    Args:
        registry: where it is.
        repo: the repository there.
        blob: what is said of it.
        source: the store.
    """

    def __init__(self, registry: Registry, repo: str, blob: Descriptor, source: LayoutSource) -> None:
        self.registry, self.repo, self.blob, self._source = registry, repo, blob, source

    def copy(self, limit: int, target: IO[bytes]) -> None:
        """Copy its first bytes, or all of it if it is not larger; only then its hash is checked.

        Args:
            limit: bytes.
            target: takes them.

        Raises:
            NetworkError: it cannot be had.
        """
        if self._source.layout.blob_path(self.blob.digest).is_file():
            with self._source.open_blob(self.blob.digest) as file:
                while limit and (data := file.read(min(limit, CHUNK))):
                    target.write(data)
                    limit -= len(data)
            return
        is_whole = self.blob.size <= limit
        sink = target if is_whole else cast("IO[bytes]", _Beginning(target, limit))
        try:
            self.registry.get_blob(self.repo, self.blob.digest, sink, size=self.blob.size)
        except _Enough:
            return
        except NotThereError as error:
            raise NetworkError("the registry lacks it", hint="push the image again") from error

    def beginning(self, limit: int) -> bytes:
        """Return its first bytes; see :meth:`copy`."""
        with io.BytesIO() as target:
            self.copy(limit, target)
            return target.getvalue()


class Sample:
    """Contents of gzip layers, cut and compressed as lean does it; only sizes are kept.

    Attributes:
        layers: how many were taken.
        taken: their compressed bytes.
        became: bytes that came of it; all of them only after :meth:`finish`.
    """

    def __init__(self) -> None:
        self.layers = self.taken = self.became = 0
        self._keys: set[bytes] = set()
        self._frame = bytearray()

    def add(self, place: Place, limit: int) -> None:
        """Take a gzip layer, or its first bytes.

        Raises:
            NetworkError: it cannot be had.
            VerificationError: it is damaged.
        """
        with tempfile.TemporaryFile() as file:
            place.copy(limit, file)
            size = file.tell()
            file.seek(0)
            raw = io.BufferedReader(_Content(gunzip(file), is_cut=size < place.blob.size), CHUNK)
            with raw:
                for chunk in chunks.cut(raw):
                    self._take(chunk)
        self.layers += 1
        self.taken += size

    def finish(self) -> None:
        """Compress what is left."""
        settings = zstandard.ZstdCompressionParameters.from_level(
            LEVEL, source_size=len(self._frame), window_log=WINDOW_LOG
        )
        if self._frame:
            self.became += len(zstandard.ZstdCompressor(compression_params=settings).compress(self._frame))
        self._frame = bytearray()

    def _take(self, chunk: bytes) -> None:
        key = hashlib.sha256(chunk).digest()[:KEY]
        if key not in self._keys:
            self._keys.add(key)
            self._frame += chunk
            if len(self._frame) >= FRAME_SIZE:
                self.finish()


class _Content(io.RawIOBase):
    """A decompressed layer; one of which only the beginning is there ends where that ends."""

    def __init__(self, stream: IO[bytes], *, is_cut: bool) -> None:
        super().__init__()
        self._stream, self._is_cut = stream, is_cut

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        try:
            data = self._stream.read(len(buffer))
        except VerificationError:
            if not self._is_cut:
                raise
            return 0
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
