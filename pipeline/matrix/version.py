"""Which version of the project this is: only servers of the same one may build for each other."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# What decides what an image is and how its order is understood; profiles and overlays travel with the order.
ROOMS = ("core", "image", "matrix", "oci", "profile")
DIGITS = 12


@functools.cache
def current(checkout: Path = CHECKOUT) -> str:
    """Return the version of a checkout: the first digits of a sha256 over the code and the pinned libraries.

    Every byte counts, so a server with an edit that was not committed is another version.

    Args:
        checkout: the project's directory.
    """
    total = hashlib.sha256()
    files = [path for room in ROOMS for path in (checkout / "pipeline" / room).rglob("*")]
    for path in sorted([*files, checkout / "requirements.txt"]):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            total.update(f"{path.relative_to(checkout)}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:DIGITS]
