"""A root tree from RPM repositories, by this machine's dnf and the target's own rpm.

Resolving, downloading and unpacking run on this machine whatever the target's architecture is; only scriptlets run
inside the tree, emulated if need be (decision D5). The package database is then written by the target's own rpm, and
read back by it (decision D3).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import download, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import NetworkError
from pipeline.image import tree
from pipeline.image.bases import dnf, downloads, kernels, rpm_keys, rpmdb, settle
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


def make(
    base: RpmBase,
    arch: Architecture,
    packages: Sequence[str],
    repositories: Sequence[Repository],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
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

    Raises:
        InputError: a package does not exist, or cannot be installed together with the others.
        DependencyError: a signing key was not found.
        NetworkError: something could not be fetched, or is not what the index says.
        VerificationError: a package is not signed by a pinned key, or the target's rpm does not see what was installed.
        ToolError: a tool failed for another reason.
    """
    root = target / "tree"
    _prepare(root, base)
    with downloads.in_use(package_cache):
        keys = rpm_keys.trusted(base, repositories, workspace)
        program = dnf.set_up(
            base, arch, repositories, root, keys, workspace=workspace, package_cache=package_cache
        )  # fmt: skip
        with progress.step("install packages"):
            program.install([base.release_package, *packages])
        epoch = dnf.newest_index(program.cache)
        with progress.step("package database"):
            places = [program.cache, *(item.directory for item in repositories if item.directory)]
            _own_database(program, places, epoch, target, workspace)
        kernels.finish(root)
    write_origin(target, epoch)
    tidy(root, base)


def _own_database(program: dnf.Dnf, places: Sequence[Path], epoch: int, target: Path, workspace: Path) -> None:
    """Have the target's rpm write the package database, and list what it holds in ``packages.json``."""
    installed = rpmdb.installed(program.root, program.home)
    files = rpmdb.package_files(installed, places, program.home)
    rpmdb.rewrite(program.root, program.base, rpmdb.gathered(files.values(), workspace / "rpms"), epoch)
    settle.settle(program.root, program.base.database, epoch)
    rpmdb.check(program.root, set(installed))
    rpmdb.write_packages(target, installed, files)


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
