"""Real registries on loopback: Debian's docker-registry with TLS, passwords or tokens, and a line that breaks.

docker-registry and skopeo are unpacked, not installed: the first one's package would start a service.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core import process

USER, PASSWORD = "node", "secret-of-the-registry"
BCRYPT = "$2b$04$abcdefghijklmnopqrstuuEAyAnJFDhoYFcnHAG/Nx/ZihF7KXDr2"  # of the password
SERVICE, ISSUER = "registry-of-tests", "issuer-of-tests"


def program(name: str, folder: Path, *packages: str) -> tuple[Path, dict[str, str]]:
    """Return a program, and the environment it needs: the machine's own, or one unpacked from packages."""
    found = shutil.which(name)
    if found:
        return Path(found), {}
    root = folder / f"{name}-root"
    if not root.exists():
        work = folder / f"{name}-packages"
        work.mkdir(parents=True)
        for package in packages:
            fetched = subprocess.run(
                ["apt-get", "download", package], cwd=work, capture_output=True, text=True, check=False
            )
            if fetched.returncode:
                pytest.skip(f"{name} is not installed and {package} cannot be downloaded: {fetched.stderr.strip()}")
        for archive in sorted(work.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    libraries = [str(path) for path in (*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu"))]
    return root / "usr/bin" / name, {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}


def skopeo(folder: Path, *arguments: str | Path) -> str:
    """Run skopeo and return what it prints."""
    packages = ("skopeo", "libgpgme11", "libassuan0", "libdevmapper1.02.1")
    path, environment = program("skopeo", folder, *packages)
    done = subprocess.run(
        [path, "--insecure-policy", *arguments],
        env=os.environ | environment | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Served:
    """A registry that runs.

    Attributes:
        host: ``localhost:port``.
        ca: certificate of its authority; None if it speaks plain HTTP.
        auth_file: credentials for it; None if it wants none.
        root: its storage.
    """

    host: str
    ca: Path | None
    auth_file: Path | None
    root: Path


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Make a certificate that signs for itself; returns it and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    words += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


def auth_file(path: Path, host: str, user: str = USER, password: str = PASSWORD) -> Path:
    """Write credentials as podman and docker do."""
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": word}}}))
    return path


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def registry(
    folder: Path,
    *,
    tls: bool = True,
    password: bool = False,
    token: TokenServer | None = None,
    read_only: bool = False,
) -> Iterator[Served]:
    """Run a docker-registry.

    Args:
        folder: takes its files.
        tls: with a certificate of its own.
        password: with a password.
        token: with a token server.
        read_only: it takes no pushes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    binary, _ = program("docker-registry", folder.parent, "docker-registry")
    cert, key = certificate(folder) if tls else (None, None)
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "storage")},
            "delete": {"enabled": True},
            "maintenance": {"readonly": {"enabled": read_only}},
        },
        "http": {"secret": "of-tests"} | ({"tls": {"certificate": str(cert), "key": str(key)}} if tls else {}),
    }
    if password:
        (folder / "htpasswd").write_text(f"{USER}:{BCRYPT}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    if token is not None:
        config["auth"] = {"token": token.settings}
    for _ in range(10):
        port = free_port()
        config["http"] = {**config["http"], "addr": f"127.0.0.1:{port}"}  # type: ignore[dict-item]
        (folder / "registry.yml").write_text(json.dumps(config))
        words: list[str | Path] = [binary, "serve", folder / "registry.yml"]
        with process.background(words, output=folder / "registry.log") as child:
            if _listens(child, port):
                host = f"localhost:{port}"
                file = auth_file(folder / "auth.json", host) if password or token is not None else None
                yield Served(host, cert, file, folder / "storage")
                return
    raise AssertionError((folder / "registry.log").read_text())


def _listens(child: subprocess.Popen[bytes], port: int) -> bool:
    while child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return child.poll() is None
        time.sleep(0.02)
    return False


# --- tokens


class TokenServer(http.server.ThreadingHTTPServer):
    """Gives tokens that docker-registry believes, to who knows the password.

    Attributes:
        asked: what it was asked for, as queries.
        settings: what the registry has to be told.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.asked: list[dict[str, list[str]]] = []
        self.certificate, self._key = certificate(folder, "issuer")
        self.settings = {
            "realm": f"http://127.0.0.1:{self.server_port}/token",
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(self.certificate),
        }

    def sign(self, scopes: list[str]) -> str:
        """Return a token for some scopes."""
        lines = self.certificate.read_text().splitlines()
        now = int(time.time())
        access = [dict(zip(("type", "name"), scope.split(":")[:2], strict=True)) for scope in scopes]
        granted = [one | {"actions": scope.split(":")[2].split(",")} for one, scope in zip(access, scopes, strict=True)]
        header = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(lines[1:-1])]}
        claims = {"iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + 300, "nbf": now - 60, "iat": now}
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims | {"access": granted}))
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key], input=text.encode(), capture_output=True, check=True
        )
        return f"{text}.{_encoded(signed.stdout)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        self.server.asked.append(query)
        known = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        is_known = self.headers.get("Authorization") == known
        content = json.dumps({"token": self.server.sign(query["scope"])} if is_known else {}).encode()
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Run a server beside us."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


# --- a line that breaks


@dataclass
class Faults:
    """How many bytes a connection may carry, one number for each that breaks; connections without one are good."""

    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    broken: int = 0


class Line(socketserver.ThreadingTCPServer):
    """A line to a registry that is cut, with a reset, after so many bytes."""

    daemon_threads = True

    def __init__(self, target: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Carrier)
        self.target, self.faults, self.lock = int(target.rpartition(":")[2]), faults, threading.Lock()
        self.host = f"localhost:{self.server_address[1]}"


class _Carrier(socketserver.BaseRequestHandler):
    server: Line

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as other:
            threads = [
                threading.Thread(target=self.carry, args=(self.request, other, self.server.faults.up), daemon=True),
                threading.Thread(target=self.carry, args=(other, self.request, self.server.faults.down), daemon=True),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def carry(self, source: socket.socket, target: socket.socket, limits: list[int]) -> None:
        """Carry bytes one way; the line breaks when a connection has carried as many as the first limit says."""
        carried = 0
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
                carried += len(chunk)
                with self.server.lock:
                    if limits and carried > limits[0]:
                        del limits[0]
                        self.server.faults.broken += 1
                        break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
