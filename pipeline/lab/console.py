"""What machines write on their consoles: followed while they boot, quoted when they do not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TAIL_LINES = 15
ESCAPES = re.compile(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|c)")
DEAD_ENDS = re.compile(
    r"No bootable (device|option)|UEFI Interactive Shell|grub rescue>|Kernel panic - not syncing|\(initramfs\) "
    r"|You are in emergency mode|Entering emergency mode|Starting Emergency Shell|Give root password for maintenance"
)


def dead_end(line: str) -> bool:
    """Say whether a machine that writes this line will not come up any more."""
    return DEAD_ENDS.search(line) is not None


class ConsoleLog:
    """Reads what a machine writes on its console, as it comes.

    Args:
        path: the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = ""

    def new_lines(self) -> list[str]:
        """Return the lines since the last call, without escape sequences; an unfinished one comes again."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        self._offset += len(data)
        lines = (self._rest + _plain(data)).split("\n")
        self._rest = lines[-1]
        return [line.rstrip() for line in lines if line.strip()]

    def tail(self) -> str:
        """Return its last lines, indented for an error message."""
        lines = _plain(self.path.read_bytes()).split("\n") if self.path.exists() else []
        return "\n".join(f"  | {line}" for line in [line.rstrip() for line in lines if line.strip()][-TAIL_LINES:])


def _plain(data: bytes) -> str:
    return ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r", "\n").replace("\0", "")
