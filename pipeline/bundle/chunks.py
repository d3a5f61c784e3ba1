"""Where layers are cut: by their content, so that what is alike in two layers is cut alike (FastCDC, 2020).

Recipes list only what came of it: another chunker makes other chunks, and reads old bundles all the same.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import IO, Any

from pyfastcdc import FastCDC

AVERAGE, SMALLEST, LARGEST = 16 * 1024, 4 * 1024, 64 * 1024  # bytes


def cut(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a stream; all of them in a row are the stream."""
    cutter = FastCDC(AVERAGE, min_size=SMALLEST, max_size=LARGEST)
    for chunk in cutter.cut_stream(stream):
        yield bytes(chunk.data)


def described() -> Mapping[str, Any]:
    """Return what cuts, for ``bundle.json``."""
    version = importlib.metadata.version("pyfastcdc")
    return {"name": "pyfastcdc", "version": version, "min": SMALLEST, "avg": AVERAGE, "max": LARGEST}
