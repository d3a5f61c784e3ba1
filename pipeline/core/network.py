"""What all that speaks to servers agrees on: patience, what answers mean, authorities, causes of faults."""

from __future__ import annotations

import ssl
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1024**2
REWARD_BYTES = 4 * MIB  # an attempt that got so much further is a fresh start for the count of attempts
NOT_FOUND, GONE = 404, 410
DENIED = (401, 403, 407)
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long a server's faults are borne.

    Attributes:
        retries: attempts after the first one.
        backoff: seconds; the second attempt is made at once, the third after twice this, and the pause doubles on.
        longest_pause: seconds; no pause is longer, whatever the server's ``Retry-After`` asks for.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds to wait for the next bytes.
    """

    retries: int = 5
    backoff: float = 0.5
    longest_pause: float = 60.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0


PATIENT = Patience()
HASTY = Patience(retries=2, connect_timeout=10.0, read_timeout=15.0)


def redact(url: str) -> str:
    """Return a URL that may be shown: without user, password, query values and fragment."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # a port that is none is a password with a slash in it
    except ValueError:
        return f"{url.partition(':')[0]}://..."
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "..." if parts.query else "", ""))


def authorities() -> str | bool:
    """Return the certificate authorities to use unless ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` is set."""
    paths = ssl.get_default_verify_paths()  # knows SSL_CERT_FILE and SSL_CERT_DIR
    if paths.cafile:
        return paths.cafile
    if paths.capath and any(Path(paths.capath).iterdir()):
        return paths.capath
    return True


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and every error that it was made from, the outermost first."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
