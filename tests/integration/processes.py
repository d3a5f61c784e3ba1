"""What processes and mounts there are, read from /proc, and that they go away."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

DEADLINE = 30.0  # seconds; only a test that fails gets there


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one of the same id."""

    pid: int
    started: int
    parent: int
    session: int
    name: str


def find(pid: int) -> Process | None:
    """Return a process that runs; None if it ended, even if nobody has asked for its exit status yet."""
    with contextlib.suppress(OSError):
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        words = after.split()  # proc(5): the third field, the state, is the first here
        if words[0] not in "ZX":
            return Process(pid, int(words[19]), int(words[1]), int(words[3]), before.partition("(")[2])
    return None


def everything() -> list[Process]:
    return [found for name in os.listdir("/proc") if name.isdigit() and (found := find(int(name)))]


def descendants(pid: int) -> list[Process]:
    """Return what a process started, and what those started, and so on."""
    found: list[Process] = []
    parents, processes = {pid}, everything()
    while below := [item for item in processes if item.parent in parents and item not in found]:
        found += below
        parents = {item.pid for item in below}
    return found


def in_session(session: int) -> list[Process]:
    """Return what runs in a session; a process leaves it only if it asks to."""
    return [item for item in everything() if item.session == session]


def wait_until_gone(processes: list[Process]) -> None:
    deadline = time.monotonic() + DEADLINE
    while left := [item for item in processes if _is_same(item)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.02)


def _is_same(item: Process) -> bool:
    now = find(item.pid)
    return now is not None and now.started == item.started


def mounts() -> str:
    """Return the mounts of this process's namespace."""
    return Path("/proc/self/mounts").read_text()


def loop_devices() -> list[str]:
    """Return the loop devices that have a file."""
    return sorted(str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file"))
