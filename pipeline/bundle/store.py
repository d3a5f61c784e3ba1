"""What was fetched for bundles: an OCI layout that stays, so that the next bundle fetches only what is new.

A blob appears in it by rename, after its hash was checked. A mark remembers the file's size and time as they were then:
a blob with a right mark is not read again before it goes into a bundle, where its hash is checked once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.bundle.model import BlobSource
from pipeline.core.errors import StorageError, VerificationError

if TYPE_CHECKING:
    from pipeline.oci import Descriptor, Layout

STORE = ".store"  # beside the bundles
MARKS = "marks"
CHUNK = 1024**2
MB = 1e6
FULL = "free some space, or name another directory; what was fetched already stays"
_AGAIN = "run the same command again: it is fetched again"


class LayoutSource(BlobSource):
    """A layout as the source of a bundle's blobs; threads may share it.

    Attributes:
        layout: the layout.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a blob at an offset in bytes; its hash is not checked.

        Raises:
            VerificationError: it is not there.
        """
        path = self.layout.blob_path(digest)
        try:
            file = path.open("rb")
        except OSError as error:
            raise VerificationError(f"{path.parent}: {digest}: {error.strerror}", hint=_AGAIN) from error
        file.seek(offset)
        return file

    def holds(self, descriptor: Descriptor) -> bool:
        """Return whether a blob is there and is right; it is read only if it has no mark."""
        try:
            stamp = self._stamp(descriptor.digest)
            if self._mark(descriptor.digest).read_text() == stamp:
                return stamp.startswith(f"{descriptor.size} ")
        except FileNotFoundError:
            pass
        if not self.layout.has(descriptor):
            return False
        self.mark(descriptor.digest)
        return True

    def mark(self, digest: str) -> None:
        """Remember that a blob's hash was checked.

        Raises:
            StorageError: that cannot be written.
        """
        mark = self._mark(digest)
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(self._stamp(digest))
        except OSError as error:
            raise StorageError(f"{mark}: cannot be written: {error.strerror}", hint=FULL) from error

    def discard(self, digest: str) -> None:
        """Remove a blob that turned out to be damaged, so that it is fetched again."""
        for path in (self._mark(digest), self.layout.blob_path(digest)):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def arrived(self, digest: str) -> int:
        """Return how many bytes of a blob are there, also while it is on its way."""
        path = self.layout.blob_path(digest)
        for file in (path, path.with_name(f".{path.name}.part")):
            with contextlib.suppress(FileNotFoundError):
                return file.stat().st_size
        return 0

    def _stamp(self, digest: str) -> str:
        found = self.layout.blob_path(digest).stat()
        return f"{found.st_size} {found.st_mtime_ns}"

    def _mark(self, digest: str) -> Path:
        algorithm, _, hexadecimal = digest.partition(":")
        return self.layout.path / MARKS / algorithm / hexadecimal


def check_space(path: Path, size: int, what: str) -> None:
    """Refuse to begin what cannot fit.

    Args:
        path: a directory on the file system that it goes to.
        size: its bytes.
        what: what it is, for the message.

    Raises:
        StorageError: there is less space.
    """
    free = shutil.disk_usage(path).free
    if size > free:
        raise StorageError(f"{path}: {what}: {size / MB:.1f} MB, but only {free / MB:.1f} MB are free", hint=FULL)


def check(source: BlobSource, digest: str) -> None:
    """Read a blob and compare its hash.

    Raises:
        VerificationError: it is not what its digest says.
    """
    algorithm = digest.partition(":")[0]
    hasher = hashlib.new(algorithm)
    with source.open_blob(digest) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    if f"{algorithm}:{hasher.hexdigest()}" != digest:
        wrong = VerificationError(f"{digest}: its content has another hash: {hasher.hexdigest()}", hint=_AGAIN)
        raise damaged(source, digest, wrong)


def damaged(source: BlobSource, digest: str, error: VerificationError) -> VerificationError:
    """Remove a damaged blob from the store, if it came from there, and return the error that says so."""
    if not isinstance(source, LayoutSource):
        return error
    source.discard(digest)
    return VerificationError(
        f"{source.layout.path}: {digest}: was damaged since it was fetched, and is removed: {error.message}",
        hint=_AGAIN,
    )
