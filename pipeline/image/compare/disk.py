"""Disks: the qcow2 unpacked, its partition table, and where two disks differ byte for byte.

Sources: sfdisk(8), qemu-img(1), for the fields of FAT32 the "Microsoft FAT Specification", of ext4 ext4's super.rst.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from pipeline.core import process
from pipeline.core.errors import ToolError
from pipeline.image.compare.model import Aspect

SECTOR = 512
BLOCK = 4096
CHUNK = 1 << 20
ESP_TYPES = {"C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "ef"}
BOOT_CODE = 440  # bytes of a boot sector that are a program
EXT_MAGIC = (1024 + 0x38, b"\x53\xef")
FAT_MAGIC = (0x52, b"FAT32   ")


@dataclass(frozen=True)
class Part:
    """A partition.

    Attributes:
        name: its GPT name, else its number.
        start: first byte.
        size: in bytes.
        kind: ``ext4`` (or an older one), ``fat32``, or empty for what is only compared byte for byte.
        fields: what the table says of it.
    """

    name: str
    start: int
    size: int
    kind: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Raw:
    """A raw disk.

    Attributes:
        file: sparse, in a directory of intermediate files.
        size: in bytes.
        table: what the partition table says of itself; empty if there is none.
        parts: partitions, in the order of the table.
        form: how the qcow2 stores it.
    """

    file: Path
    size: int
    table: dict[str, str]
    parts: tuple[Part, ...]
    form: dict[str, str]


def unpack(image: Path, target: Path) -> Raw:
    """Unpack a qcow2 and read its partition table.

    Raises:
        ToolError: it is damaged.
        StorageError: the disk of this machine is full.
    """
    shown = json.loads(process.run(["qemu-img", "info", "--output=json", "-f", "qcow2", image], capture=True).stdout)
    _check(image, shown["cluster-size"])
    process.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, target], what=f"unpacking {image}")
    specific = shown.get("format-specific", {}).get("data", {})
    form = {f"qcow2 {name}": str(value) for name, value in sorted(specific.items())}
    form |= {"virtual size": str(shown["virtual-size"]), "cluster size": str(shown["cluster-size"])}
    size = target.stat().st_size
    table = _table(target)
    with target.open("rb") as stream:
        parts = _told_apart([_part(stream, n, row) for n, row in enumerate(table.pop("partitions", ()), start=1)])
        if not table:  # a file system without partitions around it
            parts = (Part("disk", 0, size, _kind(stream, 0), {}),)
    return Raw(target, size, {name: str(value) for name, value in table.items() if name != "device"}, parts, form)


def _check(image: Path, cluster_size: int) -> None:
    """Refuse a qcow2 that was cut: qemu-img takes tables behind its end for zeros, and reads a disk with holes."""
    words: list[process.Argument] = ["qemu-img", "check", "-f", "qcow2", "--output=json", image]
    done = process.run(words, capture=True, check=False, what=f"checking {image}")
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        raise ToolError(f"{image} is damaged: {' '.join(done.tail)}") from error
    # Its end is that of a cluster; a compressed one need not be written to the end.
    is_cut = found.get("image-end-offset", 0) - image.stat().st_size >= cluster_size
    if is_cut or found.get("corruptions") or found.get("check-errors"):
        raise ToolError(f"{image} is damaged{': its end is missing' if is_cut else ''}", hint="compare its sha256")


def _table(raw: Path) -> dict[str, Any]:
    # It fails for a disk that has no table.
    done = process.run(["sfdisk", "--json", raw], capture=True, check=False)
    if done.returncode:
        return {}
    found: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    return found


def _part(stream: IO[bytes], number: int, row: dict[str, Any]) -> Part:
    start, size = row["start"] * SECTOR, row["size"] * SECTOR
    fields = {name: str(value) for name, value in sorted(row.items()) if name != "node"}
    kind = _kind(stream, start)
    name = "ESP" if kind == "fat32" and row["type"] in ESP_TYPES else row.get("name") or f"partition {number}"
    return Part(name, start, size, kind, fields)


def _told_apart(parts: list[Part]) -> tuple[Part, ...]:
    """Add its number to the name of a partition that is not the only one of this name."""
    names = [part.name for part in parts]
    return tuple(
        replace(part, name=f"{part.name} {number}") if names.count(part.name) > 1 else part
        for number, part in enumerate(parts, start=1)
    )


def _kind(stream: IO[bytes], start: int) -> str:
    for kind, (place, magic) in (("ext4", EXT_MAGIC), ("fat32", FAT_MAGIC)):
        stream.seek(start + place)
        if stream.read(len(magic)) == magic:
            return kind
    return ""


def read_esp(raw: Raw, part: Part, target: Path) -> None:
    """Copy what is in a FAT file system into a new directory.

    Raises:
        ToolError: it is damaged.
    """
    target.mkdir()
    words: list[process.Argument] = ["mcopy", "-s", "-m", "-n", "-Q", "-i", f"{raw.file}@@{part.start}", "::/", target]
    process.run(words, what="reading the EFI system partition")


def fat_names(raw: Raw, part: Part) -> dict[str, str]:
    """Return volume id and label of a FAT32 file system."""
    with raw.file.open("rb") as stream:
        stream.seek(part.start)
        sector = stream.read(SECTOR)
    serial = f"{int.from_bytes(sector[0x43:0x47], 'little'):08X}"
    label = sector[0x47:0x52].decode("ascii", "replace").strip()
    return {"volume id": f"{serial[:4]}-{serial[4:]}", "label": label}


def compare(a: Raw, b: Raw) -> Iterator[Aspect]:
    """Yield what differs in the form of the qcow2, the partition table and its partitions."""
    yield from dictionaries(a.form, b.form)
    yield from dictionaries(a.table, b.table, "partition table: ")
    old, new = {part.name: part for part in a.parts}, {part.name: part for part in b.parts}
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            yield Aspect(f"partition {name}", "" if before is None else "is there", "" if after is None else "is there")
            continue
        yield from dictionaries(before.fields, after.fields, f"partition {name}: ")
        if before.kind != after.kind:
            yield Aspect(f"partition {name}: file system", before.kind, after.kind)


def dictionaries(a: dict[str, str], b: dict[str, str], prefix: str = "") -> Iterator[Aspect]:
    """Yield the names whose values differ."""
    for name in dict.fromkeys([*a, *b]):
        if a.get(name, "") != b.get(name, ""):
            yield Aspect(prefix + name, a.get(name, ""), b.get(name, ""))


def boot_code(raw: Raw) -> bytes:
    """Return the program in the boot sector."""
    with raw.file.open("rb") as stream:
        return stream.read(BOOT_CODE)


def differing_blocks(a: Path, b: Path, start_a: int, start_b: int, size: int) -> Iterator[int]:
    """Yield the places, in bytes from the start, of all blocks of 4 KiB that differ; holes are not read."""
    with a.open("rb") as one, b.open("rb") as other:
        at = 0
        while at < size:
            at = min(_next_data(one, start_a + at) - start_a, _next_data(other, start_b + at) - start_b)
            if at >= size:
                return
            at -= at % BLOCK
            length = min(CHUNK, size - at)
            old, new = (os.pread(one.fileno(), length, start_a + at), os.pread(other.fileno(), length, start_b + at))
            if old != new:
                yield from (at + i for i in range(0, length, BLOCK) if old[i : i + BLOCK] != new[i : i + BLOCK])
            at += length


def _next_data(stream: IO[bytes], place: int) -> int:
    """Return where the next data of a sparse file is, at a place or behind it; very far away if there is none."""
    try:
        return os.lseek(stream.fileno(), place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return 1 << 62
        raise


def gaps(raw: Raw) -> Iterator[tuple[str, int, int]]:
    """Yield what lies between the partitions: its name, first byte and size."""
    at = 0
    for part in sorted(raw.parts, key=lambda part: part.start):
        if part.start > at:
            yield f"before {part.name}", at, part.start - at
        at = max(at, part.start + part.size)
    if raw.size > at:
        yield "behind the last partition", at, raw.size - at
