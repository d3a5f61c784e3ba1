"""Disks: where everything goes, and under which names. What the tools make of it is tested with them."""

from __future__ import annotations

import re
import uuid

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import disk
from pipeline.profile import Disk

MIB = 1024**2


def layout(size: str = "4G", esp: str = "64M", arch: Architecture = Architecture.AMD64, key: str = "k") -> disk.Layout:
    asked = Disk.model_validate({"size": size, "esp_size": esp, "ext4_features": ["extent"]})
    return disk.plan_layout(asked, arch, key)


@pytest.mark.parametrize(
    ("size", "esp", "arch", "places"),
    [
        ("4G", "64M", Architecture.AMD64, {"bios": (1, 1), "esp": (2, 64), "root": (66, 4029)}),
        ("4G", "64M", Architecture.ARM64, {"esp": (1, 64), "root": (65, 4030)}),
        ("2G", "512M", Architecture.AMD64, {"bios": (1, 1), "esp": (2, 512), "root": (514, 1533)}),
        ("292M", "33M", Architecture.AMD64, {"bios": (1, 1), "esp": (2, 33), "root": (35, 256)}),
        ("291M", "33M", Architecture.ARM64, {"esp": (1, 33), "root": (34, 256)}),
    ],
)
def test_where_partitions_are(size: str, esp: str, arch: Architecture, places: dict[str, tuple[int, int]]) -> None:
    found = layout(size, esp, arch)
    assert {part.name: (part.start // MIB, part.size // MIB) for part in found.partitions} == places
    end = 0
    for part in found.partitions:
        assert part.start % MIB == 0
        assert part.start >= end
        end = part.start + part.size
    assert end <= found.size - 34 * 512  # the backup table: a header and 32 sectors of entries
    assert found.partitions[-1].name == "root"  # so that it can grow


@pytest.mark.parametrize(
    ("size", "esp", "arch", "message"),
    [
        ("291M", "33M", Architecture.AMD64, "a disk of 291 MiB leaves no room for the root file system"),
        ("290M", "33M", Architecture.ARM64, "leaves no room for the root file system"),
        ("64M", "63M", Architecture.AMD64, "leaves no room"),
        ("4G", "4095M", Architecture.AMD64, "leaves no room"),
        ("4G", "32M", Architecture.AMD64, "an EFI system partition of 32 MiB is too small for FAT32"),
        ("4G", "1M", Architecture.ARM64, "too small for FAT32"),
    ],
)
def test_what_is_too_small(size: str, esp: str, arch: Architecture, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        layout(size, esp, arch)
    assert "in the profile" in caught.value.hint


def names(found: disk.Layout) -> list[str]:
    return [found.uuid, found.hash_seed, found.identity.root, found.identity.esp, *(p.uuid for p in found.partitions)]


def test_the_same_key_gives_the_same_names() -> None:
    assert layout() == layout()


def test_every_name_is_its_own_and_another_key_changes_all() -> None:
    assert len(set(names(layout()))) == 7
    assert set(names(layout())).isdisjoint(names(layout(key="other")))


def test_names_have_the_form_that_tools_want() -> None:
    found = layout()
    for name in names(found):
        if name != found.identity.esp:
            assert str(uuid.UUID(name)) == name
    assert re.fullmatch(r"[0-9A-F]{4}-[0-9A-F]{4}", found.identity.esp)


def test_partition_types_are_those_of_the_specification() -> None:
    """Discoverable Partitions Specification; systemd finds the root file system by them."""
    for arch, kind in (
        (Architecture.AMD64, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"),
        (Architecture.ARM64, "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"),
    ):
        assert layout(arch=arch).partition("root").type == kind
        assert layout(arch=arch).partition("esp").type == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
