"""What a lock pins: archives of packages, and the indexes that named them. Both kinds of bases take these."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from pipeline.core import download, parallel
from pipeline.core.document import Model
from pipeline.core.errors import InputError, NetworkError, PipelineError, VerificationError

# Names and versions become parts of file names and of commands: nothing in them may mean anything there.
Text = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9.+_~:^-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A URL without credentials: a lock stands in git.
Origin = Annotated[str, StringConstraints(pattern=r"^(https?|file)://[^\s?#@]+$")]
# Where an archive's or a repository's index is, below its root.
INDEX_PLACES = ("/dists/", "/repodata/")
AT_A_TIME = 8  # archives
RELOCK = "./invoke lock --update takes what is offered now; --mirror URL names an archive that still has the old ones"


class LockedPackage(Model):
    """One package, pinned.

    Attributes:
        name: its name.
        version: of a deb as dpkg has it, of an rpm ``[epoch:]version-release``.
        architecture: its own: ``amd64`` or ``all``, ``x86_64`` or ``noarch``.
        sha256: of its archive, in hexadecimal.
        size: of its archive, in bytes.
        origin: URL of its archive, without credentials.
        repository: the suite, or the repository's id.
    """

    name: Text
    version: Text
    architecture: Text
    sha256: Sha256
    size: Annotated[int, Field(gt=0)]
    origin: Origin
    repository: Text

    @property
    def title(self) -> str:
        """What people call it: name, version and architecture."""
        return f"{self.name} {self.version} {self.architecture}"


class LockedIndex(Model):
    """The signed index of a repository, at the time of locking.

    Attributes:
        repository: the suite, or the repository's id.
        url: of its ``InRelease`` or ``repomd.xml``, without credentials.
        sha256: of its content, in hexadecimal.
    """

    repository: Text
    url: Origin
    sha256: Sha256

    @property
    def root(self) -> str:
        """URL that the paths of its packages are relative to, without a slash at the end."""
        for place in INDEX_PLACES:
            if place in self.url:
                return self.url.rpartition(place)[0]
        return self.url.rpartition("/")[0]


def on_mirror(
    packages: Sequence[LockedPackage], indexes: Sequence[LockedIndex], roots: Mapping[str, str]
) -> tuple[LockedPackage, ...]:
    """Return the packages with the same paths below a mirror as their origin.

    Args:
        packages: from a lock.
        indexes: from the same lock.
        roots: URL of each repository on the mirror. One alone stands for all of them, whatever it is called.

    Raises:
        InputError: the mirror lacks a repository.
    """
    known = {index.repository: index.root for index in indexes}
    alone = next(iter(roots.values())) if len(roots) == 1 else None
    if missing := sorted({package.repository for package in packages} - roots.keys() if alone is None else ()):
        raise InputError(
            f"the mirror has {', '.join(sorted(roots))}; the lock's packages are from {', '.join(missing)}",
            hint="name a mirror that has a directory of that name, or build without --mirror",
        )

    def moved(package: LockedPackage) -> LockedPackage:
        root = roots.get(package.repository, alone or "").rstrip("/")
        path = package.origin.removeprefix(known.get(package.repository, "")).lstrip("/")
        return package.model_copy(update={"origin": f"{root}/{path}"})

    return tuple(moved(package) for package in packages)


def fetch(
    packages: Sequence[LockedPackage],
    place: Callable[[LockedPackage], Path],
    offered: Callable[[Sequence[str]], Mapping[str, str]],
) -> dict[LockedPackage, Path]:
    """Fetch the archives of packages, several at once; what is there already is used, if its bytes are the locked ones.

    Args:
        packages: what to fetch.
        place: says where the archive of a package is kept.
        offered: asked only if something is missing: the versions that the repositories have now, by name.

    Returns:
        Where each archive is.

    Raises:
        NetworkError: some are not there any more; all of them are named. Or a server cannot be reached.
        VerificationError: some have other bytes than when they were locked; all of them are named.
    """

    def get(package: LockedPackage) -> PipelineError | None:
        try:
            download.fetch(package.origin, place(package), sha256=package.sha256, size=package.size)
        except (download.MissingError, download.ContentError) as error:
            return error
        return None

    with download.connections():
        results = parallel.each(AT_A_TIME, packages, get)
    if failed := [(package, error) for package, error in zip(packages, results, strict=True) if error]:
        raise _cannot_be_had(failed, len(packages), offered)
    return {package: place(package) for package in packages}


def _cannot_be_had(
    failed: Sequence[tuple[LockedPackage, PipelineError]],
    total: int,
    offered: Callable[[Sequence[str]], Mapping[str, str]],
) -> PipelineError:
    missing = [package.name for package, error in failed if isinstance(error, download.MissingError)]
    known: Mapping[str, str] = {}
    if missing:
        with contextlib.suppress(PipelineError):  # it is only for the message
            known = offered(missing)
    lines = [f"{len(failed)} of {total} locked packages cannot be had:"]
    for package, error in failed:
        now = f"; {known[package.name]} is offered now" if package.name in known else ""
        lines.append(f"  {package.title}: {error.message}{now}")
    if len(missing) < len(failed):
        hint = "find out why, before anything else: an archive never changes, a package gets another version"
        return VerificationError("\n".join(lines), hint=f"{hint}; {RELOCK}")
    return NetworkError("\n".join(lines), hint=RELOCK)
