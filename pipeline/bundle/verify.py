"""Is a bundle whole? Everything is read and hashed, without a network: volumes, blobs, and what images refer to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.model import LEAN
from pipeline.bundle.tar import blob_path
from pipeline.core.errors import DependencyError, PipelineError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.model import Blob, Bundle

    Tell = Callable[[str, int, int], None]

CHUNK = 1024**2
SUMS = "SHA256SUMS"
_AGAIN = "copy the files named above again from where the bundle was packed; what is right stays as it is"


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        id: the bundle's identity.
        name: what it is called.
        volumes: how many volumes were read, the head included.
        blobs: how many blobs were read and hashed.
        bytes: their size, as registries have them.
        images: how many images are complete, with what the base brings.
        needed: how many blobs the base has to bring.
        left: how many lean layers could not be restored, as they are made from layers of a base that is not at hand.
        is_signed: whether the signature was checked.
    """

    id: str
    name: str
    volumes: int
    blobs: int
    bytes: int
    images: int
    needed: int
    left: int
    is_signed: bool

    def text(self) -> str:
        """Return it for the user."""
        signed = "signature right" if self.is_signed else "signature not asked for (--key)"
        base = f"; {self.needed} blobs must be at the site" if self.needed else ""
        if self.left:
            base += f"; {self.left} layers can only be checked with their base, or while they are synced"
        return (
            f"{self.name} is whole: {self.volumes} volumes, {self.blobs} blobs of {self.bytes / 1e6:.1f} MB, "
            f"{self.images} images{base}; {signed}\n{self.id}"
        )


def verify(archive: Archive, tell: Tell | None = None) -> Report:
    """Read everything of a bundle and compare it with its hashes.

    Args:
        archive: the bundle. Layers of a patch that are made from its base's are checked if the archive has a base.
        tell: called with what is read, the bytes done so far, and those of all.

    Raises:
        VerificationError: something is missing, damaged or not listed; all of it is named.
    """
    bundle = archive.bundle
    restored = [blob for blob in bundle.blobs if blob.stored == LEAN]
    members = _members(archive)
    watcher = _Watcher([blob for blob in bundle.blobs if blob.stored != LEAN], members or {})
    problems = [*archive.volumes.check(bundle, tell, watcher.feed), *_beside(archive)]
    left = 0
    if not problems and members is not None:
        problems += watcher.finish()
        problems += _strange_members(bundle, members)
        left = _restore(archive, restored, problems, tell)
        problems += _image_problems(archive)
    elif not problems:
        problems += [_why(archive)]
    if problems:
        text = "\n  ".join(problems)
        raise VerificationError(f"{archive.path}: {bundle.name} is not whole:\n  {text}", hint=_AGAIN)
    return Report(
        id=archive.id,
        name=bundle.name,
        volumes=len(bundle.volumes) + 1,
        blobs=len(bundle.blobs) - left,
        bytes=bundle.total,
        images=len(bundle.images),
        needed=len(bundle.base.digests),
        left=left,
        is_signed=archive.is_signed,
    )


def _members(archive: Archive) -> Mapping[str, tuple[int, int]] | None:
    try:
        return archive.members
    except VerificationError:  # volumes are missing or damaged: their hashes say which
        return None


def _why(archive: Archive) -> str:
    try:
        return f"{len(archive.members)} members are there now: something changed while it was read"
    except VerificationError as error:
        return error.message


class _Watcher:
    """Hashes plain blobs while the volumes that hold them are read: nothing is read twice."""

    def __init__(self, blobs: Sequence[Blob], members: Mapping[str, tuple[int, int]]) -> None:
        self._problems: list[str] = []
        self._waiting: list[tuple[int, int, str]] = []
        for blob in blobs:
            offset, size = members.get(blob_path(blob.digest), (0, -1))
            if size == blob.size:
                self._waiting.append((offset, size, blob.digest))
            else:
                what = "is not there" if size < 0 else f"{size} bytes instead of {blob.size}"
                self._problems.append(f"{blob.digest}: {what}")
        self._waiting.sort(reverse=True)
        self._hash = self._begin()

    def _begin(self) -> hashlib._Hash:
        return hashlib.new(self._waiting[-1][2].partition(":")[0] if self._waiting else "sha256")

    def feed(self, data: bytes, offset: int) -> None:
        """Take the next bytes of the row of volumes."""
        view = memoryview(data)
        while self._waiting:
            start, size, digest = self._waiting[-1]
            self._hash.update(view[max(0, start - offset) : max(0, start + size - offset)])
            if start + size > offset + len(data):
                return
            if self._hash.hexdigest() != digest.partition(":")[2]:
                self._problems.append(f"{digest}: its content has another hash")
            self._waiting.pop()
            self._hash = self._begin()

    def finish(self) -> list[str]:
        """Return what is wrong with the blobs."""
        return self._problems + [f"{digest}: is cut off" for _, _, digest in self._waiting]


def _strange_members(bundle: Bundle, members: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return blobs that are in the volumes, but in no list."""
    listed = {blob_path(blob.digest) for blob in bundle.blobs if blob.stored != LEAN}
    strange = sorted(path for path in members if path.startswith("blobs/") and path not in listed)
    return [f"{path} is not listed" for path in strange]


def _beside(archive: Archive) -> list[str]:
    """Compare what lies beside the volumes, and the head, with SHA256SUMS; volumes have their hashes in the head."""
    name, problems = archive.volumes.head.name, []
    try:
        lines = (archive.path / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        sums = {words[1]: words[0] for words in (line.split("  ", 1) for line in lines) if len(words) == 2}
        own = {volume.name for volume in archive.bundle.volumes}
        for file in sorted(set(sums) - own - {SUMS}) if name in sums else []:
            path = archive.path / file
            if path.parent == archive.path and path.is_file() and _sha256(path) != sums[file]:
                problems.append(f"{file} is not what {SUMS} says: one of the two is damaged or was altered")
    except FileNotFoundError:
        return []  # whoever copies the volumes alone may do so
    except OSError as error:
        return [f"{archive.path / SUMS}: cannot be read: {error.strerror}"]
    return problems


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        for data in iter(lambda: file.read(CHUNK), b""):
            total.update(data)
    return total.hexdigest()


def _restore(archive: Archive, blobs: Sequence[Blob], problems: list[str], tell: Tell | None) -> int:
    """Restore and hash lean layers; returns how many are made from layers of a base that is not at hand."""
    done, total, left = 0, sum(blob.size for blob in blobs), 0
    for blob in blobs:
        try:
            if archive.can_restore(blob.digest):
                problems += _blob_problem(archive, blob.digest, blob.size)
            else:
                left += 1
        except DependencyError:  # the bundle is not to blame
            raise
        except PipelineError as error:
            problems.append(f"{blob.digest}: {error.message}")
        done += blob.size
        if tell is not None:
            tell(blob.digest, done, total)
    return left


def _blob_problem(archive: Archive, digest: str, size: int) -> list[str]:
    algorithm, _, wanted = digest.partition(":")
    total, count = hashlib.new(algorithm), 0
    with archive.open_blob(digest) as file:
        for data in iter(lambda: file.read(CHUNK), b""):
            total.update(data)
            count += len(data)
    if count != size:
        return [f"{digest}: {count} bytes instead of {size}"]
    return [] if total.hexdigest() == wanted else [f"{digest}: its content has another hash"]


def _image_problems(archive: Archive) -> Iterator[str]:
    """Look whether everything that images refer to is carried, or is what the base brings."""
    brought = {needed.digest for needed in archive.bundle.base.digests}
    for image in archive.bundle.images:
        for digest in image.manifests:
            if not archive.has(digest):
                yield f"{image.source}: its manifest {digest} is not carried"
        try:
            for root in image.roots:
                for found, data in archive.walk(root):
                    is_there = archive.has(found.digest) or found.digest in brought or found.is_foreign
                    if data is None and not is_there:
                        yield f"{image.source}: {found.digest} is neither carried nor in the base"
        except PipelineError as error:
            yield f"{image.source}: {error.message}"
