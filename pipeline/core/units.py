"""Sizes as users write them."""

from __future__ import annotations

import re

from pipeline.core.errors import InputError

UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(text: str) -> int:
    """Return the bytes that a text such as ``2G``, ``512M`` or ``1.5GiB`` means; units are powers of 1024.

    Raises:
        InputError: it is no size, or none above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise InputError(f"{text!r} is not a size", hint="write a number and K, M, G or T, such as 2G")
    return size
