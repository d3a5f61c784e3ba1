"""Files from the network: resumed, tried again, verified, and put in place at once.

Everything that decides how the network is reached comes from the environment, as users of curl and pip expect:

- proxies from ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``;
- certificate authorities from ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``, in
  this order; without any of them, the system's own store, where a company's authority is installed;
- credentials from ``~/.netrc`` or the file that ``NETRC`` names. They, and those inside a URL, never appear in a log
  or an error: see :func:`pipeline.core.network.redact`.

While a file is on its way it is ``<target>.part``, with ``<target>.part.json`` saying which version of it was begun.
Both survive an interruption, and the next fetch goes on from there. Two processes that fetch the same target take
turns.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.core import progress
from pipeline.core.errors import InputError, NetworkError, StorageError
from pipeline.core.network import (
    DENIED,
    GONE,
    HASTY,
    MIB,
    NOT_FOUND,
    PATIENT,
    REWARD_BYTES,
    TRANSIENT,
    Patience,
    authorities,
    causes,
    redact,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests
    from urllib3 import BaseHTTPResponse, Retry

CHUNK = 256 * 1024
PROGRESS_BYTES = 32 * MIB  # one line of log for so much
OK, PARTIAL, RANGE_REFUSED = 200, 206, 416
T = TypeVar("T")
_KEPT: contextvars.ContextVar[requests.Session | None] = contextvars.ContextVar("connections", default=None)


def fetch(
    url: str, target: Path, *, sha256: str | None = None, size: int | None = None, patience: Patience = PATIENT
) -> str:
    """Fetch a file, or leave the one that is there if it is the right one.

    Args:
        url: an ``http``, ``https`` or ``file`` URL.
        target: where to put it; its directory is made. It appears whole or not at all.
        sha256: what its content must hash to, in hexadecimal. Without it the file is always fetched.
        size: its size in bytes, if known; a server that offers another one is refused before it sends anything.
        patience: how often to try again.

    Returns:
        The content's sha256 in hexadecimal.

    Raises:
        NetworkError: it cannot be had (MissingError if it is not there), or is not what it should be (ContentError).
            What was received in vain is removed; what may be continued stays.
        StorageError: it cannot be written.
        InputError: the URL is of no kind that can be fetched.
    """
    want = _Want(sha256.lower() if sha256 else None, size)
    scheme = _scheme(url)
    with _storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if _is_there(target, want):
        return _already(target, want)
    with _Part.opened(target) as part:
        if _is_there(target, want):  # another process fetched it while we waited for our turn
            part.remove()
            return _already(target, want)
        progress.log(f"fetching {redact(url)}")
        if want.sha256 is None or part.sha256 != want.sha256:
            _copy(url, part, want) if scheme == "file" else _download(url, part, want, patience)
        part.publish(target)
        progress.remark(_human(part.size))
        return part.sha256


def exists(url: str, *, patience: Patience = HASTY) -> bool:
    """Ask whether something can be had at a URL, without fetching it.

    Args:
        url: an ``http``, ``https`` or ``file`` URL.
        patience: how often to try again; little by default, as a user waits for the answer.

    Returns:
        Whether it is there; False only if the server says that it is not.

    Raises:
        NetworkError: the server cannot be reached, refuses us, or fails.
        InputError: the URL is of no kind that can be fetched.
    """
    if _scheme(url) == "file":
        return _local_path(url).exists()

    def ask() -> bool:
        try:
            with _answer(session, url, {}, patience):
                return True
        except MissingError:
            return False

    with _session() as session:
        return _persist(url, patience, ask)


# --- what is wanted, and what is said -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Want:
    sha256: str | None
    size: int | None

    def check_size(self, url: str, offered: int | None, part: _Part) -> None:
        if self.size is not None and offered is not None and offered != self.size:
            part.remove()
            raise ContentError(
                f"{redact(url)}: wrong size: expected {self.size} bytes, got {offered}", hint=_WRONG_CONTENT
            )

    def check(self, url: str, part: _Part) -> None:
        self.check_size(url, part.size, part)
        if self.sha256 is not None and part.sha256 != self.sha256:
            part.remove()
            raise ContentError(
                f"{redact(url)}: wrong checksum: expected sha256 {self.sha256}, got {part.sha256}", hint=_WRONG_CONTENT
            )


_WRONG_CONTENT = "the file was replaced at its source, or a proxy answers for it: compare with the publisher's sum"
_TROUBLE = "the server is in trouble: try again later, or use another mirror"
_CREDENTIALS = "put the credentials for this host into ~/.netrc, mode 0600, or the file that NETRC names"
_AUTHORITY = "if a proxy or a private authority signs for this host, name its certificate in SSL_CERT_FILE"
_UNREACHABLE = "check the host's name, this machine's network, and http_proxy, https_proxy and no_proxy"


class MissingError(NetworkError):
    """The server says that there is no such thing."""


class ContentError(NetworkError):
    """What the server has is not what was wanted."""


class _AgainError(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, *, hint: str, response: BaseHTTPResponse | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.response = response


def _scheme(url: str) -> str:
    scheme = url.partition(":")[0].lower()
    if scheme not in ("http", "https", "file") or "://" not in url:
        raise InputError(
            f"{redact(url)!r} is not a URL that can be fetched", hint="write an http://, https:// or file:// URL"
        )
    return scheme


def _human(size: int) -> str:
    return f"{size / MIB:.1f} MiB" if size >= MIB / 10 else f"{size} bytes"


def _already(target: Path, want: _Want) -> str:
    assert want.sha256 is not None
    progress.log(f"{target.name} is already there")
    progress.remark("already there")
    return want.sha256


# --- storage -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn a failure to write into an error for the user; only file operations go inside."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space ('./invoke clean --cache' empties the cache) and try again"
        else:
            hint = "check that the directory is on a writable file system and belongs to you"
        raise StorageError(f"{path}: cannot be written: {error.strerror}", hint=hint) from error


def _is_there(target: Path, want: _Want) -> bool:
    """Whether the target is the wanted file already; only a checksum can tell."""
    if want.sha256 is None or not target.is_file():
        return False
    if want.size is not None and target.stat().st_size != want.size:
        return False
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == want.sha256


class _Part:
    """A file on its way: its bytes so far, their hash, and which version of the file they belong to."""

    def __init__(self, path: Path, file: io.FileIO) -> None:
        self.path = path
        self.size = 0
        self.resumed = False
        self.published = False
        self._file = file
        self._state_path = path.with_name(path.name + ".json")
        self._hash = hashlib.sha256()
        while chunk := file.read(CHUNK):
            self._hash.update(chunk)
            self.size += len(chunk)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, target: Path) -> Iterator[_Part]:
        """Open the part of a target, for this process alone."""
        path = target.with_name(target.name + ".part")
        with _storage(path):
            file = _locked(path)
        with file:
            with _storage(path):
                part = cls(path, file)
            try:
                yield part
            finally:
                if part.size == 0 and not part.published:
                    part.remove()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self.size += len(chunk)
        rest = memoryview(chunk)
        with _storage(self.path):
            while rest:  # a nearly full disk takes less than it is given
                rest = rest[self._file.write(rest) :]

    def restart(self) -> None:
        """Forget every byte."""
        with _storage(self.path):
            self._file.truncate(0)
            self._file.seek(0)
            self._state_path.unlink(missing_ok=True)
        self._hash, self.size, self.resumed = hashlib.sha256(), 0, False

    def remove(self) -> None:
        with _storage(self.path):
            self._state_path.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)

    def publish(self, target: Path) -> None:
        with _storage(target):
            self._state_path.unlink(missing_ok=True)
            self.path.replace(target)
        self.published = True

    def check_space(self, more: int) -> None:
        """Refuse to begin what cannot fit."""
        with _storage(self.path):
            free = shutil.disk_usage(self.path.parent).free
        if more > free:
            raise StorageError(
                f"{self.path.parent}: {_human(more)} are to be written, but only {_human(free)} are free",
                hint="free some space ('./invoke clean --cache' empties the cache) and try again",
            )

    def remember(self, url: str, headers: Mapping[str, str]) -> None:
        """Note which version of the file is being received, so that it can be continued later."""
        with _storage(self._state_path):
            self._state_path.write_text(json.dumps({"url": _fingerprint(url), "validator": _validator(headers)}))

    def validator(self, url: str) -> str | None:
        """Return what the server called the version that was begun, if it came from this URL."""
        try:
            state = json.loads(self._state_path.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(state, dict) or state.get("url") != _fingerprint(url):
            return None
        validator = state.get("validator")
        return validator if isinstance(validator, str) else None


def _locked(path: Path) -> io.FileIO:
    """Open a part and lock it; wait for a process that has it."""
    while True:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.log(f"waiting for another process that fetches {path.stem}")
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the other process is done with it, and it is no longer what is at this path


def _fingerprint(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()  # the URL itself may hold a password


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what ``If-Range`` may hold: a strong entity tag, else the date."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


# --- file:// -----------------------------------------------------------------------------------------------


def _local_path(url: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise InputError(f"{redact(url)}: a file URL has no host", hint="write file:///path, with three slashes")
    return Path(urllib.parse.unquote(parts.path))


def _copy(url: str, part: _Part, want: _Want) -> None:
    part.restart()
    try:
        with _local_path(url).open("rb") as file:
            want.check_size(url, os.fstat(file.fileno()).st_size, part)
            while chunk := file.read(CHUNK):
                part.append(chunk)
    except OSError as error:
        part.remove()
        kind = MissingError if isinstance(error, FileNotFoundError) else NetworkError
        raise kind(f"{redact(url)}: cannot be read: {error.strerror}", hint="check the path") from error
    want.check(url, part)


# --- http and https ----------------------------------------------------------------------------------------


def _download(url: str, part: _Part, want: _Want, patience: Patience) -> None:
    def attempt() -> None:
        validator = part.validator(url)
        if part.size and validator is None and want.sha256 is None:
            part.restart()  # nothing would tell whether the rest belongs to it
        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        if part.size and validator is not None:
            headers["If-Range"] = validator
        with _answer(session, url, headers, patience) as response:
            _receive(url, response, part, want)
        _check_end(part, want)
        want.check(url, part)

    with _session() as session:
        _persist(url, patience, attempt, lambda: part.size)


def _check_end(part: _Part, want: _Want) -> None:
    """Refuse, until the next attempt, what a fault of this transfer may have spoilt."""
    if want.size is not None and part.size < want.size:
        raise _AgainError(f"the server sent {part.size} of {want.size} bytes", hint=_TROUBLE)
    if part.resumed and want.sha256 not in (None, part.sha256):
        part.restart()
        raise _AgainError("the rest did not fit to what was there", hint=_WRONG_CONTENT)


def _receive(url: str, response: requests.Response, part: _Part, want: _Want) -> None:
    """Add what a response holds to a part."""
    if response.status_code == PARTIAL:
        _check_range(url, response.headers, part)
        part.resumed = True
        progress.log(f"continuing after {_human(part.size)}")
    else:
        part.restart()
        part.remember(url, response.headers)
    length = response.headers.get("Content-Length", "")
    total = part.size + int(length) if length.isascii() and length.isdigit() else None
    want.check_size(url, total, part)
    if total is not None:
        part.check_space(total - part.size)
    told = part.size
    for chunk in _body(response):
        part.append(chunk)
        if want.size is not None and part.size > want.size:
            want.check_size(url, part.size, part)
        if part.size - told >= PROGRESS_BYTES:
            told = part.size
            progress.log(f"{_human(part.size)} of {_human(total) if total else 'unknown size'}")


def _check_range(url: str, headers: Mapping[str, str], part: _Part) -> None:
    """Refuse a part of the file that is not the one that was asked for."""
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    is_wanted = part.size > 0 and found is not None and int(found[1]) == part.size
    begun, now = part.validator(url), _validator(headers)
    if not is_wanted or (begun is not None and now is not None and begun != now):
        part.restart()
        raise _AgainError("the server sent another part of the file than asked for", hint=_WRONG_CONTENT)


def _body(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes as they were sent: what is hashed and resumed is not decoded."""
    import urllib3

    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _AgainError(f"the connection broke: {_reason(error)}", hint=_UNREACHABLE) from error


@contextlib.contextmanager
def connections() -> Iterator[None]:
    """Keep connections open from one fetch to the next, for all that are made inside, also in threads.

    Many small files take as many round trips and questions for the server's address otherwise; some name servers stop
    answering who asks so often.
    """
    with _new_session() as session:
        token = _KEPT.set(session)
        try:
            yield
        finally:
            _KEPT.reset(token)


@contextlib.contextmanager
def _session() -> Iterator[requests.Session]:
    kept = _KEPT.get()
    if kept is not None:
        yield kept
        return
    with _new_session() as session:
        yield session


@contextlib.contextmanager
def _new_session() -> Iterator[requests.Session]:
    import requests

    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        session.headers["User-Agent"] = "node-images"
        session.verify = authorities()
        yield session


@contextlib.contextmanager
def _answer(
    session: requests.Session, url: str, headers: Mapping[str, str], patience: Patience
) -> Iterator[requests.Response]:
    """Ask for a URL and yield the answer, its body not yet read, if it is a good one.

    Raises:
        _AgainError: it may be good the next time.
        MissingError: there is nothing.
        NetworkError: it will not be good.
    """
    import requests

    timeout = (patience.connect_timeout, patience.read_timeout)
    try:
        response = session.get(url, headers=dict(headers), stream=True, timeout=timeout)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        _refuse_certificate(url, error)
        raise _AgainError(_reason(error), hint=_UNREACHABLE) from error
    except (requests.RequestException, ValueError) as error:
        raise NetworkError(f"{redact(url)}: {_reason(error)}", hint="check the address") from error
    with response:
        _check_status(url, response)
        yield response


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    said = f"HTTP status {status} {response.reason or ''}".rstrip()
    if status in (OK, PARTIAL):
        return
    if status in TRANSIENT:
        raise _AgainError(said, hint=_TROUBLE, response=response.raw)
    if status == RANGE_REFUSED:
        raise _AgainError(said, hint=_WRONG_CONTENT)
    if status in (NOT_FOUND, GONE):
        raise MissingError(f"{redact(url)}: not there: {said}", hint="check the address; a mirror drops old versions")
    hint = _CREDENTIALS if status in DENIED else "check the address"
    raise NetworkError(f"{redact(url)}: refused: {said}", hint=hint)


def _persist(url: str, patience: Patience, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
    """Attempt until it works or patience is at its end; getting further renews it."""
    fresh = _policy(patience)
    policy, furthest = fresh, reached()
    while True:
        try:
            return attempt()
        except _AgainError as again:
            if reached() >= furthest + REWARD_BYTES:
                policy, furthest = fresh, reached()
            policy = _one_less(policy, url, again, patience)
            pause = min(_asked_pause(policy, again) or policy.get_backoff_time(), patience.longest_pause)
            progress.log(f"{redact(url)}: {again.reason}; trying again in {pause:.1f} s")
            time.sleep(pause)


def _policy(patience: Patience) -> Retry:
    from urllib3 import Retry

    return Retry(total=patience.retries, backoff_factor=patience.backoff, backoff_max=patience.longest_pause)


def _one_less(policy: Retry, url: str, again: _AgainError, patience: Patience) -> Retry:
    from urllib3.exceptions import MaxRetryError

    try:
        return policy.increment("GET", redact(url), error=again)
    except MaxRetryError:
        tries = f" (tried {patience.retries + 1} times)" if patience.retries else ""
        raise NetworkError(f"{redact(url)}: {again.reason}{tries}", hint=again.hint) from again


def _asked_pause(policy: Retry, again: _AgainError) -> float | None:
    """Return the seconds that the server asks us to wait, if it does."""
    from urllib3.exceptions import InvalidHeader

    if again.response is None:
        return None
    try:
        return policy.get_retry_after(again.response)
    except InvalidHeader:
        return None


def _reason(error: BaseException) -> str:
    """Say why a connection failed, in the words of the system rather than of the libraries around it."""
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)
    texts = [str(cause) for cause in found if str(cause)]
    return re.sub(r"//[^/\s]*@", "//", texts[-1] if texts else type(error).__name__)


def _refuse_certificate(url: str, error: BaseException) -> None:
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise NetworkError(
                f"{redact(url)}: the certificate is not trusted: {cause.verify_message}", hint=_AUTHORITY
            ) from error
