"""What a comparison of two images finds, as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class How(enum.StrEnum):
    """What became of entries between A and B."""

    ADDED = "only in B"
    REMOVED = "only in A"
    CHANGED = "differ"


@dataclass(frozen=True, slots=True)
class Aspect:
    """One thing that differs.

    Attributes:
        name: ``mode``, ``owner``, ``content`` and so on.
        before: what it is in A, as a user reads it; empty if there is nothing.
        after: what it is in B.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of a file system or of an archive in it that differs.

    Attributes:
        path: from the root of the system, without a slash in front; one in the EFI system partition begins with
            ``ESP:``, one in another file system with the name of its partition.
        how: what became of it.
        aspects: what differs, for one that both have.
        diff: lines that show how the contents differ, if they can be shown.
        members: what differs inside, for an initramfs.
        group: the package that it belongs to, or its directory.
    """

    path: str
    how: How
    aspects: tuple[Aspect, ...] = ()
    diff: tuple[str, ...] = ()
    members: tuple[Change, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs; a version is empty in the image that lacks it.

    Attributes:
        name: of the package.
        before: version in A.
        after: version in B.
        note: what else differs, if the versions are the same.
        bytes: how much more space it takes in B.
    """

    name: str
    before: str
    after: str
    note: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Times:
    """Entries whose times differ; if nothing else does, they are in no other list.

    Attributes:
        kind: ``mtime``, ``ctime``, ``atime`` or ``crtime``.
        count: how many.
        example: one of them, with both times.
    """

    kind: str
    count: int
    example: Aspect


@dataclass(frozen=True, slots=True)
class Blocks:
    """How much of a part of the disk differs, byte for byte.

    Attributes:
        part: partition, or what lies between them.
        what: which use of it, such as file contents or inode tables.
        count: blocks of 4 KiB.
        first: where the first of them is, in bytes from the start of the part.
    """

    part: str
    what: str
    count: int
    first: int


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two images.

    Attributes:
        image: the qcow2.
        sha256: of it.
        size: of it, in bytes.
    """

    image: Path
    sha256: str
    size: int


@dataclass(frozen=True)
class Difference:
    """All that was found.

    Attributes:
        a: one image.
        b: the other.
        packages: packages that differ, by name.
        boot: kernel command lines and BIOS boot code.
        boot_files: files that have a part in booting.
        disk: partition table, identifiers and features of file systems, form of the qcow2.
        files: all other files, by path.
        times: entries whose times differ.
        blocks: where the disks differ, byte for byte.
        notes: what could not be looked at, and why.
    """

    a: Side
    b: Side
    packages: tuple[PackageChange, ...] = ()
    boot: tuple[Aspect, ...] = ()
    boot_files: tuple[Change, ...] = ()
    disk: tuple[Aspect, ...] = ()
    files: tuple[Change, ...] = ()
    times: tuple[Times, ...] = ()
    blocks: tuple[Blocks, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether the two files are the same bytes."""
        return self.a.sha256 == self.b.sha256
