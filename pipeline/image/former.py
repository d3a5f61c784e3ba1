"""The image that a build replaces: most clusters of the next one are the same, and need not be compressed again.

A frame is taken over only if it holds the very bytes of the new cluster, and only from an image that is whole and that
this very compressor wrote. So what comes out is what would have come out without it (decision D7).
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.image import qcow2, tree

L1_PLACE = struct.Struct(">36xIQ")  # in the header: entries of the L1 table, and where it is


@dataclass(frozen=True)
class Former:
    """An image that was built before.

    Attributes:
        image: the qcow2.
        frames: offset and length in bytes of compressed clusters there, by their number on the disk.
    """

    image: Path
    frames: Mapping[int, tuple[int, int]]

    def same(self, numbers: Sequence[int], clusters: Sequence[bytes]) -> Mapping[int, bytes]:
        """Return the frames of those clusters that have not changed, by their index.

        Args:
            numbers: which clusters of the disk.
            clusters: what is in each now.
        """
        import zstandard

        held = [index for index, number in enumerate(numbers) if number in self.frames]
        if not held:
            return {}
        try:
            with self.image.open("rb") as file:
                frames = [_at(file.fileno(), *self.frames[numbers[index]]) for index in held]
            contents = zstandard.ZstdDecompressor().multi_decompress_to_buffer([*frames], threads=qcow2.threads())
        except (OSError, ValueError, zstandard.ZstdError):  # somebody has taken it away or overwritten it meanwhile
            return {}
        unpacked = {index: contents[place].tobytes() for place, index in enumerate(held)}
        return {index: frame for index, frame in zip(held, frames, strict=True) if unpacked[index] == clusters[index]}


def find(directory: Path) -> Former | None:
    """Return the image of a published directory, if it is of use.

    Args:
        directory: where it is with its manifest, if it is.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        image = directory / manifest["image"]["file"]
        if manifest["provenance"]["tools"]["zstd"] != qcow2.compressor():
            return None
        if tree.file_sha256(image) != manifest["image"]["sha256"]:
            return None
        return Former(image, _frames(image))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None  # whatever is there, it is not an image of ours


def _frames(image: Path) -> dict[int, tuple[int, int]]:
    """Return where each compressed cluster lies; one ends where the next begins, so the last is left out."""
    with image.open("rb") as file:
        entries = dict(_entries(file.fileno()))
    packed = sorted((entry & (1 << qcow2.OFFSET_BITS) - 1, number) for number, entry in entries.items())
    return {number: (start, end - start) for (start, number), (end, _) in itertools.pairwise(packed)}


def _entries(file: int) -> list[tuple[int, int]]:
    """Return number and L2 entry of each compressed cluster."""
    size, place = L1_PLACE.unpack(_at(file, 0, L1_PLACE.size))
    found = []
    for index, table in enumerate(struct.unpack(f">{size}Q", _at(file, place, size * 8))):
        offset = table & ~qcow2.COPIED
        entries = struct.unpack(f">{qcow2.PER_TABLE}Q", _at(file, offset, qcow2.CLUSTER)) if offset else ()
        found += [(index * qcow2.PER_TABLE + i, entry) for i, entry in enumerate(entries) if entry & qcow2.COMPRESSED]
    return found


def _at(file: int, offset: int, length: int) -> bytes:
    return os.pread(file, length, offset)
