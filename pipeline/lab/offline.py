"""An image's root file system as a directory, without booting it and without mounting it.

The ext4 file system is read by debugfs, which loses device nodes and the set-uid bit: good enough to look at files and
to run the distribution's own query programs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pipeline.core import process
from pipeline.core.errors import DependencyError, ToolError

if TYPE_CHECKING:
    from pathlib import Path

SUPERBLOCK_MAGIC_AT = 1024 + 56
EXT_MAGIC = b"\x53\xef"


def to_raw(image: Path, raw: Path) -> None:
    """Unpack a qcow2 into a sparse raw disk."""
    process.run(["qemu-img", "convert", "-O", "raw", image, raw], what="unpacking the image")


def root_offset(raw: Path) -> int:
    """Return where the root file system begins: that of the disk's largest partition, in bytes.

    Raises:
        DependencyError: that is no ext4 file system.
        ToolError: there is no partition.
    """
    shown = process.run(["sfdisk", "--json", raw], capture=True, what="reading the partition table")
    table = json.loads(shown.stdout)["partitiontable"]
    if not table.get("partitions"):
        raise ToolError(f"there is no partition on {raw}")
    largest = max(table["partitions"], key=lambda partition: int(partition["size"]))
    offset = int(largest["start"]) * int(table.get("sectorsize", 512))
    with raw.open("rb") as stream:
        stream.seek(offset + SUPERBLOCK_MAGIC_AT)
        magic = stream.read(2)
    if magic != EXT_MAGIC:
        raise DependencyError(
            f"the root file system of {raw} is not ext4, and only that can be read without booting",
            hint="run ./invoke verify without --offline",
        )
    return offset


def extract(raw: Path, tree: Path) -> None:
    """Copy the root file system of a raw disk into a directory; owners are kept where we are root.

    Args:
        raw: the disk.
        tree: an empty directory.

    Raises:
        ToolError: debugfs failed, or left the directory empty.
    """
    command = f'rdump / "{tree}"'
    process.run(["debugfs", "-R", command, f"{raw}?offset={root_offset(raw)}"], what="reading the root file system")
    if not (tree / "etc").is_dir():
        raise ToolError(f"debugfs found no root file system on {raw}", hint="the session's log has its messages")
