"""Blobs on their way: fetched from where the connection broke, sent from where the registry has got to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import urllib3

from pipeline.core import progress
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import files
from pipeline.oci.auth import Scope
from pipeline.oci.model import digest_of_file
from pipeline.oci.wire import TROUBLE, UNREACHABLE, BrokenError, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

    from pipeline.oci.model import Descriptor
    from pipeline.oci.wire import Wire

CHUNK = 256 * 1024
OK, CREATED, ACCEPTED, NO_CONTENT, PARTIAL = 200, 201, 202, 204, 206
BAD_REQUEST, NOT_FOUND, RANGE_REFUSED = 400, 404, 416
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


# --- in


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
        while part is not None and (chunk := file.read(CHUNK)):
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
            self._part.unlink(missing_ok=True)


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


# --- out


class Upload:
    """A blob that is sent; see :meth:`Registry.put_blob`.

    Args:
        wire: to which registry.
        repo: to which repository.
        descriptor: its digest and size.
        path: the file.
        chunk_size: bytes of a chunk, where it is sent in such.
        begun: an upload that the registry has begun already.
    """

    def __init__(
        self, wire: Wire, repo: str, descriptor: Descriptor, path: Path, chunk_size: int, begun: str | None = None
    ) -> None:
        self._wire, self._path, self._chunk_size = wire, path, chunk_size
        self._scope, self._digest, self._size = Scope(repo, push=True), descriptor.digest, descriptor.size
        self._what = f"{wire.host}/{repo}: {descriptor.digest}"
        self._blob = wire.url(f"{repo}/blobs/{descriptor.digest}")
        self._start = wire.url(f"{repo}/blobs/uploads/")
        self._location = begun
        self._offset = 0
        self._failures = 0

    def run(self) -> None:
        """Send it.

        Raises:
            InputError: the file is not the blob.
            NetworkError: the registry does not take it.
        """
        try:
            size = self._path.stat().st_size
        except OSError as error:
            raise InputError(f"{self._path}: cannot be read: {error.strerror}", hint="check the path") from error
        if size != self._size:
            raise InputError(f"{self._path} is not {self._digest}: {size} bytes instead of {self._size}", hint=_NOT_IT)
        self._wire.persist(self._attempt, lambda: self._offset)

    def _attempt(self) -> None:
        try:
            if self._failures and self._is_there():
                return
            if self._location is None:
                self._begin()
            if self._failures == 0:
                self._finish(whole=True)
                return
            while self._offset < self._size:
                self._send_chunk()
            self._finish(whole=False)
        except BrokenError:
            self._failures += 1
            raise

    def _is_there(self) -> bool:
        """Look what has become of a failed attempt; returns whether it was none."""
        response = self._wire.send("HEAD", self._blob, self._scope, once=True)
        if response.status_code == OK:
            return True
        if self._location is not None:
            location, self._location = self._location, None
            response = self._wire.send("GET", location, self._scope, once=True)
            # 0-0 may be no byte or one: that is begun anew.
            reached = _reached(response)
            if response.status_code == NO_CONTENT and 1 < reached <= self._size:
                self._offset, self._location = reached, self._following(response, location)
                progress.log(f"{self._what}: continuing after {reached} bytes")
        return False

    def _begin(self) -> None:
        response = self._wire.send("POST", self._start, self._scope, body=b"", once=True)
        if response.status_code != ACCEPTED:
            refuse(response, self._what)
        self._location, self._offset = self._wire.location(response), 0

    def _send_chunk(self) -> None:
        assert self._location is not None
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(self._chunk_size)
        end = self._offset + len(data)
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{self._offset}-{end - 1}"}
        response = self._wire.send("PATCH", self._location, self._scope, headers=headers, body=data, once=True)
        if response.status_code in (NOT_FOUND, RANGE_REFUSED):
            self._forget("the registry forgot the upload", response)
        if response.status_code not in (ACCEPTED, NO_CONTENT):
            refuse(response, self._what)
        self._location = self._following(response, self._location)
        if _reached(response) not in (end, 0):
            raise BrokenError(f"{self._what}: the registry took less than it was sent", hint=TROUBLE)
        self._offset = end

    def _finish(self, *, whole: bool) -> None:
        assert self._location is not None
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}{urllib.parse.urlencode({'digest': self._digest})}"
        headers = {"Content-Type": "application/octet-stream"}
        content = (lambda: self._path.open("rb")) if whole and self._size else b""
        response = self._wire.send("PUT", url, self._scope, headers=headers, body=content, once=True)
        if response.status_code == CREATED:
            return
        if response.status_code in (BAD_REQUEST, NOT_FOUND, RANGE_REFUSED):
            self._refused(response, whole=whole)
        refuse(response, self._what)

    def _refused(self, response: requests.Response, *, whole: bool) -> None:
        """Find out whose fault it is that the registry does not take what was sent."""
        if digest_of_file(self._path, self._digest.partition(":")[0]) != self._digest:
            raise InputError(f"{self._path} is not {self._digest}: its content has another hash", hint=_NOT_IT)
        if not whole or response.status_code == NOT_FOUND:
            self._forget("the registry has forgotten the upload, or has something else than it was sent", response)
        if response.status_code == BAD_REQUEST:
            raise NetworkError(f"{self._what}: the registry received something else than it was sent", hint=MISMATCH)

    def _forget(self, why: str, response: requests.Response) -> NoReturn:
        self._location, self._offset = None, 0
        raise BrokenError(f"{self._what}: {why}: HTTP status {response.status_code}", hint=TROUBLE)

    def _following(self, response: requests.Response, location: str) -> str:
        return self._wire.location(response) if "Location" in response.headers else location


_NOT_IT = "copy or fetch the layout again"


def _reached(response: requests.Response) -> int:
    """Return how many bytes a registry says to have; 0 if it says nothing."""
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
    return int(found[1]) + 1 if found else 0
