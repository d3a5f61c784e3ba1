"""The registry client against a small registry that misbehaves in the ways real ones do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import logging
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import oci
from pipeline.core import progress
from pipeline.core.errors import InputError, NetworkError, StorageError
from pipeline.oci import Descriptor, Registry, RegistryOptions

MIB = 1024**2
CONTENT = random.Random(3).randbytes(3 * MIB)  # noqa: S311 - just bytes
BLOB = Descriptor(oci.OCI_LAYER, oci.digest_of(CONTENT), len(CONTENT))
MANIFEST = b'{ "schemaVersion": 2,  "manifests": [] }'
SECRET = "secret-word"


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the distribution specification as the tests need; what is a fault comes first."""

    protocol_version = "HTTP/1.1"
    server: Fake

    def answer(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        with self.server.lock:
            turn = next((f for f in self.server.faults if f[0] == self.command and re.search(f[1], self.path)), None)
            if turn is not None:
                self.server.faults.remove(turn)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            (turn[2] if turn is not None else Handler.good)(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def say(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def hang_up(self) -> None:
        self.close_connection = True

    def take(self, upload: bytearray, limit: int | None = None) -> None:
        left = int(self.headers.get("Content-Length", 0))
        left = left if limit is None else min(left, limit)
        while left and (chunk := self.rfile.read(min(left, 65536))):
            upload += chunk
            left -= len(chunk)

    def good(self) -> None:
        path, _, query = self.path.partition("?")
        kind, _, name = path.removeprefix("/v2/r/").partition("/")
        if kind == "token":
            self.server.give_token(self, urllib.parse.parse_qs(query))
        elif not self.server.lets_in(self):
            self.take(bytearray())
        elif kind == "manifests" and self.command == "PUT":
            self.take(data := bytearray())
            self.server.manifests[name] = self.server.manifests[oci.digest_of(bytes(data))] = bytes(data)
            self.say(201)
        elif kind == "manifests":
            self.send_content(self.server.manifests.get(name), oci.OCI_INDEX)
        elif name.startswith("uploads/"):
            self.upload(name.removeprefix("uploads/"), urllib.parse.parse_qs(query))
        else:
            self.send_content(self.server.blobs.get(name), "application/octet-stream")

    def send_content(self, content: bytes | None, media_type: str) -> None:
        if content is None:
            self.say(404, b'{"errors":[{"code":"UNKNOWN","message":"nobody knows it"}]}')
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        more = {"Content-Type": media_type, "Docker-Content-Digest": oci.digest_of(content)}
        if found:
            more["Content-Range"] = f"bytes {found[1]}-{len(content) - 1}/{len(content)}"
        self.say(206 if found else 200, content[int(found[1]) :] if found else content, more)

    def upload(self, name: str, query: dict[str, list[str]]) -> None:
        if self.command == "POST":
            self.take(bytearray())
            name = str(len(self.server.uploads))
            self.server.uploads[name] = bytearray()
        upload = self.server.uploads.get(name)
        if upload is None:
            self.take(bytearray())
            self.say(404)
            return
        if self.command == "PATCH" and not self.headers["Content-Range"].startswith(f"{len(upload)}-"):
            self.take(bytearray())
            self.say(416)
            return
        if self.command in {"PATCH", "PUT"}:
            self.take(upload)
        if self.command == "PUT":
            fits = oci.digest_of(bytes(upload)) == query["digest"][0]
            if fits:
                self.server.blobs[query["digest"][0]] = bytes(self.server.uploads.pop(name))
            self.say(201 if fits else 400, b"" if fits else b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        reached = {"Range": f"0-{max(len(upload) - 1, 0)}", "Location": f"/v2/r/blobs/uploads/{name}?state=x"}
        self.say(204 if self.command == "GET" else 202, headers=reached)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


Behaviour = Callable[[Handler], None]


class Fake(http.server.ThreadingHTTPServer):
    """The registry.

    Attributes:
        faults: method, pattern of a path, and what is done once instead of what is right.
        seen: method, path and headers of each request.
        life: seconds that a token is good for; None if there is no token server.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.faults: list[tuple[str, str, Behaviour]] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.tokens: set[str] = set()
        self.has_tokens = False
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Stay silent about connections that the tests break."""

    def lets_in(self, request: Handler) -> bool:
        if not self.has_tokens or request.headers.get("Authorization") in self.tokens:
            return True
        realm = f'Bearer realm="http://{self.host}/v2/r/token?a=b",service="of, tests",scope="repository:r:pull"'
        request.say(401, headers={"WWW-Authenticate": realm})
        return False

    def give_token(self, request: Handler, query: dict[str, list[str]]) -> None:
        known = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
        if request.headers.get("Authorization") != known or query["service"] != ["of, tests"] or query["a"] != ["b"]:
            request.say(401)
            return
        token = f"token-{len(self.tokens)}"
        self.tokens.add(f"Bearer {token}")
        request.say(200, json.dumps({"access_token": token, "expires_in": 300}).encode())

    def count(self, method: str, pattern: str = "") -> int:
        return sum(1 for one in self.seen if one[0] == method and re.search(pattern, one[1]))


@pytest.fixture
def fake() -> Iterator[Fake]:
    with Fake() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "blob").write_bytes(CONTENT)
    return tmp_path / "blob"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is slept, instead of sleeping."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def client(fake: Fake, **changes: Any) -> Registry:  # noqa: ANN401
    known = {"plain_http": True, "retries": 3, "backoff": 0.001, "timeout": 5.0, "chunk_size": MIB}
    return Registry(fake.host, RegistryOptions(**known | changes))


def status(code: int, **headers: str) -> Behaviour:
    def answer(request: Handler) -> None:
        request.take(bytearray())
        request.say(code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def hangs_up(request: Handler) -> None:
    request.hang_up()


def cut_short(after: int) -> Behaviour:
    """Announce everything that is asked for, and send some of it."""

    def answer(request: Handler) -> None:
        content, offset = request.server.blobs[BLOB.digest], 0
        if found := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            offset = int(found[1])
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {offset}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(content) - offset))
        request.end_headers()
        request.wfile.write(content[offset : offset + after])
        request.hang_up()

    return answer


def keeps_some(after: int) -> Behaviour:
    """Take some of an upload, keep it, and hang up."""

    def answer(request: Handler) -> None:
        name = request.path.partition("?")[0].rpartition("/")[2]
        request.take(request.server.uploads[name], after)
        request.hang_up()

    return answer


# ---------------------------------------------------------------------------------------------- patience


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_it_is_tried_again(fake: Fake, code: int) -> None:
    fake.blobs[BLOB.digest] = fake.manifests["v1"] = CONTENT
    fake.faults = [("HEAD", "blobs", status(code))] * 2 + [("GET", "manifests", status(code))] * 2
    fake.manifests["v1"] = MANIFEST
    assert client(fake).has_blob("r", BLOB.digest)
    assert client(fake).get_manifest("r", "v1")[1] == MANIFEST
    assert (fake.count("HEAD"), fake.count("GET")) == (3, 3)


@pytest.mark.parametrize(("asked", "slept"), [("7", 7.0), ("100000", 60.0), ("soon", None)])
def test_the_server_says_how_long(fake: Fake, pauses: list[float], asked: str, slept: float | None) -> None:
    fake.manifests["v1"] = MANIFEST
    fake.faults = [("HEAD", "", status(429, Retry_After=asked)), ("GET", "", status(503, Retry_After=asked))]
    client(fake).head_manifest("r", "v1")
    client(fake).get_manifest("r", "v1")
    assert [pause for pause in pauses if pause > 1] == ([slept] * 2 if slept else [])


def test_patience_ends(fake: Fake) -> None:
    fake.faults = [("HEAD", "", status(500))] * 9 + [("GET", "", status(500))] * 9 + [("GET", "", hangs_up)] * 9
    for ask in (client(fake).head_manifest, client(fake).get_manifest):
        with pytest.raises(NetworkError, match=r"HTTP status 500 .*\(tried 4 times\)") as caught:
            ask("r", "v1")
        assert "try again later" in caught.value.hint
    assert (fake.count("HEAD"), fake.count("GET")) == (4, 4)


def test_a_deadline(fake: Fake) -> None:
    fake.faults = [("GET", "", status(500))] * 50 + [("HEAD", "", status(500))] * 50
    for ask in (
        client(fake, deadline=0.0, retries=40).head_manifest,
        client(fake, deadline=0, retries=40).get_manifest,
    ):
        with pytest.raises(NetworkError, match="HTTP status 500"):
            ask("r", "v1")
    assert fake.count("GET") + fake.count("HEAD") < 6


@pytest.mark.parametrize(
    ("code", "what", "hint"),
    [
        (401, "credentials are missing or wrong", "podman login"),
        (403, "refused: HTTP status 403", "right"),
        (404, "not there", "name"),
        (400, "refused: HTTP status 400", "trouble"),
        (405, "refused: HTTP status 405", "read-only"),
        (413, "refused: HTTP status 413", "client_max_body_size"),
        (507, "refused: HTTP status 507", "disk is full"),
    ],
)
def test_it_is_not_tried_again(fake: Fake, tmp_path: Path, code: int, what: str, hint: str) -> None:
    fake.faults = [("GET", "", status(code))] * 2
    for ask in (
        lambda: client(fake).get_manifest("r", "v1"),
        lambda: client(fake).get_blob("r", BLOB.digest, tmp_path / "x"),
    ):
        with pytest.raises(NetworkError, match=what) as caught:
            ask()
        assert hint in caught.value.hint
        assert caught.value.exit_code == 6
    assert fake.count("GET") == 2


# ------------------------------------------------------------------------------------------------ blobs in


def lies(code: int, range_: str, content: bytes = CONTENT) -> Behaviour:
    return lambda request: request.say(code, content, {"Content-Range": range_})


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        ([], 1),
        ([cut_short(MIB)], 2),
        ([cut_short(MIB), cut_short(100), cut_short(MIB)], 4),
        ([hangs_up, status(500), status(429)], 4),
        ([cut_short(MIB), status(200)], 3),
        ([cut_short(MIB), lies(206, "bytes 5-9/10")], 3),
        ([cut_short(MIB), lies(206, "nonsense")], 3),
        ([cut_short(MIB), lies(200, "")], 2),
        ([cut_short(MIB), status(416)], 3),
    ],
)
def test_a_download_goes_on(fake: Fake, tmp_path: Path, faults: list[Behaviour], requests: int) -> None:
    for target in (tmp_path / "x", io.BytesIO()):
        fake.blobs[BLOB.digest] = CONTENT
        fake.faults, fake.seen = [("GET", "blobs", fault) for fault in faults], []
        assert client(fake).get_blob("r", BLOB.digest, target, size=BLOB.size) == BLOB.size
        assert (target.read_bytes() if isinstance(target, Path) else target.getvalue()) == CONTENT
        assert fake.count("GET") == requests
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", b""], ids=["other", "longer", "empty"])
@pytest.mark.parametrize("size", [BLOB.size, None])
def test_a_wrong_blob(fake: Fake, tmp_path: Path, content: bytes, size: int | None) -> None:
    fake.blobs[BLOB.digest] = content
    with pytest.raises(NetworkError, match=r"another hash|more than its|0 of 3145728 bytes came"):
        client(fake).get_blob("r", BLOB.digest, tmp_path / "x", size=size)
    assert list(tmp_path.iterdir()) == []


def test_what_came_stays_for_the_next_time(fake: Fake, tmp_path: Path) -> None:
    fake.blobs[BLOB.digest] = CONTENT
    fake.faults = [("GET", "blobs", cut_short(MIB))]
    with pytest.raises(NetworkError, match="the connection broke"):
        client(fake, retries=0).get_blob("r", BLOB.digest, tmp_path / "x")
    assert client(fake).get_blob("r", BLOB.digest, tmp_path / "x") == BLOB.size
    assert fake.seen[-1][2]["Range"] == f"bytes={MIB}-"


def test_a_stream_that_takes_no_more(fake: Fake) -> None:
    fake.blobs[BLOB.digest] = CONTENT
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(StorageError, match="No space left"):
        client(fake).get_blob("r", BLOB.digest, full)


# ----------------------------------------------------------------------------------------------- blobs out


@pytest.mark.parametrize(
    ("faults", "uploads", "sent"),
    [
        ([], 1, [("PUT", len(CONTENT))]),
        ([("PUT", "", hangs_up)], 2, [("PATCH", MIB)] * 3),
        ([("PUT", "", keeps_some(2 * MIB))], 1, [("PATCH", MIB)]),
        ([("PUT", "", status(500)), ("PATCH", "", keeps_some(100))], 2, [("PATCH", MIB)] * 3),
        ([("POST", "", status(503)), ("POST", "", hangs_up)], 1, [("PATCH", MIB)] * 3),
        ([("PUT", "", keeps_some(MIB)), ("GET", "uploads", status(404))], 2, [("PATCH", MIB)] * 3),
        ([("PUT", "", keeps_some(MIB)), ("PATCH", "", status(416))], 2, [("PATCH", MIB)] * 3),
        ([("PUT", "", keeps_some(10)), *[("PATCH", "", keeps_some(MIB // 2))] * 2], 1, [("PATCH", MIB)]),
    ],
)
def test_an_upload_goes_on(
    fake: Fake, path: Path, faults: list[tuple[str, str, Behaviour]], uploads: int, sent: list[tuple[str, int]]
) -> None:
    fake.faults = list(faults)
    client(fake).put_blob("r", BLOB, path)
    assert fake.faults == []
    assert fake.blobs == {BLOB.digest: CONTENT}
    assert fake.count("POST") - sum(1 for fault in faults if fault[0] == "POST") == uploads
    bodies = [
        (method, int(headers["Content-Length"])) for method, _, headers in fake.seen if method in {"PUT", "PATCH"}
    ]
    for one in sent:
        assert one in bodies


def test_it_was_there_after_all(fake: Fake, path: Path) -> None:
    def takes_and_hangs_up(request: Handler) -> None:
        request.take(data := bytearray())
        request.server.blobs[BLOB.digest] = bytes(data)
        request.hang_up()

    fake.faults = [("PUT", "", takes_and_hangs_up)]
    client(fake).put_blob("r", BLOB, path)
    assert (fake.count("POST"), fake.count("PUT"), fake.count("HEAD")) == (1, 1, 1)


def test_the_registry_receives_something_else(fake: Fake, path: Path) -> None:
    fake.faults = [("PUT", "", status(400))]
    with pytest.raises(NetworkError, match="received something else than it was sent"):
        client(fake).put_blob("r", BLOB, path)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(InputError, match="its content has another hash"):
        client(fake).put_blob("r", BLOB, path)


def gives(data: bytes) -> Behaviour:
    return lambda request: request.say(200, data, {"Content-Type": oci.OCI_INDEX})


def test_a_manifest_that_comes_back_changed(fake: Fake) -> None:
    digest = oci.digest_of(MANIFEST)
    assert client(fake).put_manifest("r", digest, MANIFEST, oci.OCI_INDEX).digest == digest
    for changed in (MANIFEST.replace(b"  ", b" "), b"{}"):
        fake.faults = [("GET", "manifests", gives(changed))]
        with pytest.raises(NetworkError, match="not what was written"):
            client(fake).put_manifest("r", "v1", MANIFEST, oci.OCI_INDEX)
        fake.faults = [("GET", "manifests", gives(changed))]
        with pytest.raises(NetworkError, match="another hash"):
            client(fake).get_manifest("r", digest)
    with pytest.raises(InputError, match="another hash"):
        client(fake).put_manifest("r", digest, b"{}", oci.OCI_INDEX)


@pytest.mark.parametrize("page", [b"<html>log in</html>", b"[]", b"{}"])
def test_it_is_no_registry(fake: Fake, page: bytes) -> None:
    fake.faults = [(method, "", lambda request: request.say(200, page)) for method in ("HEAD", "GET", "GET", "GET")]
    for ask in (client(fake).head_manifest, client(fake).get_manifest):
        with pytest.raises(NetworkError) as caught:
            ask("r", "v1")
        assert caught.value.hint == "check that this is a registry"
    with pytest.raises(NetworkError, match="cannot be read"):
        client(fake).tags("r")


def test_a_manifest_without_end(fake: Fake) -> None:
    fake.manifests["v1"] = bytes(9 * MIB)
    with pytest.raises(NetworkError, match="no manifest"):
        client(fake).get_manifest("r", "v1")


# -------------------------------------------------------------------------------------------------- tokens


@pytest.fixture
def auth(fake: Fake, tmp_path: Path) -> Path:
    word = base64.b64encode(f"user:{SECRET}".encode()).decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {fake.host: {"auth": word}}}))
    fake.has_tokens = True
    return tmp_path / "auth.json"


def test_a_token_is_asked_for_once_and_again_when_it_ends(fake: Fake, auth: Path, path: Path) -> None:
    registry = client(fake, auth_file=auth)
    registry.put_blob("r", BLOB, path)
    assert registry.has_blob("r", BLOB.digest)
    assert registry.has_blob("r", BLOB.digest)
    assert fake.count("GET", "token") == 2, "one to push and one to pull"
    fake.tokens.clear()
    assert registry.has_blob("r", BLOB.digest)
    assert fake.count("GET", "token") == 3
    asked = urllib.parse.parse_qs(next(one[1] for one in fake.seen if "token" in one[1]).partition("?")[2])
    assert asked["scope"] == ["repository:r:pull,push"]


def test_nobody_hears_of_the_credentials(
    fake: Fake, auth: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake.faults = [("GET", "token", status(200)), ("GET", "token", status(403)), ("HEAD", "", hangs_up)]
    registry, errors = client(fake, auth_file=auth), []
    with progress.session(tmp_path / "log"):
        for _ in range(2):
            with pytest.raises(NetworkError, match=r"its token server .* (gave no token|refuses)") as caught:
                registry.get_manifest("r", "v1")
            errors.append(caught.value.message + caught.value.hint)
        with pytest.raises(oci.NotThereError):
            registry.get_manifest("r", "v1")
    text = "".join(errors) + caplog.text + (tmp_path / "log").read_text() + repr(registry.wire.__dict__)
    for word in (SECRET, base64.b64encode(f"user:{SECRET}".encode()).decode(), "token-0"):
        assert word not in text


@pytest.mark.parametrize("name", ["r", "r/s"])
def test_credentials_go_to_no_other_host(fake: Fake, auth: Path, tmp_path: Path, name: str) -> None:
    with Fake() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        other.blobs[BLOB.digest] = CONTENT
        there = f"http://{other.host}/v2/r/blobs/{BLOB.digest}?signature=x"
        fake.faults = [("GET", "blobs", Handler.good), ("GET", "blobs", status(307, Location=there))]
        client(fake, auth_file=auth).get_blob(name, BLOB.digest, tmp_path / "x")
        other.shutdown()
        thread.join()
    assert hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest() == BLOB.digest.removeprefix("sha256:")
    assert [one[2].get("Authorization") for one in other.seen] == [None]
