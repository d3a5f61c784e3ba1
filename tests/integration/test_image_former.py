"""What a build takes over from the image that it replaces; the bytes are those that it would have written anyway."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.image import former, qcow2

CLUSTER, COUNT = qcow2.CLUSTER, 2 * qcow2.BATCH
NOISE = hashlib.shake_128(b"noise").digest(CLUSTER)
CHANGED, NOISY = {3, 130, 131}, 7


def text(number: int) -> bytes:
    return (f"line {number} of a text that repeats itself\n".encode() * 8000)[:CLUSTER]


def published(directory: Path) -> Path:
    """Write a disk, its image and its manifest; returns the disk."""
    directory.mkdir()
    raw = directory / "raw"
    raw.write_bytes(b"".join(NOISE if number == NOISY else text(number) for number in range(COUNT)))
    image = directory / "a.qcow2"
    qcow2.write(raw, image)
    save(directory, described(image))
    return raw


def described(image: Path) -> dict[str, Any]:
    checksum = hashlib.sha256(image.read_bytes()).hexdigest()
    return {
        "image": {"file": image.name, "sha256": checksum},
        "provenance": {"tools": {"zstd": qcow2.compressor()}},
    }


def save(directory: Path, manifest: object) -> None:
    (directory / "manifest.json").write_text(json.dumps(manifest))


def changed(raw: Path) -> Path:
    """Change some clusters of a disk."""
    with raw.open("r+b") as disk:
        for number in CHANGED:
            disk.seek(number * CLUSTER + 100)
            disk.write(b"another")
    return raw


def test_what_has_not_changed_is_taken_over_and_nothing_else(tmp_path: Path) -> None:
    raw = changed(published(tmp_path / "last"))
    last = former.find(tmp_path / "last")
    assert last is not None
    taken: set[int] = set()

    def known(numbers: Sequence[int], clusters: Sequence[bytes]) -> Mapping[int, bytes]:
        found = last.same(numbers, clusters)
        taken.update(numbers[index] for index in found)
        return found

    qcow2.write(raw, tmp_path / "quick", known)
    qcow2.write(raw, tmp_path / "slow")
    assert (tmp_path / "quick").read_bytes() == (tmp_path / "slow").read_bytes()
    assert taken == set(range(COUNT)) - CHANGED - {NOISY, COUNT - 1}  # where the last one ends is not known


def test_a_disk_that_is_the_same_gives_the_same_image(tmp_path: Path) -> None:
    raw = published(tmp_path / "last")
    last = former.find(tmp_path / "last")
    assert last is not None
    qcow2.write(raw, tmp_path / "again", last.same)
    assert (tmp_path / "again").read_bytes() == last.image.read_bytes()


def of_another_compressor(directory: Path) -> None:
    manifest = described(directory / "a.qcow2")
    manifest["provenance"]["tools"]["zstd"] = "zstandard 0.1, zstd 1.0, level 3"
    save(directory, manifest)


def changed_by_a_bit(directory: Path) -> None:
    content = bytearray((directory / "a.qcow2").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "a.qcow2").write_bytes(content)


def cut_short(directory: Path) -> None:
    image = directory / "a.qcow2"
    image.write_bytes(image.read_bytes()[: CLUSTER // 2])
    save(directory, described(image))  # whole, as far as the manifest knows


def no_image_at_all(directory: Path) -> None:
    (directory / "a.qcow2").write_bytes(b"")
    save(directory, described(directory / "a.qcow2"))


@pytest.mark.parametrize(
    "spoil",
    [
        of_another_compressor,
        changed_by_a_bit,
        cut_short,
        no_image_at_all,
        lambda directory: save(directory, {}),
        lambda directory: save(directory, []),
        lambda directory: (directory / "manifest.json").unlink(),
        lambda directory: (directory / "a.qcow2").unlink(),
    ],
    ids=["compressor", "bit", "cut", "empty", "manifest of nothing", "manifest of another kind", "no manifest", "gone"],
)
def test_what_is_of_no_use_is_left_alone(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    published(tmp_path / "last")
    spoil(tmp_path / "last")
    assert former.find(tmp_path / "last") is None


@pytest.mark.parametrize(
    "spoil", [changed_by_a_bit, cut_short, no_image_at_all, lambda place: (place / "a.qcow2").unlink()]
)
def test_what_is_spoilt_meanwhile_is_compressed_anew(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    raw = changed(published(tmp_path / "last"))
    last = former.find(tmp_path / "last")
    assert last is not None
    spoil(tmp_path / "last")
    qcow2.write(raw, tmp_path / "quick", last.same)
    qcow2.write(raw, tmp_path / "slow")
    assert (tmp_path / "quick").read_bytes() == (tmp_path / "slow").read_bytes()
