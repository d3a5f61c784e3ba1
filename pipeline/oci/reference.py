"""Names of images: ``host[:port]/path[:tag][@digest]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.core.errors import InputError
from pipeline.oci.model import is_digest

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.(?=[A-Za-z0-9])|(?=:|$)))+(?::\d{1,5})?")
_HOST_6 = re.compile(r"\[[0-9A-Fa-f:]+\](?::\d{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
LONGEST_REPOSITORY = 255
HIGHEST_PORT = 65535
_HINT = "write host[:port]/path[:tag][@sha256:...], with the registry's host, the path in lower case"


def is_host(text: str) -> bool:
    """Return whether a text is ``host`` or ``host:port``."""
    found = _HOST.fullmatch(text) or _HOST_6.fullmatch(text)
    port = text.rpartition(":")[2] if re.search(r":\d+$", text) and not text.endswith("]") else "1"
    return found is not None and 0 < int(port) <= HIGHEST_PORT


def is_repository(text: str) -> bool:
    """Return whether a text is a repository's path."""
    return len(text) <= LONGEST_REPOSITORY and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Return whether a text is a tag."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True)
class Reference:
    """An image's name in a registry.

    Attributes:
        host: the registry, with its port if it has one.
        repository: the path below it.
        tag: which image; None if none is given.
        digest: exactly which image; None if none is given.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read an image's name; nothing is added to it, as docker would add its own host and ``latest``.

        Raises:
            InputError: it is no name, or has no host.
        """
        host, _, rest = text.partition("/")
        rest, at, digest = rest.partition("@")
        repository, colon, tag = rest.partition(":")
        if at and not is_digest(digest):
            raise InputError(f"{text!r} is not an image's name: {digest!r} is not a digest", hint=_HINT)
        if colon and not is_tag(tag):
            raise InputError(f"{text!r} is not an image's name: {tag!r} is not a tag", hint=_HINT)
        if not is_repository(repository):
            raise InputError(f"{text!r} is not an image's name: {repository!r} is not a path", hint=_HINT)
        if not is_host(host) or not ({".", ":"} & set(host) or host == "localhost"):
            raise InputError(f"{text!r} is not an image's name: {host!r} is not a registry's host", hint=_HINT)
        return cls(host, repository, tag if colon else None, digest if at else None)

    @property
    def name(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag, else ``latest``."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.host}/{self.repository}{tag}{digest}"
