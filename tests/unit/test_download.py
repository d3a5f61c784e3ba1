"""Downloads, against real servers on the loopback interface that misbehave in the ways real ones do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import random
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.core import download, progress
from pipeline.core.errors import InputError, NetworkError, StorageError
from pipeline.core.network import Patience, redact

REPOSITORY = Path(__file__).parents[2]
CONTENT = random.Random(7).randbytes(1_500_000)  # noqa: S311 - just bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(retries=3, backoff=0.005, longest_pause=0.05, connect_timeout=5, read_timeout=5)
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*PROXY_VARIABLES, *(name.upper() for name in PROXY_VARIABLES), *CA_VARIABLES, "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


# --- a server with faults ----------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: recorded, and answered by the server's next behaviour."""

    server: Server

    def do_GET(self) -> None:
        """Answer with the behaviour whose turn it is."""
        self.server.requests.append(dict(self.headers) | {":path": self.path})
        turn = min(len(self.server.requests), len(self.server.behaviours)) - 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.server.behaviours[turn](self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""

    def head(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def wanted_offset(self) -> int:
        wanted = self.headers.get("Range", "bytes=0-")
        return int(wanted.removeprefix("bytes=").partition("-")[0])


Behaviour = Callable[[Handler], None]


class Server(http.server.ThreadingHTTPServer):
    """A server on loopback that goes through its behaviours, one for each request; the last one stays."""

    daemon_threads = True

    def __init__(self, *behaviours: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = behaviours
        self.requests: list[dict[str, str]] = []

    def url(self, path: str = "/file.bin", userinfo: str = "") -> str:
        return f"http://{userinfo}127.0.0.1:{self.server_address[1]}{path}"


@dataclass
class Site:
    """Starts servers and stops them again."""

    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def serve(self, *behaviours: Behaviour) -> Server:
        server = self.stack.enter_context(Server(*behaviours))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(server.shutdown)
        return server


@pytest.fixture
def site() -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(stack)


def good(content: bytes = CONTENT, etag: str = '"one"') -> Behaviour:
    """Serve as a server should: ranges, but only of the version that is asked for."""

    def answer(request: Handler) -> None:
        offset = request.wanted_offset()
        if offset and request.headers.get("If-Range", etag) == etag:
            body, last = content[offset:], len(content) - 1
            span = {"Content-Range": f"bytes {offset}-{last}/{len(content)}"}
            request.head(206, {"Content-Length": str(len(body)), "ETag": etag} | span)
        else:
            body = content
            request.head(200, {"Content-Length": str(len(body)), "ETag": etag})
        request.wfile.write(body)

    return answer


def drops(after: int, headers: dict[str, str] | None = None, content: bytes = CONTENT) -> Behaviour:
    """Announce everything, send some of it, and hang up."""

    def answer(request: Handler) -> None:
        request.head(200, {"Content-Length": str(len(content)), "ETag": '"one"'} if headers is None else headers)
        request.wfile.write(content[:after])

    return answer


def status(code: int, headers: dict[str, str] | None = None) -> Behaviour:
    return lambda request: request.head(code, {"Content-Length": "0"} | (headers or {}))


def ignores_ranges(request: Handler) -> None:
    request.head(200, {"Content-Length": str(len(CONTENT)), "ETag": '"one"'})
    request.wfile.write(CONTENT)


def lies(span: str | None) -> Behaviour:
    """Answer a range with another one than asked for, if one is asked for."""

    def answer(request: Handler) -> None:
        if not request.wanted_offset():
            good()(request)
            return
        body = CONTENT[1000:]
        headers = {"Content-Length": str(len(body))}
        request.head(206, headers if span is None else headers | {"Content-Range": span})
        request.wfile.write(body)

    return answer


def hangs_up(request: Handler) -> None:
    request.connection.shutdown(socket.SHUT_RDWR)


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("file.bin"))


# --- the way it should be ----------------------------------------------------------------------------------


def test_fetch(site: Site, tmp_path: Path) -> None:
    server = site.serve(good())
    target = tmp_path / "deep" / "down" / "file.bin"
    assert download.fetch(server.url(), target, sha256=SHA256.upper(), size=len(CONTENT)) == SHA256
    assert target.read_bytes() == CONTENT
    assert leftovers(target.parent) == ["file.bin"]
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_the_hash_of_what_was_not_pinned_is_told(site: Site, tmp_path: Path) -> None:
    assert download.fetch(site.serve(good()).url(), tmp_path / "file.bin") == SHA256


def test_what_is_there_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    server, target = site.serve(good()), tmp_path / "file.bin"
    for _ in range(2):
        download.fetch(server.url(), target, sha256=SHA256)
    assert len(server.requests) == 1
    download.fetch(server.url(), target)
    assert len(server.requests) == 2, "without a checksum nothing tells that it is the right one"


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_wrong_file_in_its_place_is_replaced(site: Site, tmp_path: Path, size: int | None) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    download.fetch(site.serve(good()).url(), target, sha256=SHA256, size=size)
    assert target.read_bytes() == CONTENT


def test_an_empty_file(site: Site, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    download.fetch(site.serve(good(b"")).url(), target, size=0)
    assert leftovers(tmp_path) == ["file.bin"]
    assert target.read_bytes() == b""


def test_chunked_and_encoded_bodies_are_kept_as_they_were_sent(site: Site, tmp_path: Path) -> None:
    def answer(request: Handler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.head(200, {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip"})
        for part in (CONTENT[:70_000], CONTENT[70_000:]):
            request.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")
        request.close_connection = True

    download.fetch(site.serve(answer).url(), tmp_path / "file.bin", sha256=SHA256)


def test_redirects_are_followed(site: Site, tmp_path: Path) -> None:
    mirror = site.serve(good())
    front = site.serve(status(302, {"Location": mirror.url()}))
    download.fetch(front.url(), tmp_path / "file.bin", sha256=SHA256)


# --- faults that pass --------------------------------------------------------------------------------------


def test_a_dropped_connection_is_continued(site: Site, tmp_path: Path) -> None:
    server = site.serve(drops(600_000), good())
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert "Range" not in server.requests[0]
    assert server.requests[1]["If-Range"] == '"one"'
    assert 0 < int(server.requests[1]["Range"].removeprefix("bytes=").removesuffix("-")) <= 600_000
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_an_interrupted_fetch_is_continued_by_the_next_one(site: Site, tmp_path: Path) -> None:
    server, target = site.serve(drops(600_000), good()), tmp_path / "file.bin"
    with pytest.raises(NetworkError, match="connection broke"):
        download.fetch(server.url(), target, patience=Patience(retries=0))
    assert leftovers(tmp_path) == ["file.bin.part", "file.bin.part.json"]
    assert download.fetch(server.url(), target) == SHA256
    assert "Range" in server.requests[1]
    assert leftovers(tmp_path) == ["file.bin"]


def test_nothing_is_continued_that_nothing_can_prove(site: Site, tmp_path: Path) -> None:
    server, target = site.serve(drops(600_000, {"Content-Length": str(len(CONTENT))}), good()), tmp_path / "file.bin"
    download.fetch(server.url(), target, patience=QUICK)
    assert "Range" not in server.requests[1]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_a_checksum_is_proof_enough_to_continue(site: Site, tmp_path: Path, headers: dict[str, str]) -> None:
    headers = headers | {"Content-Length": str(len(CONTENT))}
    server = site.serve(drops(600_000, headers), good())
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert "Range" in server.requests[1]
    assert "If-Range" not in server.requests[1]


def test_the_date_serves_where_there_is_no_strong_tag(site: Site, tmp_path: Path) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    headers = {"Content-Length": str(len(CONTENT)), "ETag": 'W/"weak"', "Last-Modified": date}
    server = site.serve(drops(600_000, headers), good())
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert server.requests[1]["If-Range"] == date


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(site: Site, tmp_path: Path) -> None:
    new = b"new" * 100_000
    server = site.serve(drops(600_000), good(new, '"two"'))
    download.fetch(server.url(), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == new


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(ignores_ranges, id="ignores ranges"),
        pytest.param(lies("bytes 1000-1499999/1500000"), id="sends another range"),
        pytest.param(lies(None), id="does not say which range"),
        pytest.param(lies("nonsense"), id="says nonsense"),
        pytest.param(status(416), id="refuses the range"),
    ],
)
@pytest.mark.parametrize("sha256", [SHA256, None])
def test_servers_that_cannot_do_ranges(site: Site, tmp_path: Path, second: Behaviour, sha256: str | None) -> None:
    server = site.serve(drops(600_000), second, good())
    download.fetch(server.url(), tmp_path / "file.bin", sha256=sha256, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_range_of_another_version_is_not_used(site: Site, tmp_path: Path) -> None:
    def other_version(request: Handler) -> None:
        offset = request.wanted_offset()
        request.head(206, {"Content-Range": f"bytes {offset}-9/10", "ETag": '"two"'})

    download.fetch(site.serve(drops(600_000), other_version, good()).url(), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_range_with_other_bytes_is_found_out(site: Site, tmp_path: Path) -> None:
    def other_bytes(request: Handler) -> None:
        offset = request.wanted_offset()
        body = bytes(len(CONTENT) - offset)
        span = f"bytes {offset}-{len(CONTENT) - 1}/{len(CONTENT)}"
        request.head(206, {"Content-Length": str(len(body)), "Content-Range": span})
        request.wfile.write(body)

    server = site.serve(drops(600_000), other_bytes, good())
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert "Range" not in server.requests[2]


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        pytest.param(status(500), 2, id="500 twice"),
        pytest.param(status(503, {"Retry-After": "soon"}), 1, id="503 with nonsense"),
        pytest.param(status(429, {"Retry-After": "0"}), 2, id="429"),
        pytest.param(status(429, {"Retry-After": "3600"}), 1, id="429 that asks for an hour"),
        pytest.param(hangs_up, 3, id="hangs up"),
    ],
)
def test_faults_that_pass(site: Site, tmp_path: Path, fault: Behaviour, times: int) -> None:
    server = site.serve(*[fault] * times, good())
    start = time.monotonic()
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert len(server.requests) == times + 1
    assert time.monotonic() - start < 2


def test_retry_after_is_obeyed(site: Site, tmp_path: Path) -> None:
    server = site.serve(status(429, {"Retry-After": "1"}), good())
    start = time.monotonic()
    download.fetch(server.url(), tmp_path / "file.bin", patience=Patience(retries=1, backoff=0))
    assert 1 <= time.monotonic() - start < 3


def test_getting_further_renews_patience(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "REWARD_BYTES", 100_000)

    def gives_little(request: Handler) -> None:
        offset = request.wanted_offset()
        last = len(CONTENT) - 1
        span = {"Content-Range": f"bytes {offset}-{last}/{len(CONTENT)}"} if offset else {}
        request.head(206 if offset else 200, {"Content-Length": str(len(CONTENT) - offset), "ETag": '"one"'} | span)
        request.wfile.write(CONTENT[offset : offset + 300_000])

    server = site.serve(gives_little)
    download.fetch(server.url(), tmp_path / "file.bin", patience=Patience(retries=1, backoff=0))
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.requests) > 4


# --- faults that stay --------------------------------------------------------------------------------------


def refused(server_url: str, target: Path, **options: object) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        download.fetch(server_url, target, patience=QUICK, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    assert not target.exists()
    return caught.value


def test_wrong_checksum(site: Site, tmp_path: Path) -> None:
    server = site.serve(good())
    error = refused(server.url(), tmp_path / "file.bin", sha256="0" * 64)
    assert error.message == f"{server.url()}: wrong checksum: expected sha256 {'0' * 64}, got {SHA256}"
    assert leftovers(tmp_path) == []
    assert len(server.requests) == 1, "the same file would come again"


def test_wrong_size_is_refused_before_anything_is_sent(site: Site, tmp_path: Path) -> None:
    server = site.serve(good())
    error = refused(server.url(), tmp_path / "file.bin", size=5)
    assert error.message == f"{server.url()}: wrong size: expected 5 bytes, got 1500000"
    assert leftovers(tmp_path) == []


def test_a_body_without_end_is_cut_off(site: Site, tmp_path: Path) -> None:
    def endless(request: Handler) -> None:
        request.head(200)
        while True:
            request.wfile.write(CONTENT)

    error = refused(site.serve(endless).url(), tmp_path / "file.bin", size=1_000_000)
    assert "wrong size: expected 1000000 bytes" in error.message
    assert leftovers(tmp_path) == []


def test_truncated_for_good(site: Site, tmp_path: Path) -> None:
    headers = {"Content-Length": str(len(CONTENT))}
    error = refused(site.serve(drops(600_000, headers)).url(), tmp_path / "file.bin", sha256=SHA256)
    assert "the connection broke" in error.message
    assert "(tried 4 times)" in error.message


def test_truncated_without_a_length(site: Site, tmp_path: Path) -> None:
    server = site.serve(drops(600_000, {}))
    error = refused(server.url(), tmp_path / "file.bin", size=len(CONTENT))
    assert "the server sent 600000 of 1500000 bytes" in error.message
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (404, "not there: HTTP status 404 Not Found", "mirror drops"),
        (401, "refused: HTTP status 401 Unauthorized", "netrc"),
        (403, "refused: HTTP status 403 Forbidden", "netrc"),
        (400, "refused: HTTP status 400 Bad Request", "check the address"),
        (204, "refused: HTTP status 204 No Content", "check the address"),
    ],
)
def test_refusals_are_not_tried_again(site: Site, tmp_path: Path, code: int, message: str, hint: str) -> None:
    server = site.serve(status(code))
    error = refused(server.url(), tmp_path / "file.bin")
    assert error.message == f"{server.url()}: {message}"
    assert hint in error.hint
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == []


def test_trouble_that_stays(site: Site, tmp_path: Path) -> None:
    server = site.serve(status(503))
    error = refused(server.url(), tmp_path / "file.bin")
    assert error.message == f"{server.url()}: HTTP status 503 Service Unavailable (tried 4 times)"
    assert leftovers(tmp_path) == []


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_unreachable_port(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/file.bin"
    error = refused(url, tmp_path / "file.bin")
    assert error.message == f"{url}: Connection refused (tried 4 times)"
    assert "http_proxy" in error.hint


def test_unknown_host(tmp_path: Path) -> None:
    error = refused("http://no-such-host.invalid/file.bin", tmp_path / "file.bin")
    assert "(tried 4 times)" in error.message


def test_a_silent_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin"
        with pytest.raises(NetworkError, match="timed out"):
            download.fetch(url, tmp_path / "file.bin", patience=Patience(retries=1, backoff=0, read_timeout=0.05))


@pytest.mark.parametrize("url", ["ftp://host/x", "/a/path", "", "http:/x", "javascript:x", "file:x"])
def test_what_cannot_be_fetched_at_all(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="is not a URL that can be fetched"):
        download.fetch(url, tmp_path / "file.bin")
    with pytest.raises(InputError):
        download.exists(url)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://ho st/", "http://host:port/x", "http://" + "x" * 70])
def test_broken_urls(tmp_path: Path, url: str) -> None:
    with pytest.raises(NetworkError):
        download.fetch(url, tmp_path / "file.bin", patience=Patience(retries=0))


def test_a_redirect_to_elsewhere_is_refused(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    refused(site.serve(status(302, {"Location": f"file://{secret}"})).url(), tmp_path / "file.bin")


def test_redirects_without_end(site: Site, tmp_path: Path) -> None:
    error = refused(site.serve(status(302, {"Location": "/again"})).url(), tmp_path / "file.bin")
    assert "30 redirects" in error.message


# --- storage -----------------------------------------------------------------------------------------------


FETCH = (
    "import sys, pathlib; from pipeline.core import download; download.fetch(sys.argv[1], pathlib.Path(sys.argv[2]))"
)


def test_full_disk(site: Site, tmp_path: Path) -> None:
    # A file system of its own, as small as they get; without a length nobody can tell that it will not fit.
    url = site.serve(drops(len(CONTENT), {})).url()
    script = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3" "$4" "$1/file.bin"'
    words = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        str(tmp_path),
        sys.executable,
        FETCH,
        url,
    ]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not make a mount namespace")
    assert done.returncode != 0
    assert "StorageError" in done.stderr.splitlines()[-1]
    assert "file.bin.part: cannot be written: No space left on device" in done.stderr.splitlines()[-1]


def test_a_limit_on_file_size(site: Site, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_001, hard))
    try:
        with pytest.raises(StorageError, match=r"file.bin.part: cannot be written: File too large"):
            download.fetch(site.serve(good()).url(), tmp_path / "file.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:700_001]
    assert download.fetch(site.serve(good()).url(), tmp_path / "file.bin") == SHA256


def test_a_link_in_place_of_the_part_is_not_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match=r"file.bin.part: cannot be written"):
        download.fetch(site.serve(good()).url(), tmp_path / "file.bin")
    assert not (tmp_path / "victim").exists()


def test_what_cannot_fit_is_not_begun(site: Site, tmp_path: Path) -> None:
    too_much = 2**60
    server = site.serve(drops(10, {"Content-Length": str(too_much)}))
    with pytest.raises(StorageError, match="are to be written, but only"):
        download.fetch(server.url(), tmp_path / "file.bin")
    assert leftovers(tmp_path) == []


def test_a_directory_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        download.fetch(site.serve(good()).url(), tmp_path / "folder" / "file.bin")


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"url": 1, "validator": 2}', "\x00"])
def test_a_broken_note_about_a_part_does_no_harm(site: Site, tmp_path: Path, state: str) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"junk")
    (tmp_path / "file.bin.part.json").write_text(state)
    download.fetch(site.serve(good()).url(), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_of_something_else_is_dropped(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(b"junk")
    download.fetch(site.serve(good()).url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_finished_part_is_only_put_in_place(site: Site, tmp_path: Path) -> None:
    server = site.serve(good())
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256)
    assert server.requests == []


def test_a_killed_process_loses_nothing(site: Site, tmp_path: Path) -> None:
    enough = threading.Event()

    def stalls(request: Handler) -> None:
        request.head(200, {"Content-Length": str(len(CONTENT)), "ETag": '"one"'})
        request.wfile.write(CONTENT[:800_000])
        enough.wait(10)

    server, target = site.serve(stalls, good()), tmp_path / "file.bin"
    child = subprocess.Popen([sys.executable, "-c", FETCH, server.url(), str(target)], cwd=REPOSITORY)
    part = tmp_path / "file.bin.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.wait()
    enough.set()
    assert not target.exists()
    assert download.fetch(server.url(), target) == SHA256
    assert "Range" in server.requests[1]


def test_two_at_once_take_turns(site: Site, tmp_path: Path) -> None:
    def slowly(request: Handler) -> None:
        request.head(200, {"Content-Length": str(len(CONTENT))})
        request.wfile.write(CONTENT[:700_000])
        time.sleep(0.2)
        request.wfile.write(CONTENT[700_000:])

    server, target = site.serve(slowly), tmp_path / "file.bin"
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(download.fetch(server.url(), target, sha256=SHA256)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SHA256] * 4
    assert len(server.requests) == 1
    assert leftovers(tmp_path) == ["file.bin"]


# --- file:// -----------------------------------------------------------------------------------------------


def test_file_urls(tmp_path: Path) -> None:
    source = tmp_path / "with space.bin"
    source.write_bytes(CONTENT)
    target = tmp_path / "file.bin"
    assert download.fetch(source.as_uri(), target, sha256=SHA256, size=len(CONTENT)) == SHA256
    assert target.read_bytes() == CONTENT
    target.unlink()
    assert "wrong checksum" in refused(source.as_uri(), target, sha256="0" * 64).message
    assert "wrong size" in refused(source.as_uri(), target, size=3).message
    assert leftovers(tmp_path) == []
    assert download.exists(source.as_uri())


def test_file_urls_that_lead_nowhere(tmp_path: Path) -> None:
    url = (tmp_path / "absent").as_uri()
    assert refused(url, tmp_path / "file.bin").message == f"{url}: cannot be read: No such file or directory"
    assert not download.exists(url)
    assert leftovers(tmp_path) == []
    with pytest.raises(InputError, match="a file URL has no host"):
        download.fetch("file://host/x", tmp_path / "file.bin")


# --- what the environment decides --------------------------------------------------------------------------


def forwards(request: Handler) -> None:
    """Be a forward proxy: fetch the absolute URL of the request line and pass it on."""
    parts = urllib.parse.urlsplit(request.path)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80)) as origin:
        origin.sendall(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        while chunk := origin.recv(65536):
            request.wfile.write(chunk)


def test_proxy_from_the_environment(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, proxy = site.serve(good()), site.serve(forwards)
    monkeypatch.setenv("http_proxy", proxy.url("", "user:pass-word@"))
    download.fetch(origin.url(), tmp_path / "file.bin", sha256=SHA256)
    assert proxy.requests[0][":path"] == origin.url()
    assert proxy.requests[0]["Proxy-Authorization"] == f"Basic {base64.b64encode(b'user:pass-word').decode()}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download.exists(origin.url())
    assert len(proxy.requests) == 1


def test_a_broken_proxy_does_not_show_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://user:pass-word@127.0.0.1:{closed_port()}")
    error = refused("http://origin.invalid/file.bin", tmp_path / "file.bin")
    assert "pass-word" not in error.message + error.hint
    assert "Connection refused" in error.message


def wants_password(request: Handler) -> None:
    expected = f"Basic {base64.b64encode(b'user:pass-word').decode()}"
    good()(request) if request.headers.get("Authorization") == expected else status(401)(request)


def test_credentials_from_netrc(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = site.serve(wants_password)
    assert "netrc" in refused(server.url(), tmp_path / "file.bin").hint
    netrc = tmp_path / "credentials"
    netrc.write_text("machine 127.0.0.1 login user password pass-word\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256)


def test_credentials_never_show(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    server = site.serve(drops(600_000), status(500), wants_password)
    url = server.url("/file.bin?token=query-secret", "user:pass-word@")
    with progress.session(log):
        download.fetch(url, tmp_path / "file.bin", patience=QUICK)
        errors = [refused(url, tmp_path / "other.bin", sha256="0" * 64)]
        errors.append(refused(server.url("/file.bin", "user:wrong-word@"), tmp_path / "other.bin"))
        with pytest.raises(NetworkError, match="connection broke") as caught:
            download.fetch(
                site.serve(drops(9)).url("/?k=query-secret", "user:pass-word@"), tmp_path / "x", patience=QUICK
            )
        errors.append(caught.value)
    shown = log.read_text() + "".join(error.message + error.hint for error in errors)
    shown += "".join(path.read_text() for path in tmp_path.glob("*.json"))
    assert "127.0.0.1" in shown
    for secret in ("pass-word", "wrong-word", "query-secret", "user:"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/a/b", "http://host/a/b"),
        ("https://user:word@host:8443/a@b", "https://host:8443/a@b"),
        ("https://user@host/", "https://host/"),
        ("https://us%40er:w:o@r@d@host/a", "https://host/a"),
        ("https://host/a?token=word#word", "https://host/a?..."),
        ("https://user:w/ord@host/a", "https://..."),
        ("http://[::1", "http://..."),
        ("file:///a b", "file:///a b"),
        ("", ""),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    path = directory / "server.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words += f" -addext subjectAltName=IP:127.0.0.1 -keyout {path} -out {directory / 'certificate.pem'}"
    subprocess.run(words.split(), check=True, capture_output=True)
    with path.open("a") as file:
        file.write((directory / "certificate.pem").read_text())
    return path


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_authorities_from_the_environment(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path, variable: str
) -> None:
    server = site.serve(good())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url().replace("http:", "https:")
    error = refused(url, tmp_path / "file.bin")
    assert f"{url}: the certificate is not trusted" in error.message
    assert "(tried" not in error.message, "it will not be trusted the next time either"
    assert "SSL_CERT_FILE" in error.hint
    monkeypatch.setenv(variable, str(certificate.with_name("certificate.pem")))
    download.fetch(url, tmp_path / "file.bin", sha256=SHA256)


# --- asking ------------------------------------------------------------------------------------------------


def test_exists(site: Site) -> None:
    endless = site.serve(drops(10, {"Content-Length": str(10**12)}))
    assert download.exists(endless.url()), "the body is not read"
    assert not download.exists(site.serve(status(404)).url())
    assert not download.exists(site.serve(status(410)).url())
    assert download.exists(site.serve(status(503), good()).url(), patience=QUICK)


def test_exists_with_trouble(site: Site) -> None:
    with pytest.raises(NetworkError, match="refused: HTTP status 403 Forbidden"):
        download.exists(site.serve(status(403)).url())
    with pytest.raises(NetworkError, match=r"HTTP status 500 .*\(tried 4 times\)"):
        download.exists(site.serve(status(500)).url(), patience=QUICK)
    with pytest.raises(NetworkError, match="Connection refused") as caught:
        download.exists(f"http://127.0.0.1:{closed_port()}/dists/stable/InRelease", patience=QUICK)
    assert "network" in caught.value.hint


# --- the rest ----------------------------------------------------------------------------------------------


def test_progress(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PROGRESS_BYTES", 500_000)
    server = site.serve(status(500), drops(600_000), good())
    with progress.session(tmp_path / "log") as session:
        with progress.step("first"):
            download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
        with progress.step("second"):
            download.fetch(server.url(), tmp_path / "file.bin", sha256=SHA256, patience=QUICK)
    assert [step.remark for step in session.times] == ["1.4 MiB", "already there"]
    log = (tmp_path / "log").read_text()
    for line in (
        "fetching http://127",
        "500 Internal Server Error; trying again in 0.0 s",
        "continuing after",
        "of 1.4 MiB",
    ):
        assert line in log


def test_memory_stays_small(site: Site, tmp_path: Path) -> None:
    size = 128 * 1024**2

    def big(request: Handler) -> None:
        request.head(200, {"Content-Length": str(size)})
        for _ in range(128):
            request.wfile.write(bytes(1024**2))

    # Not ru_maxrss: that of a new program counts the memory of the process that started it, here all of pytest's.
    script = f"{FETCH}; print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    done = subprocess.run(
        [sys.executable, "-c", script, site.serve(big).url(), str(tmp_path / "file.bin")],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 100 * 1024, "KiB"
    assert (tmp_path / "file.bin").stat().st_size == size
    (tmp_path / "file.bin").unlink()


def test_the_note_beside_a_part_holds_no_url(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NetworkError):
        download.fetch(site.serve(drops(600_000)).url(), tmp_path / "file.bin", patience=Patience(retries=0))
    state = json.loads((tmp_path / "file.bin.part.json").read_text())
    assert state["validator"] == '"one"'
    assert "127.0.0.1" not in json.dumps(state)
