"""A root tree from RPM repositories, by this machine's dnf and the target's own rpm.

dnf resolves and downloads, or a lock says what is fetched; either way rpm then installs these files and no others.
This runs on this machine whatever the target's architecture is; only scriptlets run inside the tree, emulated if need
be (decision D5). The package database is then written by the target's own rpm, and
read back by it (decision D3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import download, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import NetworkError
from pipeline.image import tree
from pipeline.image.bases import dnf, downloads, kernels, rpm_keys, rpm_lock, rpmdb, settle, transaction
from pipeline.image.bases.locked import LockedPackage
from pipeline.image.bases.repositories import INDEX, Repository
from pipeline.profile import RpmBase

TOOLS = ("dnf", "rpm", "gpg")


def check(repositories: Sequence[Repository]) -> None:
    """Check early what an installation needs.

    Raises:
        DependencyError: a tool is missing.
        NetworkError: a repository cannot be had.
    """
    check_tools()
    for repository in repositories:
        if not download.exists(f"{repository.url}/{INDEX}"):
            raise NetworkError(
                f"there is no repository {repository.id!r} at {repository.url} (tried {INDEX})",
                hint="check the profile, or name a mirror with --mirror URL",
            )


def check_tools() -> None:
    """Raise DependencyError if a tool is missing."""
    for tool in TOOLS:
        process.require(tool, hint="run ./invoke once: it installs what is missing")


@dataclass(frozen=True)
class Fetched:
    """What is installed, on this machine.

    Attributes:
        files: package files, by rpm's own names for them.
        epoch: the time of their repositories' newest index, in seconds since 1970.
        home: home directory for this machine's rpm.
    """

    files: Mapping[str, Path]
    epoch: int
    home: Path


def make(
    base: RpmBase,
    arch: Architecture,
    packages: Sequence[str],
    repositories: Sequence[Repository],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
    locked: Sequence[LockedPackage] | None = None,
    epoch: int | None = None,
) -> None:
    """Make a tree; to be called in the private namespace.

    Args:
        base: where it comes from.
        arch: its architecture.
        packages: what is installed, besides dependencies.
        repositories: from :func:`pipeline.image.bases.repositories.resolve`.
        target: directory that gets ``tree/``, ``packages.json`` and ``origin.json``.
        workspace: empty directory for intermediate files.
        package_cache: downloaded packages and metadata, shared between builds.
        locked: exactly what is installed, and where it is fetched from; None for what the repositories have now.
        epoch: with a lock, its time.

    Raises:
        InputError: a package does not exist, or cannot be installed together with the others.
        DependencyError: a signing key was not found.
        NetworkError: something could not be fetched, or is not what the index says.
        VerificationError: a package is not signed by a pinned key, or has other bytes than when it was locked, or the
            target's rpm does not see what was installed.
        ToolError: a tool failed for another reason.
    """
    root = target / "tree"
    _prepare(root, base)
    with downloads.in_use(package_cache):
        with progress.step("fetch packages"):
            if locked is None:
                fetched = _newest(base, arch, packages, repositories, root, workspace, package_cache)
            else:
                fetched = _locked(base, repositories, locked, epoch or 0, workspace, package_cache)
        files = rpmdb.gathered(fetched.files, workspace / "rpms")
    with progress.step("install packages"):
        transaction.install(root, files, fetched.home, arch)
        transaction.enable_modules(root, files, fetched.home)
    with progress.step("package database"):
        _own_database(root, base, files, fetched, target)
    kernels.finish(root)
    write_origin(target, fetched.epoch)
    tidy(root, base)


def _newest(
    base: RpmBase, arch: Architecture, packages: Sequence[str], repositories: Sequence[Repository],
    root: Path, workspace: Path, package_cache: Path,
) -> Fetched:  # fmt: skip
    """Have dnf resolve and fetch, and check signatures; what it notes of its keys goes with its database."""
    keys = rpm_keys.trusted(base, repositories, workspace)
    program = dnf.set_up(base, arch, repositories, root, keys, workspace=workspace, package_cache=package_cache)
    chosen = program.choose([base.release_package, *packages], download=True)
    files = {rpmdb.file_name(item.name, item.version, item.architecture): item.file for item in chosen}
    return Fetched(files, dnf.newest_index(program.cache), program.home)


def _locked(
    base: RpmBase, repositories: Sequence[Repository], packages: Sequence[LockedPackage], epoch: int,
    workspace: Path, package_cache: Path,
) -> Fetched:  # fmt: skip
    """Fetch what is locked, and check signatures; what the repositories hold by now does not matter."""
    files = rpm_lock.fetch(packages, repositories, workspace, package_cache)
    mine = rpmdb.gathered(files, workspace / "locked")
    ours = sorted(mine.iterdir())
    beside = sorted({key for repository in repositories for key in repository.keys})
    keys = rpm_keys.trusted(base, (), workspace, files=[*beside, *rpm_keys.in_files(ours, workspace)])
    rpm_keys.check_signatures(ours, keys, workspace)
    return Fetched({file.name: file for file in ours}, epoch, dnf.make_home(base, workspace))


def _own_database(root: Path, base: RpmBase, files: Path, fetched: Fetched, target: Path) -> None:
    """Have the target's rpm write the package database, and list what it holds in ``packages.json``."""
    installed = rpmdb.installed(root, fetched.home)
    known = rpmdb.identified(sorted(files.iterdir()), fetched.home)
    rpmdb.compare(set(known), set(installed), "not what was fetched is installed", hint="see the log of the base step")
    rpmdb.rewrite(root, base, files, fetched.epoch)
    settle.settle(root, base.database, fetched.epoch)
    rpmdb.check(root, set(installed))
    rpmdb.write_packages(target, installed, known)


def _prepare(root: Path, base: RpmBase) -> None:
    for name in ("dev", "proc", "run", "etc/rpm", base.database):
        (root / name).mkdir(parents=True)
    tree.write(root, dnf.MACROS, dnf.macros(base))
    kernels.mask(root)


def write_origin(target: Path, epoch: int, **more: object) -> None:
    """Write ``origin.json``: the tree's time, the tool that made it, and what else is known of it."""
    origin = {"epoch": epoch, "tool": f"dnf {dnf.version()}", **more}
    (target / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")


def tidy(root: Path, base: RpmBase) -> None:
    """Remove what only the installation needed; nothing of this machine may stay in the image."""
    for name in ("dev", "proc", "run", "var/cache/dnf", "var/cache/yum", "var/cache/ldconfig", "var/lib/dnf"):
        tree.remove_below(tree.inside(root, name))
    tree.remove_files_below(tree.inside(root, "var/log"))
    rpmdb.tidy(root, base.database)
