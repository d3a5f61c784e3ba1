"""Requests to a registry: sent again where that may help, authorized when asked for, explained when refused."""

from __future__ import annotations

import functools
import ssl
import time
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InsecureRequestWarning, InvalidHeader, MaxRetryError

from pipeline.core import network, progress
from pipeline.core.errors import InputError, NetworkError
from pipeline.core.network import DENIED, GONE, NOT_FOUND, PATIENT, REWARD_BYTES, TRANSIENT, redact
from pipeline.oci.auth import DOCKER_HUB, Authorizer, Scope
from pipeline.oci.faults import NotThereError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from pipeline.oci.options import RegistryOptions

T = TypeVar("T")
CONNECTIONS = 16
UNAUTHORIZED = 401
WHOLE = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})  # requests that do the same when they are sent twice
LOGIN = "name a file with credentials for this registry: 'podman login --authfile FILE HOST' writes one"
TROUBLE = "the registry is in trouble or busy: try again later; its own log says more"
UNREACHABLE = "check the registry's name and port, that it runs, and http_proxy, https_proxy and no_proxy"
HINTS = {
    **dict.fromkeys(DENIED, "ask for the right to do this in the registry, or use other credentials"),
    405: "the registry is read-only, or only a mirror of another one: use another one, or wait until it takes pushes",
    413: "the registry, or a proxy before it, takes no requests of this size: raise its limit (nginx: "
    "client_max_body_size 0)",
    507: "the registry's disk is full: free some space there; what has arrived is not sent again",
}
AUTHORITY = "name the certificate of the authority that signed for the registry (CA), or ask the site for it"
SPEAKS_PLAIN = "the registry may speak plain HTTP, or another protocol, on this port: check the port"


class BrokenError(Exception):
    """An attempt failed in a way that another one may not.

    Args:
        message: what went wrong.
        hint: what the user may do if it stays so.
        response: what the registry said, if it said something.
    """

    def __init__(self, message: str, *, hint: str, response: requests.Response | None = None) -> None:
        super().__init__(message)
        self.message, self.hint, self.response = message, hint, response


class Policy(urllib3.Retry):
    """urllib3's policy with an end in time, and without vain repetition where TLS is not to be had.

    The longest pause is kept here, as urllib3 1.26, which bundle.pyz has, cannot be told it.
    """

    def __init__(self, *args: Any, deadline: float, begun: float | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.deadline, self.begun = deadline, begun

    def new(self, **kwargs: Any) -> Self:  # noqa: ANN401
        """Return a copy with changes."""
        return super().new(**{"deadline": self.deadline, "begun": self.begun, **kwargs})

    def increment(self, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Return the policy for the next attempt, or raise if there is to be none."""
        error = kwargs.get("error")
        if error is not None and _tls_fault(error):
            raise MaxRetryError(None, "", error)  # type: ignore[arg-type]
        following = super().increment(*args, **kwargs)
        following.begun = following.begun or time.monotonic()
        if time.monotonic() - following.begun > self.deadline:
            raise MaxRetryError(None, "", error)  # type: ignore[arg-type]
        return following

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        """Return the pause that a server asks for; None if it does not, or says it in no known way."""
        try:
            asked = super().get_retry_after(response)
        except InvalidHeader:
            return None
        return None if asked is None else min(asked, PATIENT.longest_pause)

    def get_backoff_time(self) -> float:
        """Return the pause of our own choice."""
        return min(super().get_backoff_time(), PATIENT.longest_pause)


@dataclass(frozen=True)
class _Header(requests.auth.AuthBase):
    """Sets one header, and keeps requests from looking into a netrc file, which is not meant for registries."""

    value: str | None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.value is not None:
            request.headers["Authorization"] = self.value
        return request


class _Session(requests.Session):
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Send credentials to no other host than that they are for."""
        old, new = (urllib.parse.urlsplit(sent.url or "") for sent in (response.request, prepared_request))
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            prepared_request.headers.pop("Authorization", None)


class Body:
    """The body of a request that is too large for memory, in blocks, each sent as it comes.

    requests sends it with its length and not in HTTP chunks, as it has one; what it iterates over decides how much is
    sent at once, not the version of urllib3.

    Args:
        blocks: begins to read.
        size: bytes of all blocks.
    """

    def __init__(self, blocks: Callable[[], Iterator[bytes]], size: int) -> None:
        self._blocks, self._size = blocks, size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks()


class Wire:
    """Sends requests to one registry; threads may share one.

    Args:
        host: the registry.
        options: how to reach it.

    Raises:
        InputError: the authority's certificate is not there.
    """

    def __init__(self, host: str, options: RegistryOptions) -> None:
        self.host, self._options = host, options
        scheme = "http" if options.plain_http else "https"
        self._base = f"{scheme}://{DOCKER_HUB[-1] if host in DOCKER_HUB else host}"
        if options.ca is not None and not options.ca.is_file():
            raise InputError(f"{options.ca}: there is no such certificate", hint="check the path of the CA file")
        if options.insecure_tls:
            urllib3.disable_warnings(InsecureRequestWarning)  # it was asked for
        self._verify = _authorities(options)
        self._patient, self._once = self._session(options.retries), self._session(0)
        self._authorizer = Authorizer(host, options.auth_file, self._ask_token, is_plain=options.plain_http)

    def _session(self, retries: int) -> requests.Session:
        session = _Session()
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "node-images"})
        adapter = HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS, max_retries=self._policy(retries))
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def _policy(self, retries: int) -> Policy:
        return Policy(
            total=retries,
            allowed_methods=WHOLE,
            status_forcelist=TRANSIENT,
            backoff_factor=self._options.backoff,
            raise_on_status=False,
            deadline=self._options.deadline,
        )

    def url(self, path: str) -> str:
        """Return the URL of a path below ``/v2/``."""
        return f"{self._base}/v2/{path}"

    def location(self, response: requests.Response) -> str:
        """Return where a response leads to.

        Raises:
            NetworkError: it leads nowhere.
        """
        found = response.headers.get("Location")
        if not found:
            raise NetworkError(f"{self.host}: the registry names no place to upload to", hint=TROUBLE)
        url = urllib.parse.urljoin(response.url, found)
        # A registry behind a proxy may not know that it is reached by TLS.
        is_secure = self._base.startswith("https:")
        return "https" + url[len("http") :] if is_secure and url.startswith("http:") else url

    def send(
        self,
        method: str,
        url: str,
        scope: Scope,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | Callable[[], Body] | None = None,
        stream: bool = False,
        once: bool = False,
    ) -> requests.Response:
        """Send a request and return the answer, whatever it is.

        Args:
            method: its method.
            url: where to.
            scope: what it needs to be allowed.
            headers: its headers.
            body: bytes, or what returns the body, called again if it has to be sent again.
            stream: do not read the body of the answer.
            once: a fault is not borne here but raised at once: the caller has to look what has become of it.

        Raises:
            BrokenError: the connection failed; without ``once``, as often as is borne.
            NetworkError: it cannot be sent, or nobody is to be trusted.
        """
        ours = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(self._base).netloc
        header = self._authorizer.header(scope) if ours else None
        send = functools.partial(self._send, method, url, headers=headers or {}, body=body, stream=stream, once=once)
        response = send(header)
        if response.status_code == UNAUTHORIZED and ours:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            better = self._authorizer.answer(challenge, scope, header)
            if better is not None:
                response = send(better)
        return response

    def _send(
        self,
        method: str,
        url: str,
        header: str | None,
        *,
        headers: dict[str, str],
        body: bytes | Callable[[], Body] | None,
        stream: bool = False,
        once: bool = False,
        form: dict[str, str] | None = None,
    ) -> requests.Response:
        session = self._once if once else self._patient
        data: Any = body() if callable(body) else body  # typeshed does not know that any iterable will do
        try:
            return session.request(
                method,
                url,
                headers=headers,
                data=form or data,
                auth=_Header(header),
                stream=stream,
                verify=self._verify,
                timeout=(min(PATIENT.connect_timeout, self._options.timeout), self._options.timeout),
                allow_redirects=method in {"GET", "HEAD"},
            )
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            self._explain(url, error)
        except (requests.RequestException, ValueError) as error:
            raise NetworkError(f"{redact(url)}: {_words(error)}", hint="check the registry's address") from error

    def _ask_token(
        self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None
    ) -> requests.Response:
        header = headers.get("Authorization")
        try:
            return self._send(method, url, header, headers={}, body=None, form=form)
        except BrokenError as broken:
            raise NetworkError(broken.message, hint=broken.hint) from broken

    def _explain(self, url: str, error: Exception) -> NoReturn:
        """Say why a connection failed."""
        fault = _tls_fault(error)
        if fault:
            raise NetworkError(f"{redact(url)}: {fault[0]}", hint=fault[1]) from error
        raise BrokenError(f"{redact(url)}: {_words(error)}", hint=UNREACHABLE) from error

    def persist(self, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        """Attempt until it works or patience is at its end; getting much further renews it.

        Args:
            attempt: what to do; raises BrokenError if it may work the next time.
            reached: how far it got, in bytes.

        Raises:
            NetworkError: it did not work.
        """
        policy, furthest = self._policy(self._options.retries), reached()
        while True:
            try:
                return attempt()
            except BrokenError as broken:
                if reached() >= furthest + REWARD_BYTES:
                    policy, furthest = self._policy(self._options.retries), reached()
                try:
                    policy = policy.increment("GET", self.host, error=broken)
                except MaxRetryError:
                    raise NetworkError(broken.message + self._tries, hint=broken.hint) from broken
                progress.log(f"{broken.message}; trying again")
                policy.sleep(broken.response.raw if broken.response is not None else None)

    def asked(self, attempt: Callable[[], T]) -> T:
        """Make one attempt that has borne its faults itself.

        Raises:
            NetworkError: it did not work.
        """
        try:
            return attempt()
        except BrokenError as broken:
            raise NetworkError(broken.message + self._tries, hint=broken.hint) from broken

    @property
    def _tries(self) -> str:
        return f" (tried {self._options.retries + 1} times)" if self._options.retries else ""


def refuse(response: requests.Response, what: str) -> NoReturn:
    """Say what an answer means that is not the wanted one.

    Args:
        response: the answer.
        what: what was asked for.

    Raises:
        BrokenError: it may be different the next time.
        NotThereError: there is no such thing.
        NetworkError: it is refused.
    """
    status = response.status_code
    said = f"HTTP status {status} {response.reason or ''}".rstrip() + _complaint(response)
    if status in TRANSIENT:
        raise BrokenError(f"{what}: {said}", hint=TROUBLE, response=response)
    if status in (NOT_FOUND, GONE):
        hint = "check the name; or it has been deleted from the registry"
        raise NotThereError(f"{what}: not there: {said}", hint=hint)
    if status == UNAUTHORIZED:
        raise NetworkError(f"{what}: credentials are missing or wrong: {said}", hint=LOGIN)
    raise NetworkError(f"{what}: refused: {said}", hint=HINTS.get(status, TROUBLE))


def _complaint(response: requests.Response) -> str:
    """Return the registry's own words, if it has some."""
    try:
        errors = response.json()["errors"]
        words = [f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors]
    except (ValueError, LookupError, TypeError, AttributeError, requests.RequestException):
        return ""
    return f": {'; '.join(words)[:300]}" if words else ""


def _authorities(options: RegistryOptions) -> str | bool:
    if options.insecure_tls:
        return False
    if options.ca is not None:
        return str(options.ca)
    return network.authorities()  # the system's, where a company's authority is


def _tls_fault(error: BaseException) -> tuple[str, str] | None:
    """Return what is wrong with the other side's TLS, and a hint, if that is what is wrong."""
    for cause in network.causes(error):
        # Python 3.6 has a plain SSLError with that reason, and a CertificateError without a message of its own.
        if isinstance(cause, ssl.CertificateError) or getattr(cause, "reason", "") == "CERTIFICATE_VERIFY_FAILED":
            words = getattr(cause, "verify_message", cause)
            return f"the registry's certificate is not trusted: {words}", AUTHORITY
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
            return "no TLS is spoken there", SPEAKS_PLAIN
    return None


def _words(error: BaseException) -> str:
    """Say why, in the words of the system rather than of the libraries around it."""
    found = list(network.causes(error))
    said = [str(cause.strerror) for cause in found if isinstance(cause, OSError) and cause.strerror]
    return said[0] if said else str(found[-1]) or type(found[-1]).__name__
