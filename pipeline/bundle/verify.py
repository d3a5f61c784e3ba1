"""Is a bundle whole? Everything is read and hashed, without a network: volumes, blobs, and what images refer to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.model import LEAN
from pipeline.core.errors import PipelineError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.bundle.archive import Archive

    Tell = Callable[[str, int, int], None]

CHUNK = 1024**2
_AGAIN = "copy the files named above again from where the bundle was packed; what is right stays as it is"


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        id: the bundle's identity.
        name: what it is called.
        volumes: how many volumes were read, the head included.
        blobs: how many blobs were read.
        bytes: their size, as registries have them.
        images: how many images are complete, with what the base brings.
        needed: how many blobs the base has to bring.
        is_signed: whether the signature was checked.
    """

    id: str
    name: str
    volumes: int
    blobs: int
    bytes: int
    images: int
    needed: int
    is_signed: bool

    def text(self) -> str:
        """Return it for the user."""
        signed = "signature right" if self.is_signed else "signature not asked for (--key)"
        base = f"; {self.needed} blobs must be at the site" if self.needed else ""
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
    problems = list(archive.volumes.check(bundle, tell))
    if not problems:
        problems += _blob_problems(archive, tell)
        problems += _image_problems(archive)
    if problems:
        text = "\n  ".join(problems)
        raise VerificationError(f"{archive.path}: {bundle.name} is not whole:\n  {text}", hint=_AGAIN)
    return Report(
        id=archive.id,
        name=bundle.name,
        volumes=len(bundle.volumes) + 1,
        blobs=len(bundle.blobs),
        bytes=bundle.total,
        images=len(bundle.images),
        needed=len(bundle.base.digests),
        is_signed=archive.is_signed,
    )


def _blob_problems(archive: Archive, tell: Tell | None) -> Iterator[str]:
    """Read every blob; one that is made from layers of a base that is not at hand is left to the sync."""
    done, total = 0, archive.bundle.total
    for blob in archive.bundle.blobs:
        if blob.stored != LEAN or archive.can_restore(blob.digest):
            try:
                problem = _blob_problem(archive, blob.digest, blob.size)
            except PipelineError as error:
                problem = f"{blob.digest}: {error.message}"
            if problem:
                yield problem
        done += blob.size
        if tell is not None:
            tell(blob.digest, done, total)


def _blob_problem(archive: Archive, digest: str, size: int) -> str:
    algorithm, _, wanted = digest.partition(":")
    total, count = hashlib.new(algorithm), 0
    with archive.open_blob(digest) as file:
        while True:
            data = file.read(CHUNK)
            if not data:
                break
            total.update(data)
            count += len(data)
    if count != size:
        return f"{digest}: {count} bytes instead of {size}"
    return "" if total.hexdigest() == wanted else f"{digest}: its content has another hash"


def _image_problems(archive: Archive) -> Iterator[str]:
    """Look whether everything that images refer to is carried, or is what the base brings."""
    brought = {needed.digest for needed in archive.bundle.base.digests}
    for image in archive.bundle.images:
        try:
            for root in image.roots:
                for found, data in archive.walk(root):
                    is_there = archive.has(found.digest) or found.digest in brought or found.is_foreign
                    if data is None and not is_there:
                        yield f"{image.source}: {found.digest} is neither carried nor in the base"
        except PipelineError as error:
            yield f"{image.source}: {error.message}"
