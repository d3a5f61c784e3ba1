"""A root tree from a vendor's cloud image: any partitions, LVM, XFS or btrfs, read by libguestfs (decision D2).

One read-only launch; what comes out is an archive, which is unpacked as a container's is. libguestfs is asked where
file systems belong, never what the system is called: it takes Kylin for a Debian, and does not know Anolis or UOS.
Sources: guestfs(3), QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core import cache, namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image.bases import complete, medium, unpack
from pipeline.image.bases.medium import Medium, Request
from pipeline.image.inspect import bindings, launched

MAGIC = b"QFI\xfb"
EXTERNAL_DATA = 1 << 2  # a bit of the incompatible features
SYSTEM = re.compile(r"/($|boot|efi|usr|var|opt|etc)")  # where packages have files
ENCRYPTED = "crypto_LUKS"
APPLIANCE = ".appliance"  # in the cache's directory; with a dot it is no kind of entry
# What the kernel or systemd fills. Logs and caches go later: their directories have owners.
EXCLUDED = ("./dev/*", "./proc/*", "./run/*", "./sys/*", "./tmp/*", "./var/tmp/*")


def digest(path: Path) -> str:
    """Return the sha256 of a qcow2.

    Raises:
        InputError: it is none, or is not whole by itself.
    """
    check(path)
    return medium.whole_file(path)


def check(path: Path) -> None:
    """Check that a qcow2 may be read.

    Raises:
        InputError: it is none, or is not whole by itself.
    """
    with path.open("rb") as stream:
        header = stream.read(104).ljust(104, b"\0")
    if header[:4] != MAGIC:
        raise InputError(
            f"{path} is not a qcow2 image", hint="decompress it first (xz -d), or convert it: qemu-img convert -O qcow2"
        )
    version, backing = struct.unpack(">IQ", header[4:16])
    features = struct.unpack(">Q", header[72:80])[0] if version >= 3 else 0
    # A stranger's image could name any file of this machine as the one that it continues.
    if backing or features & EXTERNAL_DATA:
        raise InputError(
            f"{path} is only a part: it refers to another file", hint="make it whole: qemu-img convert -O qcow2 IN OUT"
        )


def make(found: Medium, request: Request, target: Path, *, workspace: Path, package_cache: Path) -> None:
    """Make a tree from a cloud image; see :func:`pipeline.image.bases.media.make`."""
    root = target / "tree"
    root.mkdir()
    archive = workspace / "system.tar"
    with progress.step("read disk"):
        _read(found.path, archive, workspace, accelerated=request.accelerated)
    with progress.step("unpack"), unpack.opened(archive, workspace) as opened:
        unpack.apply(opened, root)
    archive.unlink()
    root.chmod(0o755)
    complete.complete(found.path, request, target, workspace=workspace, package_cache=package_cache)


def _read(path: Path, archive: Path, workspace: Path, *, accelerated: bool) -> None:
    """Write the file systems of an image's only operating system into an archive."""
    with launched(path, accelerated=accelerated, appliance=_appliance(), scratch=workspace) as handle:
        root = _only_system(handle, path)
        mounts = _mount(handle, path, handle.inspect_get_mountpoints(root))
        progress.log(f"mounted: {' '.join(f'{place}={device}' for place, device in mounts.items())}")
        # No labels and no ACLs (see the decisions); capabilities are extended attributes.
        handle.tar_out("/", str(archive), xattrs=True, excludes=list(EXCLUDED))


def prepare() -> None:
    """Make libguestfs's appliance for an ordinary user; to be called outside of the private namespace.

    It is made of this machine's own programs. In the namespace they seem to be nobody's, and so would be those in the
    appliance: its mount, which is setuid, could not mount anything.

    Raises:
        DependencyError: libguestfs is not installed.
        ToolError: this user may not read what it is made of, such as the kernel in /boot.
    """
    if os.geteuid() == 0:
        return
    source = Path(bindings().GuestFS().get_path().partition(":")[0]) / "supermin.d"
    place = cache.cache_root() / APPLIANCE
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    words: list[process.Argument] = ["supermin", "--build", "--if-newer", "--lock", place / "lock", "--copy-kernel"]
    words += ["-f", "ext2", "--host-cpu", Architecture.host().rpm, source, "-o", place / "appliance.d"]
    process.run(words, what="making the appliance of libguestfs")
    (place / "appliance.d/README.fixed").touch()  # by this libguestfs knows a finished one


def _appliance() -> Path | None:
    """Return the appliance that was prepared; None where libguestfs may use its own."""
    if namespace.is_initial_user():
        return None
    return cache.cache_root() / APPLIANCE / "appliance.d"


def _only_system(handle: Any, path: Path) -> str:  # noqa: ANN401  the bindings have no types
    roots: list[str] = handle.inspect_os()
    if len(roots) == 1:
        return roots[0]
    kinds: Mapping[str, str] = handle.list_filesystems()
    if not roots and (locked := [device for device in _devices(handle) if handle.vfs_type(device) == ENCRYPTED]):
        raise InputError(
            f"{path} is encrypted: {', '.join(locked)} is a LUKS volume", hint="decrypt it, or use another medium"
        )
    if not roots:
        shown = ", ".join(f"{device} ({kind})" for device, kind in sorted(kinds.items())) or "none"
        raise InputError(
            f"{path} holds no operating system that libguestfs recognises; its file systems: {shown}",
            hint="use the vendor's cloud image; --base iso or rootfs for other media",
        )
    named = ", ".join(f"{handle.inspect_get_product_name(root)} on {root}" for root in sorted(roots))
    raise InputError(f"{path} holds {len(roots)} operating systems: {named}", hint="use an image with one")


def _devices(handle: Any) -> list[str]:  # noqa: ANN401  as above
    """Return everything that may hold a file system or an encrypted one, which list_filesystems does not name."""
    return sorted({*handle.list_devices(), *handle.list_partitions(), *handle.lvs()})


def _mount(handle: Any, path: Path, places: Mapping[str, str]) -> dict[str, str]:  # noqa: ANN401  as above
    """Mount the file systems that fstab names, the root first."""
    mounted = {}
    for place, device in sorted(places.items(), key=lambda item: (len(item[0]), item[0])):
        try:
            handle.mount_ro(device, place)
            mounted[place] = device
        except RuntimeError as error:
            if not SYSTEM.match(place):  # such as a disk for data that the image comes without
                progress.note(f"{path.name}: {place} is on {device}, which is not in the image; it is left out")
                continue
            raise InputError(
                f"{path}: its {place} is on {device}, which cannot be mounted: {error}",
                hint="the image is not complete, or its file system is damaged or encrypted",
            ) from error
    return mounted
