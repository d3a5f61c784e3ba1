"""Holds the namespaces of a LAN, and clears up when the test is over, however that ended.

Its standard input names what there is, a line each: `host PID START` (a host's first process) and `group DIRECTORY` (a
cgroup). At its end, which comes with the test's, hosts are killed and groups removed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

PATIENCE = 20.0


def start_of(pid: int) -> str:
    """Return when a process started, which tells it from a later one of the same id; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def remove_group(top: Path) -> None:
    """Remove a cgroup and all below it; processes that are still ending are waited for.

    Raises:
        OSError: it is still in use.
    """
    deadline = time.monotonic() + PATIENCE
    while top.exists():
        try:
            for path in sorted([path for path in top.rglob("*/") if path.is_dir()], reverse=True):
                path.rmdir()
            top.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def kill(pid: int, start: str) -> None:
    """Kill a host's first process, and wait until it is gone: then all of the host is."""
    while start and start_of(pid) == start:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.01)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    lines = [line.rstrip("\n").split(" ", 1) for line in sys.stdin]
    for kind, what in lines:
        if kind == "host":
            pid, start = what.split()
            kill(int(pid), start)
    for kind, what in lines:
        if kind == "group":
            remove_group(Path(what))


if __name__ == "__main__":
    main()
