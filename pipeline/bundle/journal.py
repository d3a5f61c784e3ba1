"""What a sync has done so far, so that the next one goes on from there; a hint only: what the registry says counts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.core import progress
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
_HINT = "name a directory that can be written to with --state"


def state_directory() -> Path:
    """Return where the state of this user's programs lies (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "node-images" / "sync"


class Journal:
    """Uploads that were begun, of one bundle to one registry; a line each, appended. Threads may share it.

    Use :func:`opened`.
    """

    def __init__(self, file: IO[bytes], head: dict[str, object]) -> None:
        self._file, self._lock = file, threading.Lock()
        self._begun: dict[tuple[str, str], str] = {}
        file.seek(0)
        lines = list(_lines(file.read()))
        if lines[:1] == [head]:
            for line in lines[1:]:
                self._begun[str(line.get("repository")), str(line.get("digest"))] = str(line.get("location"))
        else:  # none yet, or that of something else
            file.truncate(0)
            self._append(head)

    def begun(self, repository: str, digest: str) -> str | None:
        """Return where an earlier sync had begun to send a blob; None if it had not."""
        return self._begun.get((repository, digest))

    def begin(self, repository: str, digest: str, location: str) -> None:
        """Note that a blob is being sent, and where."""
        self._append({"repository": repository, "digest": digest, "location": location})

    def _append(self, line: dict[str, object]) -> None:
        data = json.dumps(line, sort_keys=True).encode() + b"\n"
        with self._lock:
            try:
                self._file.seek(0, os.SEEK_END)
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise StorageError(f"{self._file.name}: {error.strerror}", hint=_HINT) from error


@contextlib.contextmanager
def opened(directory: Path, host: str, bundle_id: str) -> Iterator[Journal]:
    """Open the journal of a sync; another sync of the same bundle to the same registry waits for this one.

    It is removed if the context ends without an exception.

    Raises:
        StorageError: it cannot be written.
    """
    path = directory / (bundle_id.partition(":")[2] + ".journal")
    with _locked(path) as file:
        yield Journal(file, {"version": VERSION, "bundle": bundle_id, "host": host})
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for this process alone; one that was removed meanwhile is opened again."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint=_HINT) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note("another sync of this bundle to this registry is running; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _lines(data: bytes) -> Iterator[dict[str, object]]:
    """Yield the lines that are whole: the last one may have been cut off."""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            value = json.loads(line.decode())
            if isinstance(value, dict):
                yield value
