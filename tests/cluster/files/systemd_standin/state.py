"""What is known of each unit, kept in /run as systemd keeps it in memory."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .unitfile import RUN

LOGS = Path("/var/log/journal-standin")
_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass
class State:
    """What `systemctl show` tells."""

    active: str = "inactive"
    sub: str = "dead"
    result: str = "success"
    main_pid: int = 0
    exit_status: int = 0
    restarts: int = 0
    since: float = 0.0
    supervisor: int = 0


def directory(name: str) -> Path:
    path = RUN / "units" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def log(name: str) -> Path:
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / f"{name}.log"


def write(name: str, state: State) -> None:
    state.since = time.time()
    new = directory(name) / "state.new"
    new.write_text(json.dumps(asdict(state)))
    new.replace(directory(name) / "state")


def read(name: str) -> State:
    try:
        state = State(**json.loads((RUN / "units" / name / "state").read_text()))
    except FileNotFoundError:
        return State()
    if name.endswith(".service") and state.active not in {"inactive", "failed"} and not is_supervised(name):
        return State("failed", "failed", "resources", since=state.since)  # someone killed the supervisor
    return state


def take(name: str) -> int | None:
    """Lock a unit for a supervisor, which inherits the descriptor; None if it has one."""
    lock = os.open(directory(name) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _WRITE_LOCK)
    except OSError:
        os.close(lock)
        return None
    return lock


def is_supervised(name: str) -> bool:
    lock = os.open(directory(name) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        found = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _WRITE_LOCK)
    finally:
        os.close(lock)
    return bool(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)


def known() -> list[str]:
    return sorted(path.name for path in (RUN / "units").glob("*"))
