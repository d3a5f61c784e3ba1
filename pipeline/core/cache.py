"""The content cache: what a step made, found again by the hash of the step's inputs.

On disk, below the cache's root::

    <kind>/<key>/inputs.json   the inputs that the key is the hash of, to read and to compare
    <kind>/<key>/meta.json     when it was made, its size and fingerprint; the file's own time is that of the last use
    <kind>/<key>/data/         the content
    .tmp/                      what is being made, workspaces, and removed entries that are still in use
    .lock                      taken for moments only

Locks are flocks on the directories themselves: they follow a rename and die with their process. A directory in
``.tmp`` that nobody has locked is left over. An entry is locked shared by its users, and deleted only by one who can
lock it exclusively. Every look-up, rename and try for an exclusive lock is made under ``.lock``; waiting, making and
deleting are not. Nothing is synced: after a power cut, empty the cache (``./invoke clean --cache``).

An entry is found only as it was made (``core/fingerprint.py``): nobody may write below ``data/`` afterwards, nor give a
file there another name. One that somebody changed is put away and made again.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import disks, events, fingerprint, progress
from pipeline.core.difference import Json as Json
from pipeline.core.difference import difference as difference
from pipeline.core.disks import allocated as allocated
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEFAULT_LIMIT = 20 * 2**30
LARGEST_RESERVE, RESERVE_SHARE = 2 * 2**30, 20  # a twentieth of the file system stays free, at most 2 GiB
SHOWN_CHANGES = 5
INPUTS, META, DATA = "inputs.json", "meta.json", "data"


@dataclass(frozen=True)
class Entry:
    """One step's content, protected from eviction until its cache closes.

    Attributes:
        kind: what it is ("base").
        key: sha256 of its kind and inputs, in hex.
        path: directory that the content is in; not to be changed.
        hit: it was there already.
    """

    kind: str
    key: str
    path: Path
    hit: bool


@dataclass(frozen=True)
class Stored:
    """What is known of an entry on disk: bytes it was measured to take, times in UTC, the inputs behind its key."""

    kind: str
    key: str
    size: int
    created: datetime.datetime
    last_used: datetime.datetime
    inputs: Mapping[str, Json]
    fingerprint: str


class Cache:
    """A bounded store of what steps made: ``with Cache(cache_root()) as cache: ...``.

    Args:
        root: its directory, made (0700) if missing.
        limit: bytes that all entries together may take; those in use stay even above it.

    Raises:
        StorageError: the directory cannot be used.
    """

    def __init__(self, root: Path, limit: int = DEFAULT_LIMIT) -> None:
        self._root, self._limit = root.resolve(), limit  # as the kernel names it among its mounts
        self._tmp = self._root / ".tmp"
        self._held: list[int] = []

    def __enter__(self) -> Cache:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (owner := self._root.stat().st_uid) != os.geteuid():  # mixed owners end in files nobody can remove
                raise PermissionError(errno.EPERM, f"it belongs to user {owner}", str(self._root))
            self._tmp.mkdir(mode=0o700, exist_ok=True)
            os.close(_lock(self._tmp, fcntl.LOCK_SH))  # some network file systems cannot lock a directory
            self._collect()
        except OSError as error:
            hint = "make space, or set XDG_CACHE_HOME to a directory of your own on a local disk"
            raise StorageError(f"the cache {self._root} cannot be used: {error}", hint=hint) from error
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            os.close(self._held.pop())

    def obtain(
        self,
        kind: str,
        inputs: Mapping[str, Json],
        make: Callable[[Path], None],
        *,
        fresh: bool = False,
        linked: bool = False,
    ) -> Entry:
        """Return the content for these inputs; make it if it is missing, or wait for the process that is making it.

        Args:
            kind: name of the step: lower-case letters, digits and dashes.
            inputs: everything that the content depends on.
            make: fills the empty directory it is given, which is renamed afterwards: nothing may stay mounted there.
            fresh: make it even if it is there, and replace that.
            linked: its files are given further names, so the caller compares their content; always so for a kind.

        Raises:
            StorageError: the disk is full. Whatever ``make`` raises, nothing of this entry stays, and no other is lost.
        """
        path = self._root / kind / key_of(kind, inputs)
        making = self._tmp / f"make-{kind}-{path.name}"
        waited = False
        while True:
            with disks.naming_full(self._root, f"making {kind}"), self._locked():
                found = None if fresh else self._find(path)
                lock = None if found else self._claim(making)
            if found:
                if self._is_as_made(path, *found, linked=linked):
                    return Entry(kind, path.name, path / DATA, hit=True)
            elif lock is not None:
                return self._make(path, inputs, make, making, lock, linked=linked)
            else:
                if not waited:
                    progress.note(f"{kind}: another build is making the same; waiting for it")
                    waited = True
                _wait(making)
                self._collect()  # if the other was killed, what it left may fill the disk

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield an empty private directory on the cache's file system, removed at the end.

        Raises:
            StorageError: the disk is full.
        """
        path = self._tmp / f"work-{secrets.token_hex(8)}"
        with contextlib.ExitStack() as undo, disks.naming_full(self._root, "working"):
            with self._locked():
                lock = self._claim(path)
                assert lock is not None, "nobody else draws the same name"
                undo.callback(_destroy, path, lock)
            yield path

    def entries(self) -> tuple[Stored, ...]:
        """Return what is stored, the least recently used first."""
        return tuple(stored for _, stored in self._scan() if stored)

    def clear(self) -> int:
        """Remove everything that is not in use; returns the bytes freed."""
        freed = self._collect()
        while (more := self._evict(lambda _: True)) is not None:
            freed += more
        return freed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _find(self, path: Path) -> tuple[Stored, int] | None:
        """Look an entry up and lock it; one without a sound description is put away."""
        if not os.path.lexists(path):
            return None
        stored = _read(path)
        lock = _try_lock(path, fcntl.LOCK_SH) if stored else None
        if stored is None or lock is None:
            progress.note(_damaged(path))
            self._put_away(path)
            return None
        os.utime(path / META)
        return stored, lock

    def _is_as_made(self, path: Path, stored: Stored, lock: int, *, linked: bool) -> bool:
        """Compare an entry that was found with what was made; keep it locked if it is that, else put it away."""
        now = ""
        with events.span("cache", f"compare {stored.kind}"), contextlib.suppress(OSError):
            now = fingerprint.of(path / DATA, linked=linked).digest
        if now == stored.fingerprint:
            self._held.append(lock)
            events.moment("cache", f"hit: {stored.kind}", key=stored.key)
            return True
        progress.note(_damaged(path))
        with self._locked(), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.lstat()):  # nobody has made it again since
                self._put_away(path)
        os.close(lock)
        return False

    def _claim(self, path: Path) -> int | None:
        """Make a directory of our own and lock it; None if another process has it."""
        if path.exists():
            stale = _try_lock(path)
            if stale is None:
                return None
            self._put_away(path)
            os.close(stale)
        path.mkdir(mode=0o700)
        return _lock(path, fcntl.LOCK_EX)

    def _put_away(self, path: Path) -> Path:
        """Take a directory out of sight, to be deleted when nobody holds it."""
        return path.rename(self._tmp / f"trash-{secrets.token_hex(8)}")

    def _make(
        self,
        path: Path,
        inputs: Mapping[str, Json],
        make: Callable[[Path], None],
        making: Path,
        lock: int,
        *,
        linked: bool,
    ) -> Entry:
        kind, data = path.parent.name, making / DATA
        events.moment("cache", f"miss: {kind}", key=path.name)
        with contextlib.ExitStack() as undo:
            undo.callback(_destroy, making, lock)
            with disks.naming_full(self._root, f"making {kind}"):  # inside: the space free before the undo is told
                progress.note(f"{kind}: {self._reason(path, inputs)}")
                data.mkdir()
                data.chmod(0o755)  # whatever the umask: it may become the root directory of a tree
                make(data)
                _describe(making, inputs, linked=linked)
                self._publish(making, lock, path)
            undo.pop_all()
        self._held.append(lock)
        self._collect()
        while self._evict(self._is_too_full) is not None:
            pass
        return Entry(kind, path.name, path / DATA, hit=False)

    def _publish(self, making: Path, lock: int, path: Path) -> None:
        with self._locked():
            fcntl.flock(lock, fcntl.LOCK_SH)  # not atomic, but whoever would delete it needs .lock
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if os.path.lexists(path):
                self._put_away(path)
            making.rename(path)

    def _reason(self, path: Path, inputs: Mapping[str, Json]) -> str:
        if os.path.lexists(path):
            return "made anew, as asked"
        alike = [(difference(old.inputs, inputs), old) for old in self.entries() if old.kind == path.parent.name]
        if not alike:
            return "not cached"
        changes, nearest = min(alike, key=lambda pair: sum(leaves for leaves, _ in pair[0]))
        texts = [text for _, text in changes]
        progress.log(f"every difference to {nearest.kind} {nearest.key[:12]}: {'; '.join(texts)}")
        if len(texts) > SHOWN_CHANGES:
            texts[SHOWN_CHANGES:] = [f"and {len(texts) - SHOWN_CHANGES} more"]
        return f"not cached; differs from the nearest entry ({nearest.created:%Y-%m-%d %H:%M}) in: {'; '.join(texts)}"

    def _scan(self) -> list[tuple[Path, Stored | None]]:
        """List entries: damaged ones first, then the least recently used."""
        found = [(path, _read(path)) for path in self._root.glob("[!.]*/*")]
        return sorted(found, key=lambda pair: (pair[1].last_used.timestamp() if pair[1] else 0.0, pair[0]))

    def _collect(self) -> int:
        """Delete what nobody holds any more; returns the bytes freed."""
        with self._locked():
            left = [(path, lock) for path in self._tmp.iterdir() if (lock := _try_lock(path)) is not None]
        return sum(_destroy(path, lock) for path, lock in left)

    def _is_too_full(self, size: int) -> bool:
        disk = os.statvfs(self._root)
        reserve = min(LARGEST_RESERVE, disk.f_blocks * disk.f_frsize // RESERVE_SHARE)
        return size > self._limit or disk.f_bavail * disk.f_frsize < reserve

    def _evict(self, wanted: Callable[[int], bool]) -> int | None:
        """Delete the least recently used entry that nobody holds, if their size in all makes that wanted.

        Returns:
            The bytes freed; None if there was nothing to do.
        """
        with self._locked():
            found = self._scan()
            if not wanted(sum(stored.size for _, stored in found if stored)):
                return None
            locked = ((path, lock) for path, _ in found if (lock := _try_lock(path)) is not None)
            path, lock = next(locked, (None, -1))
            if path is None:
                return None
            away = self._put_away(path)
        progress.log(f"cache: removes {path.parent.name} {path.name[:12]}")
        return _destroy(away, lock)


def cache_root() -> Path:
    """Return the user's cache directory for this project: below ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "node-images"


def key_of(kind: str, inputs: Mapping[str, Json]) -> str:
    """Return the key of an entry: sha256 in hex over canonical JSON of its kind and inputs.

    Raises:
        ValueError: the kind is no name, or a number is not finite.
        TypeError: the inputs hold something that JSON has no word for.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", kind):
        raise ValueError(f"not a name for a kind of cache entry: {kind!r}")
    text = json.dumps({"inputs": inputs, "kind": kind}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> Stored | None:
    """Read an entry's description; None if it is damaged."""
    try:
        inputs = json.loads((path / INPUTS).read_bytes())
        meta = json.loads((path / META).read_bytes())
        used = datetime.datetime.fromtimestamp((path / META).stat().st_mtime, datetime.UTC)
        created, size = datetime.datetime.fromisoformat(meta["created"]), int(meta["size"])
        made = str(meta["fingerprint"])
        whole = isinstance(inputs, dict) and key_of(path.parent.name, inputs) == path.name and (path / DATA).is_dir()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Stored(path.parent.name, path.name, size, created, used, inputs, made) if whole else None


def _describe(path: Path, inputs: Mapping[str, Json], *, linked: bool) -> None:
    """Write down what an entry is, when its content is there."""
    with events.span("cache", "describe"):
        made = fingerprint.of(path / DATA, linked=linked)
    meta = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(),
        "size": made.allocated,
        "fingerprint": made.digest,
    }
    (path / INPUTS).write_text(json.dumps(inputs, sort_keys=True, indent=2) + "\n", encoding="utf-8")
    (path / META).write_text(json.dumps(meta) + "\n", encoding="utf-8")


def _damaged(path: Path) -> str:
    return f"{path.parent.name}: the cached entry {path.name[:12]} is damaged; it is made again"


def _lock(path: Path, how: int) -> int:
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, lock)
        fcntl.flock(lock, how)
        undo.pop_all()
    return lock


def _try_lock(path: Path, how: int = fcntl.LOCK_EX) -> int | None:
    with contextlib.suppress(OSError):
        return _lock(path, how | fcntl.LOCK_NB)
    return None


def _wait(path: Path) -> None:
    """Wait until the process that is making a directory has published it, has failed or is dead."""
    with contextlib.suppress(FileNotFoundError):
        os.close(_lock(path, fcntl.LOCK_SH))


def _destroy(path: Path, lock: int) -> int:
    """Delete a directory that we have locked; returns the bytes freed, 0 if it had to stay for a later run."""
    try:
        for point, _ in disks.mounts():
            if point.is_relative_to(path):  # it may be the host's own /dev that would be emptied
                raise OSError(errno.EBUSY, "still mounted", str(point))
        size = allocated(path)
        for folder, names, _ in os.walk(path) if os.geteuid() != 0 else ():
            for inner in (Path(folder, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(path)
    except OSError as error:
        progress.log(f"cache: {path} is left for a later run: {error}")
        return 0
    finally:
        os.close(lock)
    return size
