"""A package archive on loopback that passes on the real one, and can lie."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Change = Callable[[bytes], bytes]


@dataclass
class Mirror:
    """The archive.

    Attributes:
        url: where it is.
        changes: what is done to files, by regular expressions that their paths match.
        asked: paths that were asked for.
    """

    url: str
    changes: dict[str, Change] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


def flipped(content: bytes) -> bytes:
    """Turn one bit over."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@contextlib.contextmanager
def passing_on(upstream: str) -> Iterator[Mirror]:
    """Run an archive that has what the upstream one has."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:  # the base class calls it so
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            mirror.asked.append(self.path)
            try:
                with urllib.request.urlopen(upstream.rstrip("/") + self.path, timeout=60) as answer:  # noqa: S310
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    status, content = error.code, b""
            for pattern, change in mirror.changes.items():
                if re.search(pattern, self.path):
                    content = change(content)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # apt closes connections when it has seen enough

    with Server(("127.0.0.1", 0), Handler) as server:
        mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()
