"""A small HTTP server for the tests of download: serves a file, with the faults that its path names.

Usage: server.py FILE PORT_FILE. It writes its port to PORT_FILE, and the log of requests to PORT_FILE.log.
Paths: /file honours Range; /plain ignores it; /refuse-range answers 416; /cut sends the half and breaks off, and the
rest to who asks for it; /always-cut does so every time; /flaky answers 503 twice; /redirect leads to /file.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DATA = Path(sys.argv[1]).read_bytes()
PORT_FILE = Path(sys.argv[2])
COUNTS: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    def do_GET(self) -> None:
        """Serve the file, or the fault."""
        path, wanted = self.path.partition("?")[0], self.headers.get("Range", "")
        with Path(f"{PORT_FILE}.log").open("a", encoding="ascii") as log:
            log.write(f"{path} {wanted or 'whole'}\n")
        COUNTS[path] = COUNTS.get(path, 0) + 1
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if path == "/flaky" and COUNTS[path] < 3:
            self.send_error(503)
        elif path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
        elif path in {"/plain", "/flaky"}:
            self.answer(200, 0, DATA)
        elif path in {"/file", "/cut", "/always-cut", "/refuse-range"}:
            self.ranged(path, start)
        else:
            self.send_error(404)

    def ranged(self, path: str, start: int) -> None:
        """Serve the file from an offset on."""
        if start and (path == "/refuse-range" or start >= len(DATA)):
            self.send_error(416)
            return
        rest = DATA[start:]
        cut = path == "/always-cut" or (path == "/cut" and not start)
        self.answer(206 if start else 200, start, rest, rest[: len(rest) // 2] if cut else rest)

    def answer(self, code: int, start: int, told: bytes, sent: bytes | None = None) -> None:
        """Send a header that tells some bytes, and these or others."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(told)))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")
        self.end_headers()
        self.wfile.write(told if sent is None else sent)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing on stderr."""


def main() -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = PORT_FILE.with_suffix(".new")
    made.write_text(f"{server.server_address[1]}\n", encoding="ascii")
    made.rename(PORT_FILE)
    server.serve_forever()


main()
