"""What an RPM profile resolves to without installing anything, and the files that a lock pins."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases import dnf, downloads, indexes, locked, rpmdb
from pipeline.image.bases.dnf import Chosen
from pipeline.image.bases.locked import LockedIndex, LockedPackage
from pipeline.image.bases.repositories import INDEX, Repository
from pipeline.profile import RpmBase

PLACE = "locked"  # in the package cache


def resolve(
    base: RpmBase,
    arch: Architecture,
    packages: Sequence[str],
    repositories: Sequence[Repository],
    *,
    workspace: Path,
    package_cache: Path,
) -> tuple[tuple[LockedPackage, ...], tuple[LockedIndex, ...], int]:
    """Find out what a build would install, without fetching it; to be called in the private namespace.

    Args:
        base: where it comes from.
        arch: the architecture.
        packages: what is asked for, besides the release package and dependencies.
        repositories: from :func:`pipeline.image.bases.repositories.resolve`.
        workspace: empty directory for intermediate files.
        package_cache: metadata, shared between builds.

    Returns:
        Every package; the index of each repository; and the time of the newest, in seconds since 1970.

    Raises:
        InputError: packages do not exist, or cannot be installed together; or an index has no sha256 of them.
        NetworkError: an index cannot be had, or is damaged.
    """
    root = workspace / "root"
    for name in ("dev", "proc", "run", base.database):
        (root / name).mkdir(parents=True)
    with downloads.in_use(package_cache):
        no_keys = workspace / "no-keys"  # nothing is fetched that could be signed
        program = dnf.set_up(base, arch, repositories, root, no_keys, workspace=workspace, package_cache=package_cache)
        chosen = program.choose([base.release_package, *packages], download=False)
        known = {item.id: item for item in repositories}
        found = tuple(_package(item, known[item.repository]) for item in chosen)
        described = tuple(_index(item, program.index(item.id)) for item in repositories)
        return found, described, dnf.newest_index(program.cache)


def _package(item: Chosen, repository: Repository) -> LockedPackage:
    kind, _, checksum = item.checksum.partition(":")
    if kind != "sha256":
        raise InputError(
            f"the index of the repository {repository.id} at {repository.url} names packages by {kind}, not by sha256",
            hint="a lock needs sha256: use a mirror whose index was made with 'createrepo_c --checksum sha256'",
        )
    place = (item.base or repository.url).rstrip("/")
    return LockedPackage(
        name=item.name,
        version=item.version.removeprefix("0:"),
        architecture=item.architecture,
        sha256=checksum,
        size=item.size,
        origin=f"{place}/{quote(item.location, safe='/%~+^:=,!$&*;()[]')}",
        repository=item.repository,
    )


def _index(repository: Repository, file: Path) -> LockedIndex:
    return LockedIndex(repository=repository.id, url=f"{repository.url}/{INDEX}", sha256=tree.file_sha256(file))


def fetch(
    packages: Sequence[LockedPackage], repositories: Sequence[Repository], workspace: Path, package_cache: Path
) -> dict[str, Path]:
    """Fetch what is locked, unless it is on this machine; only its bytes count.

    Args:
        packages: what is locked, with where it is fetched from.
        repositories: are asked what they have instead.
        workspace: directory for intermediate files.
        package_cache: downloaded packages, shared between builds.

    Returns:
        The files, by rpm's own names for them.

    Raises:
        NetworkError: packages cannot be had; all of them are named.
        VerificationError: packages have other bytes than when they were locked.
    """

    def place(package: LockedPackage) -> Path:
        return package_cache / PLACE / f"{package.sha256}.rpm"

    def instead(names: Sequence[str]) -> dict[str, str]:
        return offered(repositories, names, workspace)

    (package_cache / PLACE).mkdir(exist_ok=True)
    _take_over([package for package in packages if not place(package).exists()], place, package_cache)
    files = locked.fetch(packages, place, instead)
    return {_file_name(package): files[package] for package in packages}


def _file_name(package: LockedPackage) -> str:
    return rpmdb.file_name(package.name, package.version, package.architecture)


def _take_over(packages: Sequence[LockedPackage], place: Callable[[LockedPackage], Path], package_cache: Path) -> None:
    """Put files there that dnf has fetched for another build, or that lie on this machine; they are checked later."""
    here: dict[str, list[Path]] = {}
    for file in package_cache.rglob("*.rpm") if packages else ():
        here.setdefault(file.name, []).append(file)
    for package in packages:
        origin = urlsplit(package.origin)
        files = here.get(unquote(origin.path).rpartition("/")[2], [])
        files += here.get(_file_name(package), [])
        files += [Path(unquote(origin.path))] if origin.scheme == "file" else []
        fitting = [file for file in files if file.is_file() and file.stat().st_size == package.size]
        if fitting:
            half = place(package).with_suffix(f".{secrets.token_hex(8)}")  # another build may be doing the same
            rpmdb.place_beside(fitting[0], half)
            half.replace(place(package))


def offered(repositories: Sequence[Repository], names: Sequence[str], workspace: Path) -> dict[str, str]:
    """Return the newest versions of packages, by name; one that is not offered is not there.

    Raises:
        NetworkError: an index cannot be had.
    """
    wanted, found = set(names), dict[str, indexes.Indexed]()
    for repository in repositories:
        for item in indexes.packages(indexes.fetcher(repository, workspace)):
            if item.name in wanted and (item.name not in found or item.built > found[item.name].built):
                found[item.name] = item
    return {name: item.version for name, item in found.items()}
