"""What a sync has done so far, so that the next one goes on from there; a hint only: what the registry says counts.

A line of JSON each: a head, uploads that were begun and where, blobs and images that are finished. ::

    {"bundle": "sha256:...", "host": "registry.site.example:5000", "version": 1}
    {"digest": "sha256:...", "location": "https://...", "repository": "platform/app"}
    {"blob": "sha256:...", "repository": "platform/app"}
    {"image": "sha256:...", "repository": "platform/app"}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import files, progress
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.bundle.model import Bundle

VERSION = 1
SHORT = 12  # digits of a bundle's identity in the name of what is kept of it
_HINT = "name a directory that can be written to with --state"


def state_directory() -> Path:
    """Return where the state of this user's programs lies (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "node-images" / "sync"


class Journal:
    """The journal of one bundle's sync to one registry, opened by :func:`opened`; threads may share it.

    Attributes:
        has_waited: whether another sync was waited for: what was asked before may be different now.
        images: how many images are noted as finished.
    """

    def __init__(self, file: int, path: Path, head: dict[str, object], *, has_waited: bool) -> None:
        self.has_waited, self.images = has_waited, 0
        self._file, self._path, self._lock = file, path, threading.Lock()
        self._is_lost = False
        self._begun: dict[tuple[str, str], str] = {}
        data = _read(file)
        lines = list(_lines(data))
        if lines[:1] == [head]:
            for line in lines[1:]:
                self._take(line)
            if not data.endswith(b"\n"):  # a process was killed while it wrote
                self._write(b"\n")
        else:  # none yet, or that of something else
            os.ftruncate(file, 0)
            self._append(head)

    def _take(self, line: dict[str, Any]) -> None:
        repository = str(line.get("repository"))
        if "location" in line:
            self._begun[repository, str(line.get("digest"))] = str(line["location"])
        self._begun.pop((repository, str(line.get("blob"))), None)
        self.images += "image" in line

    def begun(self, repository: str, digest: str) -> str | None:
        """Return where a sync had begun to send a blob; None if it had not, or has finished."""
        return self._begun.get((repository, digest))

    def begin(self, repository: str, digest: str, location: str) -> None:
        """Note that a blob is being sent, and where."""
        with self._lock:
            self._begun[repository, digest] = location
        self._append({"repository": repository, "digest": digest, "location": location})

    def finish_blob(self, repository: str, digest: str) -> None:
        """Note that a blob is there."""
        with self._lock:
            self._begun.pop((repository, digest), None)
        self._append({"repository": repository, "blob": digest})

    def finish_image(self, repository: str, digest: str) -> None:
        """Note that an image is there, with its tags."""
        self._append({"repository": repository, "image": digest})

    def _append(self, line: dict[str, object]) -> None:
        self._write(json.dumps(line, sort_keys=True).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        """Append; where that fails the sync goes on: what is missing here is asked for again."""
        with self._lock:
            if self._is_lost:
                return
            try:
                os.write(self._file, data)
            except OSError as error:
                self._is_lost = True
                progress.note(f"{self._path}: {error.strerror}: a sync that is interrupted now begins its uploads anew")


@contextlib.contextmanager
def opened(directory: Path, host: str, bundle: Bundle) -> Iterator[Journal]:
    """Open the journal of a sync; another sync of the same bundle to the same registry is waited for.

    If the context ends without an exception, a copy of ``bundle.json`` is kept beside it and the journal is removed.

    Args:
        directory: takes the journal, and the copy.
        host: the registry.
        bundle: what is synced.

    Raises:
        StorageError: it cannot be written.
    """
    path = directory / (bundle.id.partition(":")[2] + ".jsonl")
    with _locked(path) as (file, has_waited):
        yield Journal(file, path, {"version": VERSION, "bundle": bundle.id, "host": host}, has_waited=has_waited)
        remember(directory, bundle)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def remember(directory: Path, bundle: Bundle) -> Path:
    """Keep ``bundle.json``: prune asks what the site got, long after the volumes were removed.

    Returns:
        Where it is.

    Raises:
        StorageError: it cannot be written.
    """
    path = directory / f"{bundle.name}-{bundle.id.partition(':')[2][:SHORT]}.bundle.json"
    files.write(path, bundle.to_bytes())
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[tuple[int, bool]]:
    """Open a file for this process alone; one that was removed meanwhile is opened again."""
    has_waited = False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(str(path), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}", hint=_HINT) from error
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                has_waited = True
                progress.note("another sync of this bundle to this registry is running; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file, has_waited
                return
        finally:
            os.close(file)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as stream:
        stream.seek(0)
        return stream.read()


def _lines(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines that are whole: the last one may have been cut off."""
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            value = json.loads(line.decode())
            if isinstance(value, dict):
                yield value
