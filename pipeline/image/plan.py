"""The plan: every input of an image resolved, every check that can fail early made, nothing written."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.core import cache, clock, namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, StorageError
from pipeline.image import disk, overlay
from pipeline.image.bases import deb, locked, media, repositories, rpm
from pipeline.image.bases import sources as package_sources
from pipeline.image.bases.locked import LockedPackage
from pipeline.image.bases.medium import Medium
from pipeline.image.bases.repositories import Repository
from pipeline.image.bases.sources import Source
from pipeline.image.lock import Lock
from pipeline.image.lock import check as check_lock
from pipeline.profile import DebBase, Profile, Release, RpmBase, select

CODE = Path(__file__).parent
SCRIPT_NAME = re.compile(r"\d\d-[a-z0-9-]+\.sh", re.ASCII)
TOOLS = ("bwrap", "sfdisk", "mke2fs", "mkfs.vfat", "mcopy")
# The times that the image's file systems can hold: FAT begins with 1980, and mke2fs writes 31 bits.
EARLIEST, LATEST = 315532800, 2**31 - 1
DEB_CODE = (
    "bases/deb.py", "bases/deb_apt.py", "bases/deb_lock.py", "bases/locked.py", "bases/native.py", "bases/deb",
)  # fmt: skip
RPM_CODE = tuple(
    f"bases/{name}.py"
    for name in (
        "rpm", "dnf", "rpmdb", "settle", "berkeley", "kernels", "rpm_keys", "indexes", "repositories", "probe",
        "locked", "rpm_lock", "transaction", "dnf_plugin/chosen",
    )
)  # fmt: skip
MEDIA_CODE = tuple(
    f"bases/{name}.py"
    for name in ("media", "medium", "iso", "qcow2", "rootfs", "container", "unpack", "complete", "slim")
)
# What only speaks of images, compares them or moves them: a change there rebuilds none.
ASIDE = ("__init__.py", "artifact", "compare", "doctor.py", "history.py", "kernel_update.py", "show.py")
BINFMT = Path("/proc/sys/fs/binfmt_misc")
# Measured for Debian 12 with an empty cache: tree 0.5 GB, deltas and packages 0.4 GB, raw disk 0.6 GB, image 0.2 GB.
SPACE_COLD = 3 * 1024**3
SPACE_WARM = 3 * 1024**3 // 2


class OverlayInput(BaseModel):
    """A named change to the tree.

    Attributes:
        name: its directory below ``overlays/``.
        digest: sha256 over its files, modes and scripts.
        path: where it is.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    path: Path


class Plan(BaseModel):
    """Everything that decides what an image is.

    Attributes:
        os: the profile's name.
        title: what people call the operating system.
        family: its package system.
        release_name: the release's name in the profile.
        release: the release itself.
        arch: the architecture.
        sources: where the packages of a deb base come from.
        repositories: where the packages of an rpm base come from, or those that its medium lacks.
        medium: what an rpm base is made from in place of repositories; None if it is made from these.
        overlays: what changes the tree, in order.
        epoch: latest modification time of any file, in seconds since 1970, from SOURCE_DATE_EPOCH or from the lock;
            None means the date of the newest package index.
        code: sha256 of the code that carries the plan out.
        lock: exactly what is installed; None for what the sources have when it is built.
    """

    model_config = ConfigDict(frozen=True)

    os: str
    title: str
    family: str
    release_name: str
    release: Release
    arch: Architecture
    sources: tuple[Source, ...] = ()
    repositories: tuple[Repository, ...] = ()
    medium: Medium | None = None
    overlays: tuple[OverlayInput, ...]
    epoch: int | None
    code: str
    lock: Lock | None = None

    @property
    def name(self) -> str:
        """Name of the image and of its directory."""
        return f"{self.os}-{self.release_name}-{self.arch}"

    @property
    def packages(self) -> tuple[str, ...]:
        """Every package that is asked for."""
        return tuple(sorted({*self.release.packages, *self.release.arch[self.arch].packages}))

    @property
    def inputs(self) -> dict[str, cache.Json]:
        """Everything that decides what the image is, as JSON; not where its inputs happen to lie."""
        left_out: dict[str, Any] = {
            "overlays": {"__all__": {"path"}},
            "release": {"arch", "packages"},
            "repositories": {"__all__": {"keys"}},
            "medium": {"path"},
            "lock": True,
        }
        if self.lock is not None:
            left_out |= {"sources": True, "repositories": True}
        inputs: dict[str, cache.Json] = self.model_dump(mode="json", exclude=left_out)
        return inputs | {"packages": list(self.packages)} | self._locked

    @property
    def _locked(self) -> dict[str, cache.Json]:
        """What the lock decides; nothing without one."""
        if self.lock is None:
            return {}
        return {"lock": self.lock.digest, "locked": [f"{item.title} {item.sha256}" for item in self.lock.packages]}

    @property
    def archives(self) -> tuple[LockedPackage, ...] | None:
        """What is locked, each with where it is fetched from; None without a lock.

        Raises:
            InputError: the mirror lacks a repository.
        """
        if self.lock is None:
            return None
        roots = {source.suite: source.uri for source in self.sources}
        roots |= {repository.id: repository.url for repository in self.repositories}
        return locked.on_mirror(self.lock.packages, self.lock.indexes, roots)

    @property
    def key(self) -> str:
        """sha256 over everything that decides what the image is."""
        return cache.key_of("image", self.inputs)

    @property
    def base_inputs(self) -> dict[str, cache.Json]:
        """The part that decides what the base tree is."""
        inputs: dict[str, cache.Json] = {
            "arch": self.arch.value,
            "base": self.release.base.model_dump(mode="json"),
            "packages": list(self.packages),
            "epoch": self.epoch,
        }
        if self.lock is not None:
            code = code_digest(*(DEB_CODE if isinstance(self.release.base, DebBase) else RPM_CODE))
            return inputs | self._locked | {"code": code}
        if isinstance(self.release.base, DebBase):
            code = code_digest(*DEB_CODE)
            return inputs | {"sources": [source.model_dump() for source in self.sources], "code": code}
        found: list[cache.Json] = [item.model_dump(mode="json", exclude={"keys"}) for item in self.repositories]
        inputs |= {"repositories": found}
        if self.medium is None:
            return inputs | {"code": code_digest(*RPM_CODE)}
        source = self.medium.model_dump(mode="json", exclude={"path"})
        expected: dict[str, cache.Json] = {"os_release": self.release.verify.os_release, "name": self.release.codename}
        return inputs | {"medium": source, "expected": expected, "code": code_digest(*RPM_CODE, *MEDIA_CODE)}


@functools.cache
def code_digest(*names: str) -> str:
    """Return the sha256 of files and directories of this room: what made a cached step is one of its inputs.

    They count as text: what Python makes of them differs between its versions, and the key must not (decision D7).
    """
    total = hashlib.sha256()
    for name in names:
        path = CODE / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(f"{file.relative_to(CODE)}\0{file.read_text()}\0".encode())
    return total.hexdigest()


def resolve(
    profile: Profile,
    release_name: str | None,
    arch: Architecture,
    *,
    overlays: Path,
    mirror: str | None = None,
    base_kind: str = "repo",
    medium: Path | None = None,
    lock: Lock | None = None,
) -> Plan:
    """Resolve a plan.

    Args:
        profile: the operating system.
        release_name: one of its releases; None for its default.
        arch: the architecture.
        overlays: the directory that holds all overlays.
        mirror: archive in place of this machine's apt sources, or of the profile's repositories.
        base_kind: what the tree is made from: ``repo``, or a medium: ``iso``, ``qcow2``, ``rootfs``.
        medium: where that is.
        lock: exactly what is installed; None for what the sources have when it is built.

    Raises:
        InputError: there is no such release or architecture, an overlay is missing or wrong, the disk is too small,
            SOURCE_DATE_EPOCH is no usable time, the medium is missing, damaged or of no use, or the lock is of another
            image, or older than the profile.
        DependencyError: the package sources are not known.
    """
    release = select(profile, release_name, arch)
    base = release.base
    epoch = _epoch()
    disk.plan_layout(release.disk, arch, key="")  # refuses a disk that is too small
    found = media.resolve(base_kind, medium, family=profile.family)
    if lock is not None and found is not None:
        raise InputError(
            "--locked is about packages from repositories; a medium is what it is, and its digest is in the plan",
            hint="leave out --locked, or --base and --medium",
        )
    sources, places = _origins(base, arch, mirror, found, lock)
    plan = Plan(
        os=profile.name,
        title=profile.title,
        family=profile.family,
        release_name=release_name or profile.default_release,
        release=release,
        arch=arch,
        sources=sources,
        repositories=places,
        medium=found,
        overlays=tuple(_overlay(overlays, name) for name in release.overlays),
        epoch=lock.epoch if lock is not None and epoch is None else epoch,
        code=code_digest(*sorted(path.name for path in CODE.iterdir() if path.name not in ASIDE)),
        lock=lock,
    )
    if lock is not None:
        check_lock(lock, plan.name, release, plan.packages)
        _ = plan.archives  # refuses a mirror that lacks a repository
    return plan


def _origins(
    base: DebBase | RpmBase, arch: Architecture, mirror: str | None, medium: Medium | None, lock: Lock | None
) -> tuple[tuple[Source, ...], tuple[Repository, ...]]:
    """Return where packages come from: those that are locked from where they were, unless a mirror is named."""
    if isinstance(base, DebBase):
        if lock is not None and mirror is None:
            return tuple(Source(uri=index.root, suite=index.repository) for index in lock.indexes), ()
        return package_sources.resolve(base, mirror), ()
    if lock is not None and mirror is None:
        return (), tuple(repositories.known(index.repository, index.root) for index in lock.indexes)
    return (), _repositories(base, arch, mirror, medium)


def _repositories(
    base: RpmBase, arch: Architecture, mirror: str | None, medium: Medium | None
) -> tuple[Repository, ...]:
    if medium is not None and medium.kind == "iso" and mirror is None:
        return ()  # a machine that has the DVD need not reach anything else
    return repositories.resolve(base, arch, mirror)


def _overlay(overlays: Path, name: str) -> OverlayInput:
    path = overlays / name
    if not path.is_dir():
        known = sorted(entry.name for entry in overlays.iterdir() if entry.is_dir()) if overlays.is_dir() else []
        raise InputError(
            f"the profile names the overlay {name!r}, but there is no directory {path}",
            hint=f"make it, or use one of: {', '.join(known) or 'none is there'}",
        )
    for script in sorted((path / "scripts").glob("*")):
        if not SCRIPT_NAME.fullmatch(script.name) or not script.is_file() or not os.access(script, os.X_OK):
            raise InputError(
                f"{script} is not an executable file called NN-name.sh",
                hint="rename it (two digits give the order), and 'chmod +x' it",
            )
    return OverlayInput(name=name, digest=overlay.digest(path), path=path)


def _epoch() -> int | None:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or not EARLIEST <= int(text) <= LATEST:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970 from {EARLIEST} to {LATEST}",
            hint="unset it, or use for example: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        )
    return int(text)


def check_machine(plan: Plan, *, cache_root: Path, build_dir: Path) -> None:
    """Check that this machine can carry a plan out; to be called outside of the private namespace.

    Args:
        plan: the plan.
        cache_root: directory of the cache.
        build_dir: directory of the images.

    Raises:
        DependencyError: a tool, a kernel feature or a privilege is missing, or the clock is wrong.
        StorageError: there is not enough space.
    """
    clock.check()
    for tool in TOOLS:
        process.require(tool, hint="run ./invoke once: it installs what is missing")
    namespace.check_available()
    check_runnable(plan.arch)
    check_space(cache_root, SPACE_WARM)
    check_space(build_dir, SPACE_WARM // 3)


def check_sources(plan: Plan, *, cache_root: Path) -> None:
    """Check what a base tree needs that is not in the cache.

    Args:
        plan: the plan.
        cache_root: directory of the cache.

    Raises:
        DependencyError: a tool or a signing key is missing, or the clock is wrong.
        StorageError: there is not enough space.
        NetworkError: a package source cannot be reached.
    """
    clock.check()
    check_space(cache_root, SPACE_COLD)
    if plan.lock is not None:  # what is locked may be here already, or be had when the sources have moved on
        (deb if isinstance(plan.release.base, DebBase) else rpm).check_tools()
        return
    with progress.step("check package sources"):
        if isinstance(plan.release.base, DebBase):
            deb.check(plan.release.base, plan.sources)
        elif plan.medium is None:
            rpm.check(plan.repositories)
        else:
            rpm.check_tools()  # repositories are asked only for what the medium lacks


def check_runnable(arch: Architecture, *, binfmt: Path = BINFMT) -> None:
    """Check that programs of an architecture run here, natively or emulated (decision D5).

    Raises:
        DependencyError: no emulator is registered, or one that is looked up inside the tree (no F flag); the hint is
            the one command that mends it.
    """
    if arch is Architecture.host():
        return
    entry = binfmt / f"qemu-{arch.qemu}"
    mend = (
        f"as root, run: mountpoint -q {BINFMT} || mount -t binfmt_misc binfmt_misc {BINFMT}; "
        f"update-binfmts --enable qemu-{arch.qemu} || systemctl restart systemd-binfmt"
    )
    if not entry.exists():
        raise DependencyError(f"programs for {arch} do not run on this machine: {entry} is missing", hint=mend)
    flags = re.search(r"^flags: (\w*)$", entry.read_text(), re.MULTILINE)
    if "disabled" in entry.read_text() or flags is None or "F" not in flags[1]:
        raise DependencyError(
            f"the emulator for {arch} is disabled or registered without the flag F ({entry})",
            hint=f"install qemu-user-static, which registers it with the flag; then {mend}",
        )


def check_space(directory: Path, needed: int) -> None:
    """Raise StorageError unless so many bytes are free where a directory is, or will be made."""
    existing = next(parent for parent in [directory, *directory.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{directory} has {free / 1e9:.1f} GB free; a build needs {needed / 1e9:.1f} GB",
            hint="free some space ('./invoke clean --cache' empties the cache), or set XDG_CACHE_HOME to a larger disk",
        )
