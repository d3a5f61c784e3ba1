"""How fast things go and how small they get: the numbers behind a forecast, in one place.

What depends on the machine of this project was measured there, as ``MEASURED`` says; what depends on somebody's disk
or network is the nominal rate of a common one, to be replaced by one's own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

# plain: 180 MB of four pgzip layers with parts of /usr, in memory already, 0.5 s; lean: benchmarks/bundles.md.
MEASURED = "2 cores, Debian 12, 25 November 2026"
NOMINAL_LINK = 125.0  # MB/s of 1 Gbit/s
NOMINAL_USB = 60.0  # MB/s of USB 2.0, 480 Mbit/s
PACK_PLAIN = 330.0  # MB/s, whatever the number of cores: reading, hashing and writing in a row
PACK_LEAN = 11.6  # MB/s of gzip layers and core, the proof included
# What a byte of gzip layers becomes: as in the small set of the tests' real images; if no encoder is known.
LEAN_LOW, LEAN_HIGH = 0.54, 1.0


@dataclass(frozen=True)
class Rates:
    """Rates and ratios that a forecast is made with.

    Attributes:
        fetch: MB/s from the registries at headquarters.
        pack_plain: MB/s of blobs into a plain bundle.
        pack_lean: MB/s of gzip layers into a lean bundle, for each core.
        cores: how many pack.
        usb: MB/s onto the disk that is carried.
        link: MB/s into the site's registry.
        ratio: bytes that a byte of gzip layers becomes when it is stored lean, from the best to the worst case.
    """

    fetch: float = NOMINAL_LINK
    pack_plain: float = PACK_PLAIN
    pack_lean: float = PACK_LEAN
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    usb: float = NOMINAL_USB
    link: float = NOMINAL_LINK
    ratio: tuple[float, float] = (LEAN_LOW, LEAN_HIGH)
