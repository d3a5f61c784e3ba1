"""Gzip streams, decompressed while they are read: by ``isal`` where it is installed, which is several times as fast."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, Any

from pipeline.core.errors import VerificationError

CHUNK = 1024**2


def gunzip(stream: IO[bytes]) -> IO[bytes]:
    """Return what a gzip stream holds, of all its members (RFC 1952).

    Args:
        stream: the compressed bytes; closed with the result.

    Returns:
        A stream; reading it raises VerificationError where the compressed bytes are damaged or end too early.
    """
    return io.BufferedReader(_Gunzip(stream), CHUNK)


class _Gunzip(io.RawIOBase):
    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._content, self._faults = _reader(stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        try:
            data = self._content.read(len(buffer))
        except self._faults as error:
            what = str(error) or type(error).__name__
            raise VerificationError(f"a gzip stream is damaged: {what}", hint="fetch or copy it again") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._content.close()
            self._stream.close()
        super().close()


def _reader(stream: IO[bytes]) -> tuple[Any, tuple[Any, ...]]:
    """Return a reader, and what it raises on bytes that are no gzip; errors of the stream itself are not these."""
    not_gzip = (EOFError, zlib.error, getattr(gzip, "BadGzipFile", OSError))  # OSError itself before Python 3.8
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        return gzip.GzipFile(fileobj=stream, mode="rb"), not_gzip
    open_gzip: Any = igzip.IGzipFile
    return open_gzip(fileobj=stream, mode="rb"), (*not_gzip, isal_zlib.error)
