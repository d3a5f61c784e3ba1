"""How far work on many blobs has got: counted while they are read, said every few seconds."""

from __future__ import annotations

import io
import time
from typing import IO, TYPE_CHECKING

from pipeline.core import progress
from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

MB = 1e6
CHUNK = 1024**2
SHOWN_EVERY, LOGGED_EVERY = 5.0, 1.0  # seconds


class GivenUpError(PipelineError):
    """Something else failed, and is what the user is told."""


class Meter:
    """Counts bytes of blobs; threads may share it.

    Args:
        verb: what is done with them.
        total: bytes of all of them.
    """

    def __init__(self, verb: str, total: int) -> None:
        self._verb, self._total = verb, total
        self._at: dict[str, int] = {}
        self._began = self._shown = self._logged = time.monotonic()

    @property
    def sent(self) -> int:
        """Bytes that are done, those of blobs on their way included."""
        return sum(list(self._at.values()))

    def finish(self, key: str, size: int) -> None:
        """Note that a blob of so many bytes is done."""
        self._at[key] = size

    def watch(self, stream: IO[bytes], key: str, offset: int, is_stopped: threading.Event) -> IO[bytes]:
        """Return a stream that counts what is read of another one, which it closes.

        Args:
            stream: a blob's bytes.
            key: which one.
            offset: bytes before the stream's first one.
            is_stopped: once it is set, reading raises :class:`GivenUpError`.
        """

        def tell(at: int) -> None:
            if is_stopped.is_set():
                raise GivenUpError(f"{key}: given up, as something else failed")
            self._at[key] = at

        return io.BufferedReader(_Watched(stream, offset, tell), CHUNK)

    def tick(self) -> None:
        """Say how far it is, if that was not said just now."""
        now = time.monotonic()
        if now - self._logged < LOGGED_EVERY:
            return
        self._logged = now
        done = self.sent
        rate = done / MB / (now - self._began)
        line = f"{done / MB:.1f} of {self._total / MB:.1f} MB {self._verb}, {rate:.1f} MB/s"
        if now - self._shown < SHOWN_EVERY:
            progress.log(line)
            return
        self._shown = now
        progress.note(line)


class _Watched(io.RawIOBase):
    """A stream whose place is told while it is read."""

    def __init__(self, stream: IO[bytes], at: int, tell: Callable[[int], None]) -> None:
        super().__init__()
        self._stream, self._at, self._tell = stream, at, tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        self._tell(self._at)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
