"""Makes an OCI image layout of a bundle: a directory that other tools read, lean or not as the bundle was."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.bundle import tar
from pipeline.bundle.meter import Meter
from pipeline.bundle.model import PLAIN
from pipeline.bundle.sources import FirstSource, FolderSource
from pipeline.core import files, progress
from pipeline.core.errors import InputError, VerificationError
from pipeline.core.parallel import Crew
from pipeline.oci import OCI_INDEX, REF_NAME, Descriptor, Layout, links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.model import BlobSource

    Tell = Callable[[str, int, int], None]

CHUNK = 1024**2
MB = 1e6
OURS = {"oci-layout", "index.json", "blobs", "ingest"}  # ingest: tools make it (OCI image layout specification)
_AGAIN = "copy the bundle again from where it was packed; 'verify' says which of its files are right"


@dataclass(frozen=True)
class ExpandSummary:
    """What was written.

    Attributes:
        path: the layout.
        written: how many blobs were written.
        written_bytes: their size.
        there: how many were there already.
        seconds: how long it took.
    """

    path: Path
    written: int
    written_bytes: int
    there: int
    seconds: float

    def text(self) -> str:
        """Return it for the user."""
        size = f"{self.written_bytes / MB:.1f} MB"
        return f"{self.path}: {self.written} blobs of {size} written, {self.there} there already ({self.seconds:.1f} s)"


def expand(archive: Archive, out: Path, tell: Tell | None = None) -> ExpandSummary:
    """Write a bundle as an OCI image layout. Run again, it goes on; what is damaged there is replaced.

    What a patch builds on is taken from the same directory, where its base was expanded before, or from the base that
    the archive was opened with.

    Args:
        archive: the bundle.
        out: the directory: empty, not there yet, or an image layout, which the bundle is added to.
        tell: called with the digest of what was written, the bytes done so far, and those of all.

    Raises:
        InputError: something else is in the directory.
        VerificationError: the base is missing, or the bundle is damaged; the digests are named.
        StorageError: it cannot be written.
        DependencyError: the helper is missing that restores lean layers.
    """
    began = time.monotonic()
    _check_directory(out)
    with files.storage(out):
        out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        layout = Layout.create(out)
        _remove_leftovers(out)
        folder = FolderSource(layout)
        base = [folder] if archive.base is None else [folder, archive.base]
        with archive.based_on(FirstSource(base)) as opened:
            work = _Expansion(opened, layout, tell)
            work.run(_wanted(opened, layout, archive.base))
        layout.set_index(_merged(layout, archive))
    return ExpandSummary(out, len(work.written), sum(work.written), work.there, time.monotonic() - began)


def _check_directory(out: Path) -> None:
    try:
        found = sorted(entry.name for entry in out.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}", hint="name a directory") from error
    others = [name for name in found if name not in OURS and not _is_leftover(name)]
    if others:
        raise InputError(f"{out}: holds something else: {others[0]}", hint="name an empty or a new directory")
    if found and "oci-layout" not in found and "blobs" not in found:
        raise InputError(f"{out}: holds {found[0]}, but is no image layout", hint="name an empty or a new directory")


def _is_leftover(name: str) -> bool:
    """Whether a name is what a killed process leaves; see :func:`pipeline.core.files.appearing`."""
    return name.startswith(".") and name.endswith(".tmp")


def _remove_leftovers(out: Path) -> None:
    with files.storage(out):
        for path in [*out.glob(".*.tmp"), *out.glob("blobs/*/.*.tmp")]:
            path.unlink()


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold a directory for this process alone."""
    with files.storage(out):
        directory = os.open(str(out), os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"{out}: another process is writing there; waiting for it")
            fcntl.flock(directory, fcntl.LOCK_EX)
        except OSError:  # a network file system that knows no locks
            progress.log(f"{out}: cannot be locked")
        yield
    finally:
        os.close(directory)


def _wanted(archive: Archive, layout: Layout, base: BlobSource | None) -> list[Descriptor]:
    """Return what has to be in the layout; what a patch needs of its base has to be at hand."""
    carried = [Descriptor("application/octet-stream", one.digest, one.size) for one in archive.bundle.blobs]
    brought, missing = [], []
    for needed in archive.bundle.base.digests:
        one = Descriptor("application/octet-stream", needed.digest, needed.size)
        if layout.has(one):
            continue
        if base is None or not _has(base, one.digest):
            missing.append(one.digest)
        else:
            brought.append(one)
    if missing:
        names = ", ".join(one.name for one in archive.bundle.base.bundles)
        raise VerificationError(
            f"{layout.path} lacks {len(missing)} blobs that {archive.bundle.name} builds on:\n  "
            + "\n  ".join(missing),
            hint=f"expand its base first ({names}), into the same directory",
        )
    stored = {one.digest: one.stored for one in archive.bundle.blobs}
    # What is made from base layers comes when these are there.
    return [*brought, *sorted(carried, key=lambda one: stored[one.digest] != PLAIN)]


def _has(base: BlobSource, digest: str) -> bool:
    try:
        base.open_blob(digest).close()
    except VerificationError:
        return False
    return True


class _Expansion:
    """Blobs on their way into a layout, several at once."""

    def __init__(self, archive: Archive, layout: Layout, tell: Tell | None) -> None:
        self._archive, self._layout, self._tell = archive, layout, tell
        self._crew = Crew(os.cpu_count() or 1)
        self._done, self._total = 0, 0
        self.written: list[int] = []
        self.there = 0

    def run(self, blobs: Sequence[Descriptor]) -> None:
        self._total = sum(one.size for one in blobs)
        self._meter = Meter("done", self._total)
        with self._crew:
            for one in blobs:
                self._crew.submit(functools.partial(self._put, one), functools.partial(self._is_there, one))
            self._crew.run(self._meter.tick)

    def _put(self, blob: Descriptor) -> bool:
        """Write a blob if it is not there; returns whether it was written."""
        if self._crew.is_stopped.is_set() or self._layout.has(blob):
            self._meter.finish(blob.digest, blob.size)
            return False
        target = self._layout.blob_path(blob.digest)
        with files.storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with files.appearing(target) as temporary, self._open(blob.digest) as stream, _writing(temporary) as file:
            self._copy(blob, stream, file)
        return True

    def _open(self, digest: str) -> IO[bytes]:
        if self._archive.has(digest):
            stream = self._archive.open_blob(digest)
        else:
            assert self._archive.base is not None
            stream = self._archive.base.open_blob(digest)
        return self._meter.watch(stream, digest, 0, self._crew.is_stopped)

    def _copy(self, blob: Descriptor, stream: IO[bytes], file: IO[bytes]) -> None:
        algorithm = blob.digest.partition(":")[0]
        total, count = hashlib.new(algorithm), 0
        while True:
            data = stream.read(CHUNK)
            if not data:
                break
            total.update(data)
            count += len(data)
            with files.storage(self._layout.path):
                file.write(data)
        if count != blob.size:
            raise VerificationError(f"{blob.digest}: {count} bytes instead of {blob.size}", hint=_AGAIN)
        if f"{algorithm}:{total.hexdigest()}" != blob.digest:
            raise VerificationError(f"{blob.digest}: its content has another hash", hint=_AGAIN)

    def _is_there(self, blob: Descriptor, is_written: bool) -> None:
        if is_written:
            self.written.append(blob.size)
        else:
            self.there += 1
        self._done += blob.size
        if self._tell is not None:
            self._tell(blob.digest, self._done, self._total)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; also what is written while it is closed may find the disk full."""
    with files.storage(path):
        file = path.open("wb")
    try:
        yield file
    except BaseException:
        with contextlib.suppress(OSError):  # the failure that leads here is told
            file.close()
        raise
    with files.storage(path):
        file.close()


def _merged(layout: Layout, archive: Archive) -> list[Descriptor]:
    """Return what ``index.json`` lists: what the bundle lists, and what was there under other names."""
    new = links(archive.head[tar.INDEX], OCI_INDEX).manifests
    names = {one.annotations.get(REF_NAME) for one in new} - {None}
    digests = {one.digest for one in new}
    kept = []
    for one in layout.index():
        name = one.annotations.get(REF_NAME)
        if name not in names if name else one.digest not in digests:
            kept.append(one)
    return sorted([*kept, *new], key=lambda one: (one.annotations.get(REF_NAME, ""), one.digest))
