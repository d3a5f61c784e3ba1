"""Blobs on their way out: sent from where the registry has got to, by this process or an earlier one."""

from __future__ import annotations

import contextlib
import hashlib
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.core import progress
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci.auth import Scope
from pipeline.oci.blobs import CHUNK, MISMATCH
from pipeline.oci.wire import TROUBLE, Body, BrokenError, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    import requests

    from pipeline.oci.model import Descriptor
    from pipeline.oci.wire import Wire

    BlobContent = Path | Callable[[int], IO[bytes]]

OK, CREATED, ACCEPTED, NO_CONTENT = 200, 201, 202, 204
BAD_REQUEST, NOT_FOUND, RANGE_REFUSED = 400, 404, 416
BUSY = (429, 503)
NOT_IT = "copy or fetch it again: it has been damaged or replaced"


class Content:
    """What is sent, read from any offset and never whole.

    Args:
        descriptor: its digest and size.
        source: a file, or what opens a stream of its bytes from an offset on.
    """

    def __init__(self, descriptor: Descriptor, source: BlobContent) -> None:
        self.digest, self.size, self._source = descriptor.digest, descriptor.size, source
        self.name = str(source) if isinstance(source, Path) else "what was opened to be sent"
        self._stream: IO[bytes] | None = None
        self._at = 0

    def check_size(self) -> None:
        """Refuse a file of another size before anything is sent; a stream shows only when it is read.

        Raises:
            InputError: the file cannot be read, or is not the blob.
        """
        if isinstance(self._source, Path):
            with self._reading():
                size = self._source.stat().st_size
            if size != self.size:
                self.differs(f"{size} bytes instead of {self.size}")

    def check_content(self) -> None:
        """Read everything and refuse what is not the blob.

        Raises:
            InputError: it cannot be read, or is not the blob.
        """
        hasher = hashlib.new(self.digest.partition(":")[0])
        for block in self.body():
            hasher.update(block)
        if f"{hasher.name}:{hasher.hexdigest()}" != self.digest:
            self.differs("its content has another hash")

    def body(self) -> Body:
        """Return everything, as the body of a request."""
        return Body(self._blocks, self.size)

    def part(self, offset: int, size: int) -> bytes:
        """Return some bytes; who asks for one part after another has the source opened only once.

        Raises:
            InputError: it cannot be read, or is not the blob.
        """
        if self._stream is None or self._at != offset:
            self.close()
            self._stream, self._at = self._open(offset), offset
        wanted = min(size, self.size - offset)
        blocks: list[bytes] = []
        while wanted:
            block = self._read(self._stream, wanted)
            blocks.append(block)
            wanted -= len(block)
        return b"".join(blocks)

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def differs(self, how: str) -> NoReturn:
        """Say that the source is not the blob.

        Raises:
            InputError: always.
        """
        raise InputError(f"{self.name} is not {self.digest}: {how}", hint=NOT_IT)

    def _blocks(self) -> Iterator[bytes]:
        self.close()
        self._stream, self._at = self._open(0), 0
        while self._at < self.size:
            yield self._read(self._stream, CHUNK)

    def _read(self, stream: IO[bytes], size: int) -> bytes:
        """Read something; the last bytes are given away only when the source is known to end there, without fault."""
        with self._reading():
            block = stream.read(min(size, self.size - self._at))
            self._at += len(block)
            if not block:
                self.differs(f"{self._at} bytes instead of {self.size}")
            if self._at == self.size and stream.read(1):
                self.differs(f"more than {self.size} bytes")
        return block

    def _open(self, offset: int) -> IO[bytes]:
        with self._reading():
            if not isinstance(self._source, Path):
                return self._source(offset)
            file = self._source.open("rb")
            file.seek(offset)
            return file

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # inside of a request it would pass for a fault of the connection
            raise InputError(f"{self.name}: cannot be read: {error.strerror}", hint="check the path") from error


class Upload:
    """A blob that is sent; see :meth:`Registry.put_blob`.

    Args:
        wire: to which registry.
        repo: to which repository.
        content: what is sent.
        chunk_size: bytes of a chunk, where it is sent in such.
        fresh: an upload that the registry has begun already, still empty.
        begun: an upload that an earlier process began.
        on_begun: told where the upload can be taken up, whenever that changes.
    """

    def __init__(
        self,
        wire: Wire,
        repo: str,
        content: Content,
        chunk_size: int,
        *,
        fresh: str | None = None,
        begun: str | None = None,
        on_begun: Callable[[str], None] | None = None,
    ) -> None:
        self._wire, self._content, self._chunk_size, self._on_begun = wire, content, chunk_size, on_begun
        self._scope, self._digest, self._size = Scope(repo, push=True), content.digest, content.size
        self._what = f"{wire.host}/{repo}: {content.digest}"
        self._blob = wire.url(f"{repo}/blobs/{content.digest}")
        self._start = wire.url(f"{repo}/blobs/uploads/")
        self._location = begun or fresh
        self._offset = 0
        self._goes_on = begun is not None
        if fresh is not None and begun is None:
            self._tell(fresh)

    def run(self) -> None:
        """Send it.

        Raises:
            InputError: the source is not the blob.
            NetworkError: the registry does not take it.
        """
        self._content.check_size()
        with contextlib.closing(self._content):
            self._wire.persist(self._attempt, lambda: self._offset)

    def _attempt(self) -> None:
        try:
            if self._goes_on and self._is_there():
                return
            if self._location is None:
                self._begin()
            if not self._goes_on:
                self._finish(whole=True)
                return
            while self._offset < self._size:
                self._send_chunk()
            self._finish(whole=False)
        except BrokenError:
            self._goes_on = True
            raise

    def _is_there(self) -> bool:
        """Look what has become of an earlier attempt; returns whether nothing is left to do."""
        response = self._wire.send("HEAD", self._blob, self._scope, once=True)
        if response.status_code == OK:
            return True
        if self._location is not None:
            response = self._wire.send("GET", self._location, self._scope, once=True)
            if response.status_code in BUSY:
                refuse(response, self._what)
            location, self._location = self._location, None
            # 0-0 may be no byte or one: that is begun anew.
            reached = _reached(response)
            if response.status_code == NO_CONTENT and 1 < reached <= self._size:
                self._offset = reached
                self._follow(response, location)
                progress.log(f"{self._what}: continuing after {reached} bytes")
        return False

    def _begin(self) -> None:
        response = self._wire.send("POST", self._start, self._scope, body=b"", once=True)
        if response.status_code != ACCEPTED:
            refuse(response, self._what)
        self._location, self._offset = self._wire.location(response), 0
        self._tell(self._location)

    def _send_chunk(self) -> None:
        assert self._location is not None
        data = self._content.part(self._offset, self._chunk_size)
        end = self._offset + len(data)
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{self._offset}-{end - 1}"}
        response = self._wire.send("PATCH", self._location, self._scope, headers=headers, body=data, once=True)
        if response.status_code in (NOT_FOUND, RANGE_REFUSED):
            self._forget("the registry forgot the upload", response)
        if response.status_code not in (ACCEPTED, NO_CONTENT):
            refuse(response, self._what)
        self._follow(response, self._location)
        if _reached(response) not in (end, 0):
            raise BrokenError(f"{self._what}: the registry took less than it was sent", hint=TROUBLE)
        self._offset = end

    def _finish(self, *, whole: bool) -> None:
        assert self._location is not None
        separator = "&" if "?" in self._location else "?"
        url = f"{self._location}{separator}{urllib.parse.urlencode({'digest': self._digest})}"
        headers = {"Content-Type": "application/octet-stream"}
        content = self._content.body if whole and self._size else b""
        response = self._wire.send("PUT", url, self._scope, headers=headers, body=content, once=True)
        if response.status_code == CREATED:
            return
        if response.status_code in (BAD_REQUEST, NOT_FOUND, RANGE_REFUSED):
            self._refused(response, whole=whole)
        refuse(response, self._what)

    def _refused(self, response: requests.Response, *, whole: bool) -> None:
        """Find out whose fault it is that the registry does not take what was sent."""
        self._content.check_content()
        if not whole or response.status_code == NOT_FOUND:
            self._forget("the registry has forgotten the upload, or has something else than it was sent", response)
        if response.status_code == BAD_REQUEST:
            raise NetworkError(f"{self._what}: the registry received something else than it was sent", hint=MISMATCH)

    def _forget(self, why: str, response: requests.Response) -> NoReturn:
        self._location, self._offset = None, 0
        raise BrokenError(f"{self._what}: {why}: HTTP status {response.status_code}", hint=TROUBLE)

    def _follow(self, response: requests.Response, location: str) -> None:
        self._location = self._wire.location(response) if "Location" in response.headers else location
        self._tell(self._location)

    def _tell(self, location: str) -> None:
        if self._on_begun is not None:
            self._on_begun(location)


def _reached(response: requests.Response) -> int:
    """Return how many bytes a registry says to have; 0 if it says nothing."""
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
    return int(found.group(1)) + 1 if found else 0
