"""Disk: a sealed tree becomes a raw disk and then a qcow2, without mounting anything (decision D1).

Everything is written into a sparse file by tools that take an offset; identifiers derive from the plan's key, so the
same tree gives the same bytes (decision D7). Sources: sfdisk(8), mke2fs(8), mke2fs.conf(5), mkfs.vfat(8), mtools(1),
for the partition types the Discoverable Partitions Specification; for GRUB's boot sectors
``include/grub/i386/pc/boot.h`` and ``util/setup.c`` of GRUB 2.06.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, StorageError, ToolError
from pipeline.image import qcow2, tree
from pipeline.image.boot import ESP, Identity
from pipeline.image.former import Former
from pipeline.profile import Disk

SECTOR = 512
MIB = 1024**2
ALIGNMENT = MIB
BIOS_SIZE = MIB
# FAT32 has at least 65525 clusters, here of one sector each; with fewer, a firmware takes it for FAT16.
SMALLEST_ESP = 33 * MIB
SMALLEST_ROOT = 256 * MIB
NAMESPACE = uuid.UUID("6f1d5e0c-2f0b-4b9e-9a57-6f8f0c1f7c11")  # ours; any constant will do

TYPE_BIOS = "21686148-6449-6E6F-744E-656564454649"
TYPE_ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
TYPE_ROOT = {
    Architecture.AMD64: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    Architecture.ARM64: "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}

# GRUB's boot sector: where it says which sector holds the core image, and the check of the drive number that setup
# replaces for hard disks, as some BIOSes pass a wrong one.
BOOT_KERNEL_SECTOR = 0x5C
BOOT_DRIVE_CHECK = 0x66
BOOT_CODE_SIZE = 440
# The first sector of the core image ends in a list of (first sector, length, segment) of the rest.
CORE_BLOCKLIST = 0x1F4
ROOT_INODE = 2
# Everything that -O and -E do not say; mke2fs picks the last three types by size, and warns of empty ones.
MKE2FS_CONFIG = """\
[defaults]
blocksize = 4096
inode_size = 256
inode_ratio = 16384
reserved_ratio = 1.0
[fs_types]
ext4 = {
  inode_size = 256
}
small = {
  inode_size = 256
}
big = {
  inode_size = 256
}
huge = {
  inode_size = 256
}
"""


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        name: its GPT name.
        type: its GPT type.
        uuid: its GPT identifier.
        start: first byte.
        size: length in bytes.
    """

    name: str
    type: str
    uuid: str
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """Where everything on a disk is.

    Attributes:
        uuid: the disk's GPT identifier.
        size: its size in bytes.
        identity: names of its file systems.
        hash_seed: seed of ext4's directory hashes.
        partitions: in the order of the disk; the root file system is the last, so that it can grow.
    """

    uuid: str
    size: int
    identity: Identity
    hash_seed: str
    partitions: tuple[Partition, ...]

    def partition(self, name: str) -> Partition:
        """Return the partition called ``bios``, ``esp`` or ``root``."""
        return next(partition for partition in self.partitions if partition.name == name)


def plan_layout(disk: Disk, arch: Architecture, key: str) -> Layout:
    """Lay out a disk.

    Args:
        disk: sizes, from the profile.
        arch: decides whether there is a BIOS boot partition.
        key: the plan's key; every identifier derives from it.

    Raises:
        InputError: the disk is too small for its partitions, or one of them for its file system.
    """

    def name_uuid(what: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{key} {what}"))

    sizes = {"bios": (TYPE_BIOS, BIOS_SIZE)} if arch.has_bios else {}
    sizes["esp"] = (TYPE_ESP, disk.esp_size)
    used = ALIGNMENT + sum(size for _, size in sizes.values())
    sizes["root"] = (TYPE_ROOT[arch], disk.size - used - ALIGNMENT)  # the backup table needs room at the end
    if disk.esp_size < SMALLEST_ESP:
        raise InputError(
            f"an EFI system partition of {disk.esp_size // MIB} MiB is too small for FAT32",
            hint=f"set disk.esp_size in the profile to {SMALLEST_ESP // MIB}M or more",
        )
    if sizes["root"][1] < SMALLEST_ROOT:
        raise InputError(
            f"a disk of {disk.size // MIB} MiB leaves no room for the root file system",
            hint="raise disk.size in the profile",
        )
    partitions, start = [], ALIGNMENT
    for name, (kind, size) in sizes.items():
        partitions.append(Partition(name, kind, name_uuid(name), start, size))
        start += size
    volume = uuid.uuid5(NAMESPACE, f"{key} esp file system").hex[:8].upper()
    identity = Identity(root=name_uuid("root file system"), esp=f"{volume[:4]}-{volume[4:]}")
    return Layout(name_uuid("disk"), disk.size, identity, name_uuid("hash seed"), tuple(partitions))


def write_raw(root: Path, disk: Disk, layout: Layout, epoch: int, workspace: Path, grub_directory: str) -> Path:
    """Write a sealed tree onto a raw disk.

    Args:
        root: the tree; the files below ``boot/efi`` are moved out of it, into the EFI system partition.
        disk: features of its file system.
        layout: where everything goes.
        epoch: time of creation, in seconds since 1970.
        workspace: directory for the disk and other intermediate files.
        grub_directory: where in the tree GRUB's BIOS images are.

    Returns:
        The sparse raw disk.

    Raises:
        InputError: the tree does not fit.
        ToolError: a tool failed.
        StorageError: the disk of the build machine is full.
    """
    raw = workspace / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(layout.size)
    _write_table(raw, layout)
    esp_files = tree.inside(root, ESP)
    _write_esp(raw, esp_files, layout, epoch)
    tree.remove_below(esp_files)
    os.utime(esp_files, (epoch, epoch))
    if any(partition.name == "bios" for partition in layout.partitions):
        _write_bios(raw, tree.inside(root, f"{grub_directory}/i386-pc"), layout.partition("bios"))
    _write_root(raw, root, disk, layout, epoch, workspace)
    return raw


def _write_table(raw: Path, layout: Layout) -> None:
    lines = ["label: gpt", f"label-id: {layout.uuid}", "unit: sectors", "sector-size: 512"]
    for part in layout.partitions:
        place = f"start={part.start // SECTOR}, size={part.size // SECTOR}"
        lines.append(f"{place}, type={part.type}, uuid={part.uuid}, name={part.name}")
    words = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(raw)]
    process.run(words, stdin="\n".join(lines) + "\n", what="partitioning the disk")


def _write_esp(raw: Path, files: Path, layout: Layout, epoch: int) -> None:
    esp = layout.partition("esp")
    volume = layout.identity.esp.replace("-", "")
    # --invariant fixes times, but also the volume id: ours must come after it.
    words: list[process.Argument] = ["mkfs.vfat", "--invariant", "-F", "32", "-S", str(SECTOR), "-s", "1"]
    words += ["-n", "ESP", "-i", volume, f"--offset={esp.start // SECTOR}", raw, str(esp.size // 1024)]
    process.run(words, what="making the EFI system partition")
    image, env = f"{raw}@@{esp.start}", {"SOURCE_DATE_EPOCH": str(epoch)}
    # Directory by directory: mcopy -s takes files as the build machine's file system happens to list them.
    directories = [path for path, status in tree.walk(files) if stat.S_ISDIR(status.st_mode)]
    for directory in directories:
        process.run(["mmd", "-i", image, f"::{directory}"], env=env, what="filling the EFI system partition")
    for directory in ["", *directories]:
        inside = sorted(file for file in (files / directory).iterdir() if file.is_file())
        for file in inside:
            os.utime(file, (epoch, epoch))
        if inside:
            words = ["mcopy", "-i", image, "-p", "-m", "-Q", *inside, f"::{directory}/"]
            process.run(words, env=env, what="filling the EFI system partition")


def _write_bios(raw: Path, images: Path, bios: Partition) -> None:
    """Do what ``grub-bios-setup`` does, on a file: boot sector, core image, and where each finds the next."""
    first = bios.start // SECTOR
    boot = bytearray((images / "boot.img").read_bytes())
    core = bytearray((images / "core.img").read_bytes())
    if len(core) > bios.size:
        raise InputError(f"GRUB's core image has {len(core)} bytes; the BIOS boot partition only {bios.size}")
    struct.pack_into("<Q", boot, BOOT_KERNEL_SECTOR, first)
    boot[BOOT_DRIVE_CHECK : BOOT_DRIVE_CHECK + 2] = b"\x90\x90"
    struct.pack_into("<Q", core, CORE_BLOCKLIST, first + 1)
    with raw.open("r+b") as stream:
        stream.write(boot[:BOOT_CODE_SIZE])
        stream.seek(bios.start)
        stream.write(core)


def _write_root(raw: Path, root: Path, disk: Disk, layout: Layout, epoch: int, workspace: Path) -> None:
    """Make the root file system with nothing but what the profile says: the build machine's mke2fs.conf is not read."""
    part = layout.partition("root")
    config = workspace / "mke2fs.conf"
    config.write_text(MKE2FS_CONFIG)
    extended = f"offset={part.start},hash_seed={layout.hash_seed},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    words: list[process.Argument] = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, "-L", "root"]
    words += ["-U", layout.identity.root, "-O", ",".join(["none", *disk.ext4_features]), "-E", extended]
    words += [raw, f"{part.size // 1024}k"]
    env = {"MKE2FS_CONFIG": str(config), "SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch)}
    try:
        process.run(words, env=env, sync=False, what="making the root file system")
    except ToolError as error:
        if "Could not allocate" not in error.message:  # an inode or a block
            raise
        message = f"the tree does not fit into the root file system of {part.size // MIB} MiB\n{error.message}"
        raise InputError(message, hint="raise disk.size in the profile, or install less") from error
    _set_inode_times(f"{raw}?offset={part.start}", epoch, workspace)


def _set_inode_times(device: str, epoch: int, workspace: Path) -> None:
    """Set the two times of each inode that no system call can set or that reading changes: ctime and atime.

    mke2fs takes them from the tree, where they say when this build ran (decision D7).
    """
    commands = workspace / "inode-times"
    with commands.open("w") as stream:
        for inode in _used_inodes(device):
            stream.write(f"sif <{inode}> ctime @{epoch}\nsif <{inode}> atime @{epoch}\n")
    words = ["debugfs", "-w", "-f", str(commands), device]
    env = {"E2FSPROGS_FAKE_TIME": str(epoch)}
    # Captured, so that its echo of every command is not logged.
    done = process.run(words, env=env, sync=False, capture=True, what="setting the times of the root file system")
    complaints = [line for line in done.tail if not line.startswith("debugfs ")]  # it exits with 0 whatever happens
    if complaints:
        raise ToolError(f"setting the times of the root file system: {complaints[0]}", hint="see the log of this step")


def _used_inodes(device: str) -> Iterator[int]:
    words = ["dumpe2fs", device]
    shown = process.run(words, sync=False, capture=True, what="reading the root file system").stdout
    count, first = (int(_after(shown, name)) for name in ("Inode count:", "First inode:"))
    ranges = [
        piece.split("-") for line in re.findall(r"^  Free inodes: (.+)$", shown, re.M) for piece in line.split(", ")
    ]
    free = {number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)}
    yield ROOT_INODE
    yield from (number for number in range(first, count + 1) if number not in free)


def _after(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).strip()


def convert(raw: Path, target: Path, last: Former | None = None) -> None:
    """Convert a raw disk to a compressed qcow2 (QEMU 5.1 or later reads its zstd clusters).

    Args:
        raw: the disk.
        target: the file that is written.
        last: the image that it will replace, whose clusters need not be compressed again; None if there is none.

    Raises:
        StorageError: the build machine's disk is full.
    """
    try:
        qcow2.write(raw, target, last.same if last else None)
    except OSError as error:
        raise StorageError(
            f"compressing the image to {target}: {error.strerror}", hint="free some space, or name another directory"
        ) from error
