"""QEMU's control channel: one JSON object per line, over a socket that only we and QEMU have.

The socket is a pair made before QEMU starts: no path that could be too long, be left behind, or be opened by others.

Source: QEMU, docs/interop/qmp-spec.txt.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.core.errors import ToolError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from types import TracebackType

REPLY_SECONDS = 30.0


class Qmp:
    """A conversation with one QEMU.

    Args:
        connection: our end of the pair.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.settimeout(REPLY_SECONDS)
        self._stream = connection.makefile("rb")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()
        self._connection.close()

    def greet(self) -> None:
        """Wait for QEMU to come up and leave its negotiation mode.

        Raises:
            ToolError: it ended or did not answer.
        """
        self._read()
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command and return its result.

        Raises:
            ToolError: QEMU refused it, ended, or did not answer.
        """
        request = {"execute": command, "arguments": dict(arguments or {})}
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise ToolError(f"QEMU does not take the command {command!r}: {error}") from error
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise ToolError(f"QEMU refused {command!r}: {answer['error']}")

    def _read(self) -> dict[str, object]:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise ToolError(f"QEMU does not answer: {error}") from error
        if not line:
            raise ToolError("QEMU closed its control channel")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer
