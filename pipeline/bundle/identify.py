"""Finds out what made a gzip stream: its header says where to begin, and compressing its beginning again is the test.

What libraries write into a header (RFC 1952, 2.3) beside name, comment and extra field, which most leave out:
Go's and klauspost's give 255 as system, and pgzip the low bytes of the year 1 as time; zlib and GNU gzip, and pigz,
give 3, Unix. All say 2 as extra flag at level 9, 4 at level 1, else 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from isal import igzip_lib, isal_zlib

from pipeline.bundle.codec import CARRIED, CHUNK, LARGEST_HEADER, SMALLEST_HEADER, Encoder, piped
from pipeline.core import process
from pipeline.core.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.bundle.codec import Codec

SHORT, LONG = 256 * 1024, 2 * 1024**2  # compressed bytes of the two trials
LARGEST_RAW = 32 * 1024**2  # bytes; what compresses a thousandfold is not followed further
SLACK = 256 * 1024  # compressed bytes before the end of a trial that may differ: the last block was cut
STEP = 16 * 1024
PGZIP_BLOCKS = (1024**2, 256 * 1024)  # its own choice, as buildah, podman and skopeo have it; umoci's
PGZIP_TIME = b"\x00\x09\x6e\x88"  # -62135596800, Go's time of nothing, in 32 bits
UNKNOWN_SYSTEM = 255
TRAILER = 8  # bytes; RFC 1952, 2.3
EXTRA, NAME, COMMENT, CHECKSUM, RESERVED = 4, 8, 16, 2, 0xE0  # flags
LEVELS_BY_FLAG = {2: (9,), 4: (1,)}
GO_LEVELS, ZLIB_LEVELS = (-1, 6, 5, 7, 8, 4, 3, 2, 0, -2), (6, 5, 7, 8, 4, 3, 2)
SAME_AS_DEFAULT = {"go-gzip": 6, "klauspost-gzip": 5, "pgzip": 5}  # level -1 under another number


@dataclass(frozen=True)
class _Trial:
    """The beginning of a stream.

    Attributes:
        body: compressed bytes after the header.
        raw: what they are decompressed.
        is_whole: nothing comes after them.
    """

    body: bytes
    raw: bytes
    is_whole: bool

    def is_met(self, agreed: int) -> bool:
        """Return whether so many equal bytes at the beginning are all that the right encoder can give."""
        if self.is_whole:
            return agreed == len(self.body)
        return agreed >= max(len(self.body) - SLACK, len(self.body) // 2)


def identify(open_blob: Callable[[], IO[bytes]], size: int, codec: Codec) -> Encoder | None:
    """Return what made a blob, as far as its first 2 MiB tell; :func:`prove` tells whether the rest is so.

    Args:
        open_blob: opens it; no more than the beginning is read.
        size: its bytes.
        codec: makes gzip again.

    Returns:
        None if it is no gzip stream, is truncated, has more than one member or bytes after the end, or if no known
        encoder makes it.

    Raises:
        ToolError: the helper failed.
    """
    for encoder in plausible(open_blob, size, codec):
        with open_blob() as blob:
            data = _read(blob, LONG)
        if len(data) <= SHORT:
            return encoder
        trial = _trial(data, encoder.header, size)
        if trial is None:
            return None
        if trial.is_met(_agreed(encoder, trial, codec)):
            return encoder
    return None


def plausible(open_blob: Callable[[], IO[bytes]], size: int, codec: Codec) -> Iterator[Encoder]:
    """Yield the encoders that make the first 256 KiB of a blob, the likeliest first; none if nobody knows how.

    Args:
        open_blob: opens it; no more than the beginning is read.
        size: its bytes.
        codec: makes gzip again.

    Raises:
        ToolError: the helper failed.
    """
    with open_blob() as blob:
        data = _read(blob, SHORT)
    header = header_of(data)
    trial = _trial(data, header, size)
    if trial is not None:
        for encoder in candidates(header):
            if trial.is_met(_agreed(encoder, trial, codec)):
                yield encoder


def prove(encoder: Encoder, open_blob: Callable[[], IO[bytes]], digest: str, codec: Codec) -> bool:
    """Return whether the whole blob can be made again: it is decompressed, compressed and hashed, all streaming.

    Args:
        encoder: what is said to have made it; one that only has a name proves nothing.
        open_blob: opens it.
        digest: its own.
        codec: makes gzip again.

    Raises:
        ToolError: the helper failed.
    """
    if encoder.name not in CARRIED:
        return False
    algorithm, _, wanted = digest.partition(":")
    hasher = hashlib.new(algorithm)
    try:
        with open_blob() as blob, io.BufferedReader(_Member(blob), CHUNK) as raw, codec.encode(encoder, raw) as again:
            for chunk in iter(lambda: again.read(CHUNK), b""):
                hasher.update(chunk)
    except VerificationError:  # it is no whole gzip stream
        return False
    return hasher.hexdigest() == wanted


class _Member(io.RawIOBase):
    """The content of a gzip stream that has one member and nothing after it."""

    def __init__(self, blob: IO[bytes]) -> None:
        super().__init__()
        self._blob, self._left, self._ended = blob, b"", False
        self._inflate = isal_zlib.decompressobj(zlib.MAX_WBITS + 16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        while True:
            part = self._next(len(buffer))
            if part or self._ended:
                buffer[: len(part)] = part
                return len(part)

    def _next(self, size: int) -> bytes:
        """Return at most so many bytes; none if more has to be read first, or at the end."""
        if self._ended:
            return b""
        data = self._left or self._blob.read(CHUNK)
        if not data:
            raise VerificationError("a gzip stream is truncated", hint="fetch it again")
        try:
            part = bytes(self._inflate.decompress(data, size))
        except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub makes a value of it
            raise VerificationError(f"a gzip stream is damaged: {error}", hint="fetch it again") from error
        self._left = self._inflate.unconsumed_tail
        self._ended = self._inflate.eof
        if self._ended and (self._inflate.unused_data or self._blob.read(1)):
            raise VerificationError("a gzip stream has more than one member", hint="it stays as it is")
        return part


# --- headers


def header_of(data: bytes) -> bytes:
    """Return the header that a gzip stream begins with; empty if it has none, or one of unreasonable size."""
    if len(data) < SMALLEST_HEADER or data[:3] != b"\x1f\x8b\x08" or data[3] & RESERVED:
        return b""
    flags, end = data[3], SMALLEST_HEADER
    if flags & EXTRA:
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for flag in (NAME, COMMENT):
        if flags & flag:
            end = data.find(b"\0", end, LARGEST_HEADER) + 1
            if not end:
                return b""
    if flags & CHECKSUM:
        end += 2
    return data[:end] if end <= min(len(data), LARGEST_HEADER) else b""


def candidates(header: bytes) -> Iterator[Encoder]:
    """Name what may have written a header, the likeliest first.

    Args:
        header: a whole gzip header.
    """
    time, flag, system = header[4:8], header[8], header[9]
    carried = ("pgzip", "go-gzip", "klauspost-gzip") if time == PGZIP_TIME else ("go-gzip", "klauspost-gzip", "pgzip")
    levels = LEVELS_BY_FLAG.get(flag, ZLIB_LEVELS)
    named = [Encoder(name, level, 0, header) for name in ("zlib", "gzip", "pigz") for level in levels]
    if system != UNKNOWN_SYSTEM:
        yield from named
    for name in carried:
        for level in LEVELS_BY_FLAG.get(flag, GO_LEVELS if system == UNKNOWN_SYSTEM else GO_LEVELS[:1]):
            if level != SAME_AS_DEFAULT[name]:
                for block in PGZIP_BLOCKS if name == "pgzip" else (0,):
                    yield Encoder(name, level, block, header)
    if system == UNKNOWN_SYSTEM:
        yield from (encoder for encoder in named if encoder.name == "zlib")  # Python's gzip module


# --- trials


def _read(stream: IO[bytes], size: int) -> bytes:
    """Read so many bytes; fewer only at the end."""
    parts, left = [], size
    while left:
        part = stream.read(left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _trial(data: bytes, header: bytes, size: int) -> _Trial | None:
    """Decompress the beginning of a stream of so many bytes; None if that cannot be one whole gzip member."""
    if not header:
        return None
    body, inflate = data[len(header) :], zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        raw = inflate.decompress(body, LARGEST_RAW)
    except zlib.error:
        return None
    used = len(body) - len(inflate.unconsumed_tail) - len(inflate.unused_data)
    if inflate.eof:
        is_alone = size - len(header) - used == TRAILER
        return _Trial(body, raw, is_whole=True) if is_alone and len(data) == size else None
    if len(data) >= size and not inflate.unconsumed_tail:
        return None  # truncated
    return _Trial(body[:used], raw, is_whole=False)


def _agreed(encoder: Encoder, trial: _Trial, codec: Codec) -> int:
    """Return how many bytes after the header come out again."""
    agreed = 0
    with _made(encoder, trial.raw, codec) as stream:
        while agreed < len(trial.body):
            part = stream.read(STEP)
            wanted = trial.body[agreed : agreed + len(part)]
            if not part or part[: len(wanted)] != wanted:
                return agreed + next((i for i, byte in enumerate(wanted) if part[i] != byte), 0)
            agreed += len(wanted)
        return agreed + (len(stream.read(1)) if trial.is_whole else 0)  # more than there should be


@contextlib.contextmanager
def _made(encoder: Encoder, raw: bytes, codec: Codec) -> Iterator[IO[bytes]]:
    """Yield what an encoder makes, after the header; nothing if it is not at hand."""
    if encoder.name == "zlib":
        deflate = zlib.compressobj(encoder.level, zlib.DEFLATED, -zlib.MAX_WBITS)
        trailer = zlib.crc32(raw).to_bytes(4, "little") + (len(raw) % 2**32).to_bytes(4, "little")
        yield io.BytesIO(deflate.compress(raw) + deflate.flush() + trailer)
        return
    if encoder.name in CARRIED:
        stream, header = codec.encode(encoder, io.BytesIO(raw)), len(encoder.header)
    elif program := shutil.which(encoder.name, path=process.SYSTEM_PATH):
        words = [program, f"-{encoder.level}", "--no-name", "--stdout"]
        stream, header = piped(words, io.BytesIO(raw), what="compressing a sample"), SMALLEST_HEADER
    else:
        stream, header = io.BytesIO(), 0
    with stream:
        stream.read(header)
        yield stream
