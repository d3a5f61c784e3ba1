"""Which packages are in which image, and in which version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.matrix.report.found import Found

ABSENT = -1


@dataclass(frozen=True)
class Comparison:
    """The packages of all images side by side.

    Attributes:
        images: names of those whose packages are known.
        rows: for each package its name, its versions, and which of them each image has (``ABSENT`` for none).
        differing: how many rows are not the same in all images.
        unknown: images whose packages are not known.
    """

    images: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]
    differing: int
    unknown: tuple[str, ...]


def compare(images: Sequence[Found]) -> Comparison:
    """Put the packages of images side by side; several of one name count as one, with several versions."""
    known = [found for found in images if found.packages is not None]
    have: dict[str, list[set[str]]] = defaultdict(lambda: [set() for _ in known])
    for index, found in enumerate(known):
        for package in found.packages or ():
            have[package.name][index].add(package.version)
    rows = tuple(_row(name, have[name]) for name in sorted(have))
    return Comparison(
        images=tuple(found.name for found in known),
        rows=rows,
        differing=sum(len(set(which)) > 1 for _, _, which in rows),
        unknown=tuple(found.name for found in images if found.packages is None and found.manifest is not None),
    )


def _row(name: str, have: Sequence[set[str]]) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    texts = [", ".join(sorted(versions)) for versions in have]
    versions = tuple(sorted(set(texts) - {""}, key=lambda text: (-texts.count(text), text)))  # the usual one first
    numbers = {text: index for index, text in enumerate(versions)}
    return name, versions, tuple(numbers.get(text, ABSENT) for text in texts)
