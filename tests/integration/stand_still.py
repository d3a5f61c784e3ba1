"""A line to a registry that stands still once: a program, as it runs in a network namespace.

Arguments: host and port to listen on, port of the registry on that host, a file that is made when the line stands
still. That is the first connection to bring a mebibyte; all others are good, before and after it.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from pathlib import Path

LIMIT = 1024**2


class StandStill(socketserver.ThreadingTCPServer):
    """The line."""

    daemon_threads = True

    def __init__(self, host: str, port: int, target: int, told: Path) -> None:
        super().__init__((host, port), _Handler)
        self.target, self.told, self.lock = (host, target), told, threading.Lock()

    def stands_still(self, carried: int) -> bool:
        with self.lock:
            if carried < LIMIT or self.told.exists():
                return False
            self.told.touch()
            return True


class _Handler(socketserver.BaseRequestHandler):
    server: StandStill

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as other:
            back = threading.Thread(target=self.bring, args=(other,), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while chunk := self.request.recv(65536):
                    other.sendall(chunk)
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_RDWR)
            back.join()

    def bring(self, other: socket.socket) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while chunk := other.recv(65536):
                carried += len(chunk)
                if self.server.stands_still(carried):
                    return
                self.request.sendall(chunk)
            self.request.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    with StandStill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])) as line:
        line.serve_forever()
