"""Media made of a stand-in's packages: a DVD, a container's root file system, a vendor's cloud image."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.image.bases import repositories, rpm
from pipeline.profile import Release, RpmBase
from tests.integration import media
from tests.standin.debian import run

CONTAINER = ("bash", "coreutils", "dnf", "rpm")  # what vendors' containers come down to
ROOT_MIB, DISK_MIB = 1500, 2600


def iso(place: Path, repository_ids: Sequence[str], arch: Architecture, target: Path) -> Path:
    """Write a DVD, as the vendor lays it out: one repository at its root, or BaseOS and AppStream.

    Args:
        place: directory of the repositories of one system and architecture.
        repository_ids: their names.
        arch: the architecture.
        target: file that is written.
    """
    root = target.with_suffix(".d")
    split = list(repository_ids[:2]) == ["BaseOS", "AppStream"]
    for name in repository_ids[: 2 if split else 1]:
        packages = root / (name if split else "") / "Packages"
        packages.mkdir(parents=True)
        for file in (place / name).glob("*.rpm"):
            os.link(file, packages / file.name)
        run("createrepo_c", "--quiet", packages.parent)
    for key in place.parent.glob("RPM-GPG-KEY-*"):
        shutil.copy(key, root)
    (root / ".treeinfo").write_text(f"[general]\narch = {arch.rpm}\n[tree]\narch = {arch.rpm}\n")
    run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "STANDIN", "-o", target, root)
    shutil.rmtree(root)
    return target


def tree(release: Release, arch: Architecture, packages: Sequence[str], place: Path) -> Path:
    """Install packages of a stand-in into a directory of its own; returns the tree."""
    base = release.base
    assert isinstance(base, RpmBase)
    found = repositories.resolve(base, arch, None)
    workspace = place / "workspace"
    workspace.mkdir(parents=True)

    def make() -> None:
        rpm.make(base, arch, packages, found, place, workspace=workspace, package_cache=place / "packages")

    with progress.session(place / "log"):
        namespace.run_private(make)
    return place / "tree"


def archive(root: Path, target: Path) -> Path:
    """Pack a tree."""
    run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root, "-cf", target, ".")
    return target


def cloud_image(packed: Path, target: Path) -> Path:
    """Put a packed system onto a disk as an installer does: LVM and XFS."""
    import guestfs

    run("qemu-img", "create", "-q", "-f", "qcow2", target, f"{DISK_MIB}M")
    os.environ |= {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    handle = guestfs.GuestFS(python_return_dict=True)
    handle.add_drive_opts(str(target), format="qcow2", cachemode="unsafe")
    handle.launch()
    media.lay_out(handle, "/dev/sda", root=ROOT_MIB)
    media.install(handle, "/dev/sda", packed)
    handle.shutdown()
    handle.close()
    return target
