"""A second, independent opinion on an image: what libguestfs sees in it (decision D2)."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.errors import DependencyError, ToolError


@dataclass(frozen=True)
class FileSystem:
    """A file system in an image.

    Attributes:
        device: its name in the appliance.
        kind: ``ext4``, ``vfat`` and so on.
        uuid: its identifier.
        size: of its device, in bytes.
        mounted: where the system mounts it, or empty.
    """

    device: str
    kind: str
    uuid: str
    size: int
    mounted: str


@dataclass(frozen=True)
class Inspection:
    """What is in an image.

    Attributes:
        partition_table: ``gpt`` or ``msdos``.
        product: the operating system, as it names itself.
        version: its major and minor version.
        arch: its architecture, as libguestfs names it.
        packages: number of installed packages.
        kernels: kernel versions that have modules.
        file_systems: every file system.
    """

    partition_table: str
    product: str
    version: str
    arch: str
    packages: int
    kernels: tuple[str, ...]
    file_systems: tuple[FileSystem, ...]


def inspect(image: Path, *, accelerated: bool) -> Inspection:
    """Look into a disk image with libguestfs: one read-only launch.

    Args:
        image: a qcow2.
        accelerated: whether KVM is known to work; if not, the appliance is emulated.

    Raises:
        DependencyError: libguestfs is not installed.
        ToolError: libguestfs cannot read the image, or finds no single operating system in it.
    """
    with launched(image, accelerated=accelerated) as handle:
        return _look(handle, image)


def bindings() -> ModuleType:
    """Return the module ``guestfs``.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        return importlib.import_module("guestfs")
    except ImportError as error:
        hint = "install python3-guestfs (RHEL family: python3-libguestfs); .venv must be on the system's Python"
        raise DependencyError("the libguestfs bindings for Python are not installed", hint=hint) from error


@contextlib.contextmanager
def launched(
    image: Path, *, accelerated: bool = False, appliance: Path | None = None, scratch: Path | None = None
) -> Iterator[Any]:
    """Start libguestfs with a disk, read-only.

    Args:
        image: a qcow2.
        accelerated: whether KVM is known to work; if not, the appliance is emulated.
        appliance: directory of a finished appliance; libguestfs makes and keeps its own if None.
        scratch: directory for its temporary files; its own place if None.

    Yields:
        A handle of the bindings.

    Raises:
        DependencyError: libguestfs is not installed.
        ToolError: libguestfs cannot read the image.
    """
    guestfs = bindings()
    # Direct: no libvirt in between. The setting is libguestfs's own way to say "do not use KVM" (guestfs(3)).
    os.environ["LIBGUESTFS_BACKEND"] = "direct"
    os.environ["LIBGUESTFS_BACKEND_SETTINGS"] = "" if accelerated else "force_tcg"
    handle = guestfs.GuestFS(python_return_dict=True)
    try:
        if appliance is not None:
            handle.set_path(str(appliance))
        if scratch is not None:
            handle.set_tmpdir(str(scratch))
        handle.add_drive_opts(str(image), format="qcow2", readonly=1)
        handle.launch()
        yield handle
    except RuntimeError as error:
        raise ToolError(f"libguestfs cannot read {image}: {error}", hint="try: libguestfs-test-tool") from error
    finally:
        handle.close()


def _look(handle: Any, image: Path) -> Inspection:  # noqa: ANN401  the bindings have no types
    roots = handle.inspect_os()
    if len(roots) != 1:
        raise ToolError(f"{image} holds {len(roots)} operating systems", hint="a node image holds exactly one")
    root = roots[0]
    mounts = {device: path for path, device in handle.inspect_get_mountpoints(root).items()}
    for device, path in sorted(mounts.items(), key=lambda item: len(item[1])):
        handle.mount_ro(device, path)
    return Inspection(
        partition_table=handle.part_get_parttype("/dev/sda"),
        product=handle.inspect_get_product_name(root),
        version=f"{handle.inspect_get_major_version(root)}.{handle.inspect_get_minor_version(root)}",
        arch=handle.inspect_get_arch(root),
        packages=len(handle.inspect_list_applications2(root)),
        kernels=tuple(sorted(handle.ls("/usr/lib/modules"))),
        file_systems=tuple(
            FileSystem(device, kind, handle.vfs_uuid(device), handle.blockdev_getsize64(device), mounts.get(device, ""))
            for device, kind in sorted(handle.list_filesystems().items())
            if kind not in {"unknown", "swap"}
        ),
    )


def text(found: Inspection) -> str:
    """Return an inspection as lines for a user."""
    lines = [
        f"{found.product} ({found.version}, {found.arch}), {found.packages} packages",
        f"kernels: {', '.join(found.kernels)}",
        f"partition table: {found.partition_table}",
    ]
    for system in found.file_systems:
        where = f" on {system.mounted}" if system.mounted else ""
        lines.append(f"{system.device}: {system.kind} {system.uuid}, {system.size / 1024**2:.0f} MiB{where}")
    return "\n".join(lines)
