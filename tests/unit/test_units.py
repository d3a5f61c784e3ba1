"""Sizes as users write them."""

from __future__ import annotations

import pytest

from pipeline.core.errors import InputError
from pipeline.core.units import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2G", 2 * 1024**3),
        ("512M", 512 * 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("64k", 65536),
        ("7", 7),
        ("3 MB", 3 * 1024**2),
    ],
)
def test_a_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "0", "-1G", "2X", "1e9", "0.1"])
def test_no_size(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_size(text)
