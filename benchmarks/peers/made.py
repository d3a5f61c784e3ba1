"""What a maker made, and how a raw disk becomes the qcow2 that all are compared by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.peers.recipe import PACKED
from pipeline.core import process


@dataclass(frozen=True)
class Made:
    """An image that was made.

    Attributes:
        seconds: wall clock time until the qcow2 was there.
        image: the qcow2.
        packing: seconds of these that qemu-img took, where the maker writes raw disks only.
    """

    seconds: float
    image: Path
    packing: float = 0.0


class Maker(Protocol):
    """Something that makes images: we, or a peer."""

    @property
    def name(self) -> str:
        """How it is called."""

    def version(self) -> str:
        """Return its version."""

    def prepare(self) -> None:
        """Fill its caches."""

    def cold(self) -> Made:
        """Build with nothing cached but packages."""

    def rebuild(self, number: int) -> Made:
        """Build after an edit of a script, with everything cached that can be."""

    def filtered(self) -> Made:
        """Build once more, and leave out every path that the profile leaves out."""


def pack(seconds: float, raw: Path, target: Path) -> Made:
    """Pack a raw disk as zstd qcow2 with qemu-img.

    Args:
        seconds: how long it took to make the raw disk.
        raw: the disk.
        target: the qcow2, made anew.
    """
    packing = timed(["qemu-img", "convert", *PACKED, str(raw), str(target)])
    return Made(seconds + packing, target, packing)


def timed(words: Sequence[str]) -> float:
    """Run a program and return its wall clock time in seconds.

    Raises:
        ToolError: it failed.
    """
    started = time.monotonic()
    process.run(words, network=True)
    return time.monotonic() - started
