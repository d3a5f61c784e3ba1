"""A registry in this process that can what docker-registry cannot, and misbehaves when told to.

It has the referrers API, takes an index whose images are not all there, and keeps what it got of a broken request.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import oci
from tests.integration.registries import Served, serving

_PATH = re.compile(r"/v2/(.+)/(manifests|blobs/uploads|blobs|referrers|tags)/([^/?]*)")


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the distribution specification as a sync needs; what is a fault comes first."""

    protocol_version = "HTTP/1.1"
    server: Site

    def answer(self) -> None:
        """Answer one request."""
        with self.server.lock:
            self.server.seen.append((self.command, self.path))
            turn = next((f for f in self.server.faults if f[0] == self.command and re.search(f[1], self.path)), None)
            if turn is not None:
                self.server.faults.remove(turn)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            (turn[2] if turn is not None else Handler.good)(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def say(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Send an answer; an underscore in a header's name is a hyphen."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def busy(self) -> None:
        """Ask for patience."""
        self.take(bytearray())
        self.say(429, Retry_After="0")

    def reset(self) -> None:
        """End the connection within the request."""
        self.take(bytearray(), 1000)
        self.close_connection = True

    def take(self, into: bytearray, limit: int | None = None) -> None:
        """Read the body, or the first bytes of it."""
        left = int(self.headers.get("Content-Length", 0))
        left = left if limit is None else min(left, limit)
        while left and (chunk := self.rfile.read1(min(left, 65536))):
            into += chunk
            left -= len(chunk)

    def good(self) -> None:
        """Do what is right."""
        path, _, query = self.path.partition("?")
        found = _PATH.fullmatch(path)
        assert found is not None, path
        repo, kind, name = found.groups()
        words = {key: value[0] for key, value in urllib.parse.parse_qs(query).items()}
        {"manifests": self.manifest, "blobs": self.blob, "blobs/uploads": self.upload}.get(kind, self.referrers)(
            repo, name, words
        )

    def manifest(self, repo: str, name: str, _words: dict[str, str]) -> None:
        """Take or give a manifest."""
        known = self.server.repositories.setdefault(repo, Repository())
        if self.command == "PUT":
            self.take(body := bytearray())
            manifest = bytes(body), self.headers["Content-Type"]
            known.manifests[name] = known.manifests[oci.digest_of(manifest[0])] = manifest
            self.say(201)
        elif name not in known.manifests:
            self.say(404)
        else:
            data, media_type = known.manifests[name]
            self.say(200, data, Content_Type=media_type, Docker_Content_Digest=oci.digest_of(data))

    def blob(self, repo: str, name: str, _words: dict[str, str]) -> None:
        """Give a blob."""
        content = self.server.repositories.setdefault(repo, Repository()).blobs.get(name)
        self.say(404 if content is None else 200, content or b"")

    def upload(self, repo: str, name: str, words: dict[str, str]) -> None:
        """Take a blob, or a part of one."""
        known = self.server.repositories.setdefault(repo, Repository())
        if self.command == "POST":
            other = self.server.repositories.get(words.get("from", ""), Repository())
            if self.server.mounts and words.get("mount") in other.blobs:
                known.blobs[words["mount"]] = other.blobs[words["mount"]]
                self.say(201)
                return
            name = str(next(self.server.numbers))
            known.uploads[name] = bytearray()
        upload = known.uploads.get(name)
        if upload is None:
            self.say(404)
            return
        if self.command in {"PATCH", "PUT"}:
            self.take(upload)
        if self.command == "PUT":
            fits = oci.digest_of(bytes(upload)) == words["digest"]
            if fits:
                known.blobs[words["digest"]] = bytes(known.uploads.pop(name))
            self.say(201 if fits else 400)
            return
        status = 204 if self.command == "GET" else 202
        self.say(status, Range=f"0-{max(len(upload) - 1, 0)}", Location=f"/v2/{repo}/blobs/uploads/{name}")

    def referrers(self, repo: str, name: str, _words: dict[str, str]) -> None:
        """Tell what refers to a manifest."""
        found = {}
        for data, media_type in self.server.repositories.get(repo, Repository()).manifests.values():
            if json.loads(data).get("subject", {}).get("digest") == name:
                digest = oci.digest_of(data)
                found[digest] = {"mediaType": media_type, "digest": digest, "size": len(data)}
        listed = oci.canonical({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": list(found.values())})
        self.say(200, listed, Content_Type=oci.OCI_INDEX)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@dataclass
class Repository:
    """What a repository holds."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)


class Site(http.server.ThreadingHTTPServer):
    """The registry.

    Attributes:
        repositories: what it holds.
        faults: method, pattern of a path, and what is done once instead of what is right.
        seen: method and path of each request.
        mounts: whether blobs of other repositories are taken over.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served = Served(f"127.0.0.1:{self.server_port}", None, None, Path())
        self.repositories: dict[str, Repository] = {}
        self.faults: list[tuple[str, str, Callable[[Handler], None]]] = []
        self.seen: list[tuple[str, str]] = []
        self.mounts = True
        self.numbers = itertools.count()
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Stay silent about connections that the tests break."""

    def count(self, method: str, pattern: str = "") -> int:
        """Return how many such requests came."""
        return sum(1 for one in self.seen if one[0] == method and re.search(pattern, one[1]))


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """Run one."""
    server = Site()
    with serving(server):
        yield server
