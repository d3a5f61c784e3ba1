"""One disk, all of it the root's, no swap."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact
    from pipeline.lab.image import Image

SECTOR = 512
MIB = 1024**2
UNUSED_TAIL = 4 * MIB  # alignment and the backup partition table
USABLE_SHARE = 0.9  # the rest is the file system's own: inodes, journal


@pytest.mark.booted
def test_root_partition_fills_the_disk(facts: dict[str, Fact], image: Image) -> None:
    sizes = {name: int(value) * SECTOR for name, value in facts["growth"].pairs().items()}
    assert sizes["disk"] > image.virtual_size, "the machine's disk must be larger than the image, or nothing is shown"
    assert sizes["disk"] - (sizes["start"] + sizes["size"]) <= UNUSED_TAIL


@pytest.mark.booted
def test_root_file_system_fills_its_partition(facts: dict[str, Fact]) -> None:
    partition = int(facts["growth"].pairs()["size"]) * SECTOR
    assert int(facts["root-bytes"].text.strip()) >= USABLE_SHARE * partition


def test_fstab_names_the_root_by_uuid(facts: dict[str, Fact]) -> None:
    entries = [line.split() for line in facts["fstab"].lines]
    roots = [words[0] for words in entries if words[1] == "/"]
    assert len(roots) == 1
    assert re.fullmatch(r"UUID=[0-9a-f-]{36}", roots[0])
    assert not [words for words in entries if words[0].startswith("/dev/")]


@pytest.mark.booted
def test_fstab_names_the_root_that_is_mounted(facts: dict[str, Fact]) -> None:
    assert f"UUID={facts['root'].text.split()[1]}" in facts["fstab"].text


@pytest.mark.booted
def test_everything_in_fstab_is_mounted(facts: dict[str, Fact]) -> None:
    wanted = {tuple(line.split()[1:3]) for line in facts["fstab"].lines}
    assert wanted <= {tuple(line.split()[:2]) for line in facts["mounts"].lines}


def test_no_swap_is_configured(facts: dict[str, Fact]) -> None:
    assert not [line for line in facts["fstab"].lines if line.split()[2] == "swap"]
    assert facts["swap-units"].lines == []


@pytest.mark.booted
def test_no_swap_is_used(facts: dict[str, Fact]) -> None:
    assert facts["swaps"].lines == []
