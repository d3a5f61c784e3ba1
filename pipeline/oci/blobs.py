"""Blobs on their way in: fetched from where the connection broke."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import urllib3

from pipeline.core import files, progress
from pipeline.core.errors import NetworkError
from pipeline.oci.auth import Scope
from pipeline.oci.wire import TROUBLE, UNREACHABLE, BrokenError, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from pipeline.oci.wire import Wire

CHUNK = 256 * 1024
OK, PARTIAL, RANGE_REFUSED = 200, 206, 416
MISMATCH = "somebody between here and the registry changes what is sent, or the registry's storage is damaged"


def body(response: requests.Response, what: str) -> Iterator[bytes]:
    """Yield an answer's bytes as they were sent: what is hashed and resumed is not decoded.

    Raises:
        BrokenError: the connection failed.
    """
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise BrokenError(f"{what}: the connection broke: {error}", hint=UNREACHABLE) from error


@dataclass(frozen=True)
class Source:
    """A blob to fetch.

    Attributes:
        repo: where it is.
        url: the same, as a URL.
        digest: what its content must hash to.
        size: its bytes, if known.
    """

    repo: str
    url: str
    digest: str
    size: int | None = None


class _Sink:
    """What was received so far: how much, its hash, and where it goes."""

    def __init__(self, file: IO[bytes], digest: str, part: Path | None) -> None:
        self._file, self._part = file, part
        self._algorithm = digest.partition(":")[0]
        self._hash, self.size = hashlib.new(self._algorithm), 0
        for chunk in iter(lambda: file.read(CHUNK), b"") if part is not None else ():
            self.add(chunk, is_there=True)
        self.is_left_over = self.size > 0

    @property
    def digest(self) -> str:
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def add(self, chunk: bytes, *, is_there: bool = False) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)
        if not is_there:
            with files.storage(self._part or Path("the stream")):
                self._file.write(chunk)

    def restart(self) -> bool:
        """Forget every byte; returns whether that is possible."""
        if self._part is None:
            return False
        with files.storage(self._part):
            self._file.seek(0)
            self._file.truncate()
        self._hash, self.size, self.is_left_over = hashlib.new(self._algorithm), 0, False
        return True

    def remove(self) -> None:
        if self._part is not None:
            with contextlib.suppress(FileNotFoundError):
                self._part.unlink()


class _Download:
    def __init__(self, wire: Wire, source: Source, sink: _Sink) -> None:
        self._wire, self._source, self._sink = wire, source, sink
        self._what = f"{wire.host}/{source.repo}: {source.digest}"
        self._with_ranges = True

    def run(self) -> int:
        self._wire.persist(self._attempt, lambda: self._sink.size)
        return self._sink.size

    def _attempt(self) -> None:
        if self._source.size is None or self._sink.size < self._source.size or self._source.size == 0:
            self._ask()
        if self._source.size is not None and self._sink.size < self._source.size:
            raise BrokenError(f"{self._what}: {self._sink.size} of {self._source.size} bytes came", hint=TROUBLE)
        if self._sink.digest != self._source.digest:
            self._differs(f"its content has another hash: {self._sink.digest}")

    def _ask(self) -> None:
        offset = self._sink.size
        headers = {"Range": f"bytes={offset}-"} if offset and self._with_ranges else {}
        scope = Scope(self._source.repo)
        with self._wire.send("GET", self._source.url, scope, headers=headers, stream=True, once=True) as response:
            skip = self._skipped(response, offset)
            for chunk in body(response, self._what):
                fresh = chunk[skip:]
                skip -= len(chunk) - len(fresh)
                self._sink.add(fresh)
                if self._source.size is not None and self._sink.size > self._source.size:
                    self._differs(f"it has more than its {self._source.size} bytes")

    def _skipped(self, response: requests.Response, offset: int) -> int:
        """Return how many bytes of an answer are here already."""
        if response.status_code not in (OK, PARTIAL, RANGE_REFUSED):
            refuse(response, self._what)
        if response.status_code == OK:
            return offset
        if response.status_code == PARTIAL:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if found is not None and int(found[1]) == offset:
                progress.log(f"{self._what}: continuing after {offset} bytes")
                return 0
        said = f"{self._what}: the registry sends another part than it was asked for"
        if self._with_ranges and offset:
            self._with_ranges = False
            raise BrokenError(said, hint=TROUBLE)
        raise NetworkError(said, hint=MISMATCH)

    def _differs(self, how: str) -> NoReturn:
        # What an earlier process left may be spoilt; what came just now may not.
        if self._sink.is_left_over and self._sink.restart():
            raise BrokenError(f"{self._what}: {how}", hint=MISMATCH)
        self._sink.remove()
        raise NetworkError(f"{self._what}: {how}", hint=MISMATCH)


def fetch(wire: Wire, source: Source, target: Path | IO[bytes]) -> int:
    """Fetch a blob; see :meth:`Registry.get_blob`.

    Raises:
        NetworkError: it cannot be had, or is not what it should be.
        StorageError: it cannot be written.
    """
    if not isinstance(target, Path):
        return _Download(wire, source, _Sink(target, source.digest, None)).run()
    part = target.with_name(f".{target.name}.part")
    with files.storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(part)
    with file:
        sink = _Sink(file, source.digest, part)
        try:
            size = _Download(wire, source, sink).run()
            with files.storage(target):
                file.flush()
                part.replace(target)
        except BaseException:
            if sink.size == 0:
                with contextlib.suppress(OSError):
                    sink.remove()
            raise
    return size


def _locked(part: Path) -> IO[bytes]:
    """Open a part for this process alone; wait for one that has it."""
    while True:
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+b", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        file.close()  # the other process is done with it
