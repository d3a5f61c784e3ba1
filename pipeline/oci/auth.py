"""Who we are to a registry: credentials from a docker or podman file, Basic, and the token flow.

Nothing is sent before the registry has asked for it. Credentials and tokens are in no log, error or ``repr``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError, NetworkError
from pipeline.core.network import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
SHORTEST_LIFE = 60.0  # seconds; what a token lives at least, by the specification
MARGIN = 10.0  # seconds; a token that ends so soon is not used any more
_LOGIN = "log in with 'podman login --authfile FILE HOST' or 'docker login HOST', and name that file"


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or what docker calls an identity token, for a registry's token server."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Scope:
    """What a request needs to be allowed.

    Attributes:
        repository: which one it is about; empty for the list of all of them.
        push: whether it writes.
        also: another repository that it reads, for a mount.
        delete: whether it deletes.
    """

    repository: str
    push: bool = False
    also: str = ""
    delete: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """As a token server is asked for them."""
        if not self.repository:
            return ("registry:catalog:*",)
        actions = ["pull"] + ["push"] * (self.push or self.delete) + ["delete"] * self.delete
        own = f"repository:{self.repository}:{','.join(actions)}"
        return (own, f"repository:{self.also}:pull") if self.also else (own,)


def find_auth_file() -> Path | None:
    """Return the file that podman or docker would take credentials from, if there is one."""
    runtime, docker = os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("DOCKER_CONFIG")
    named = os.environ.get("REGISTRY_AUTH_FILE")
    places = [
        Path(named) if named else None,
        Path(runtime, "containers/auth.json") if runtime else None,
        Path(docker or Path.home() / ".docker", "config.json"),
    ]
    return next((path for path in places if path is not None and path.is_file()), None)


def load_credentials(auth_file: Path, host: str, repository: str) -> Credentials | None:
    """Return what a docker ``config.json`` or podman ``auth.json`` has for a repository.

    Args:
        auth_file: the file.
        host: the registry.
        repository: the path in it; podman's file may have credentials for a part of a registry.

    Raises:
        InputError: the file cannot be read, or leads to a helper program.
    """
    content = _read(auth_file)
    auths = {_normal(key): value for key, value in content.get("auths", {}).items() if isinstance(value, dict)}
    names = DOCKER_HUB if host in DOCKER_HUB else (host,)
    for path in (repository, *map(str, Path(repository).parents)):
        for name in names:
            entry = auths.get(name if path in ("", ".") else f"{name}/{path}")
            found = _entry(auth_file, entry) if entry else None
            if found is not None:
                return found
    helpers = content.get("credHelpers") or {}
    if content.get("credsStore") or any(name in helpers for name in names):
        raise InputError(f"{auth_file} leaves the credentials of {host} to a helper program", hint=_LOGIN)
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint=_LOGIN) from error
    except ValueError as error:  # its text may quote a password
        raise InputError(f"{path} is not JSON", hint=_LOGIN) from error.with_traceback(None)
    if not isinstance(content, dict) or not isinstance(content.get("auths", {}), dict):
        raise InputError(f"{path} is no docker config.json or podman auth.json", hint=_LOGIN)
    return content


def _normal(key: str) -> str:
    return re.sub(r"/$", "", re.sub(r"^https?://|/v[12]/?$|/$", "", key))


def _entry(path: Path, entry: Mapping[str, Any]) -> Credentials | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise InputError(f"{path}: an 'auth' in it is not base64 of user:password", hint=_LOGIN) from None
    token = str(entry.get("identitytoken") or "")
    return Credentials(username, password, token) if username or token else None


def challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the ways of logging in that a ``WWW-Authenticate`` header offers, by name in lower case."""
    parts = re.split(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", header, flags=re.IGNORECASE)
    texts = zip(parts[1::2], parts[2::2])  # noqa: B905 - a split with one group: as many of these as of those
    return {name.lower(): dict(_parameters(text)) for name, text in texts}


def _parameters(text: str) -> Iterator[tuple[str, str]]:
    for item in urllib.request.parse_http_list(text):
        key, _, value = item.partition("=")
        yield key.strip().lower(), value.strip().strip('"')


class Authorizer:
    """Answers a registry's challenges, and remembers what it was given; threads may share one.

    Args:
        host: the registry.
        auth_file: where credentials are.
        ask: sends a request to a token server: method, URL, headers, form.
        is_plain: whether credentials may go unencrypted.
    """

    def __init__(
        self,
        host: str,
        auth_file: Path | None,
        ask: Callable[[str, str, dict[str, str], dict[str, str] | None], requests.Response],
        *,
        is_plain: bool,
    ) -> None:
        self._host, self._auth_file, self._ask, self._is_plain = host, auth_file, ask, is_plain
        self._lock = threading.Lock()
        self._challenge: dict[str, dict[str, str]] = {}
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    def header(self, scope: Scope) -> str | None:
        """Return the Authorization header for a request; None as long as the registry has not asked for any."""
        with self._lock:
            return self._header(scope) if self._challenge else None

    def answer(self, challenge: str, scope: Scope, refused: str | None) -> str | None:
        """Return another header after a refusal.

        Args:
            challenge: the ``WWW-Authenticate`` header.
            scope: what the request needs.
            refused: the header it was refused with.

        Returns:
            The header to try again with; None if there is nothing better.

        Raises:
            NetworkError: no token is to be had.
            InputError: the credentials' file is not usable.
        """
        with self._lock:
            self._challenge = challenges(challenge)
            kept = self._tokens.get(scope.words)
            if kept is not None and refused == f"Bearer {kept[0]}":
                del self._tokens[scope.words]
            header = self._header(scope)
        return header if header != refused else None

    def _header(self, scope: Scope) -> str | None:
        credentials = None
        if self._auth_file is not None:
            credentials = load_credentials(self._auth_file, self._host, scope.repository)
        if "bearer" in self._challenge:
            token, ends = self._tokens.get(scope.words, ("", 0.0))
            if time.monotonic() > ends:
                token, ends = self._fetch(self._challenge["bearer"], scope, credentials)
                self._tokens[scope.words] = token, ends
            return f"Bearer {token}"
        return credentials.basic if credentials is not None and "basic" in self._challenge else None

    def _fetch(self, challenge: Mapping[str, str], scope: Scope, credentials: Credentials | None) -> tuple[str, float]:
        realm = challenge.get("realm", "")
        parts = urllib.parse.urlsplit(realm)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._is_plain):
            raise NetworkError(
                f"{self._host}: its token server {redact(realm)!r} is not to be reached by https",
                hint="the registry is set up wrongly (auth.token.realm)",
            )
        asked = time.monotonic()
        response = self._ask(*_token_request(realm, challenge.get("service", ""), scope, credentials))
        return self._token(realm, response, asked)

    def _token(self, realm: str, response: requests.Response, asked: float) -> tuple[str, float]:
        status = response.status_code
        if status in (400, 401, 403):
            raise NetworkError(
                f"{self._host}: its token server {redact(realm)} refuses: HTTP status {status}", hint=_LOGIN
            )
        try:
            content = response.json()
            token = content.get("token") or content.get("access_token")
            life = max(float(content.get("expires_in") or 0), SHORTEST_LIFE)
        except (ValueError, AttributeError, TypeError):
            token, life = None, 0.0
        if not response.ok or not isinstance(token, str):
            raise NetworkError(
                f"{self._host}: its token server {redact(realm)} gave no token: HTTP status {status}",
                hint="the token server is in trouble: try again later",
            )
        return token, asked + life - MARGIN


def _token_request(
    realm: str, service: str, scope: Scope, credentials: Credentials | None
) -> tuple[str, str, dict[str, str], dict[str, str] | None]:
    if credentials is not None and credentials.identity_token:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credentials.identity_token,
            "client_id": "node-images",
            "service": service,
            "scope": " ".join(scope.words),
        }
        return "POST", realm, {}, form
    asked = [("service", service)] if service else []
    asked += [("scope", word) for word in scope.words]
    url = realm + ("&" if "?" in realm else "?") + urllib.parse.urlencode(asked)
    return "GET", url, {"Authorization": credentials.basic} if credentials is not None else {}, None
