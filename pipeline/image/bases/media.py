"""The kinds of media that an rpm tree is made from, behind one door."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.core import cache
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases import iso, medium, probe, qcow2, rootfs
from pipeline.image.bases.medium import Kind, Medium, Request

KINDS: tuple[str, ...] = ("repo", "iso", "qcow2", "rootfs")
DIGESTS: Mapping[Kind, Callable[[Path], str]] = {
    "iso": lambda path: medium.remembered(path, lambda: iso.digest(path)),
    "qcow2": qcow2.digest,
    "rootfs": rootfs.digest,
}
MAKERS: Mapping[Kind, Callable[..., None]] = {"iso": iso.make, "qcow2": qcow2.make, "rootfs": rootfs.make}


def resolve(kind: str, path: Path | None, *, family: str) -> Medium | None:
    """Find out what a medium is, cheaply if it is known already.

    Args:
        kind: what the user says it is; ``repo`` is none.
        path: where it is.
        family: the profile's package system.

    Raises:
        InputError: the kind is not known, does not fit, or the medium is missing or damaged.
    """
    if kind not in KINDS:
        raise InputError(f"unknown base {kind!r}", hint=f"use one of: {', '.join(KINDS)}")
    if kind == "repo":
        if path is not None:
            raise InputError(
                "--medium has no meaning for --base repo", hint="say what it is: --base iso, qcow2 or rootfs"
            )
        return None
    if family != "rpm":
        raise InputError(f"--base {kind} is for RPM systems", hint="leave it out: a deb tree comes from repositories")
    if path is None:
        raise InputError(f"--base {kind} needs a medium", hint="name it: --medium PATH")
    if not path.exists():
        raise InputError(f"there is no medium {path}", hint="name an existing file: --medium PATH")
    if path.is_dir() and kind != "rootfs":
        raise InputError(f"{path} is a directory", hint=f"--base {kind} takes a file")
    known = next(name for name in MAKERS if name == kind)
    size = path.stat().st_size if path.is_file() else 0
    return Medium(kind=known, path=path.absolute(), digest=DIGESTS[known](path), size=size)


def prepare(found: Medium | None) -> None:
    """Make what reading a medium needs; to be called outside of the private namespace.

    Raises:
        DependencyError: something is missing on this machine.
        ToolError: it cannot be made.
    """
    if found is not None and found.kind == "qcow2":
        qcow2.prepare()


def forget() -> None:
    """Remove what is kept of media beside the cache's entries: digests, and libguestfs's appliance."""
    for name in (medium.MEMORY, qcow2.APPLIANCE):
        tree.remove_below(cache.cache_root() / name)


def make(found: Medium, request: Request, target: Path, *, workspace: Path, package_cache: Path) -> None:
    """Make a tree from a medium; to be called in the private namespace.

    Args:
        found: from :func:`resolve`.
        request: what is asked of it.
        target: directory that gets ``tree/``, ``packages.json`` and ``origin.json``.
        workspace: empty directory for intermediate files.
        package_cache: downloaded packages, shared between builds.

    Raises:
        InputError: the medium is damaged, of another release or architecture, or changed since the plan was made.
        PipelineError: as :func:`pipeline.image.bases.rpm.make`.
    """
    medium.check_sums(found)
    MAKERS[found.kind](found, request, target, workspace=workspace, package_cache=package_cache)
    if DIGESTS[found.kind](found.path) != found.digest:
        raise InputError(f"{found.path} has changed since the build began", hint="run the same command again")


def note_probe(target: Path) -> None:
    """Ask a finished tree what it is, and add that to ``origin.json``."""
    facts = probe.of_tree(target / "tree")
    origin = json.loads((target / "origin.json").read_text())
    origin["probe"] = facts.model_dump(mode="json")
    (target / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
