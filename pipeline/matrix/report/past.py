"""Sizes and times over earlier builds, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.image import Record
from pipeline.matrix.report.found import Found
from pipeline.matrix.report.times import CACHED

SHOWN = 40  # builds of each image, the newest
SHOWN_OF_MANY = 15  # the same where there are many images: the page is to stay small
MANY = 20  # images
ROOM = 0.15  # of a line's height that stays free above and below it


@dataclass(frozen=True)
class Dot:
    """One build on a line.

    Attributes:
        x: in percent of the width.
        y: in percent of the height, from above.
        cached: whether the base tree was there already.
    """

    x: float
    y: float
    cached: bool


@dataclass(frozen=True)
class Line:
    """A quantity over builds.

    Attributes:
        dots: one for each build.
        lowest: the smallest value.
        highest: the largest value.
        last: the newest value.
    """

    dots: tuple[Dot, ...]
    lowest: float
    highest: float
    last: float

    @property
    def points(self) -> str:
        """The line for SVG."""
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Past:
    """The builds of one image.

    Attributes:
        name: of the image.
        records: the newest builds, the oldest of them first.
        builds: how many there were in all.
        size: bytes of the qcow2.
        seconds: wall clock time.
        is_there: whether the image still is.
    """

    name: str
    records: tuple[Record, ...]
    builds: int
    size: Line
    seconds: Line
    is_there: bool


def past(images: Sequence[Found]) -> tuple[Past, ...]:
    """Return the earlier builds of every image that has any."""
    having = [found for found in images if found.records]
    shown = SHOWN if len(having) <= MANY else SHOWN_OF_MANY
    return tuple(_past(found, found.records[-shown:]) for found in having)


def _past(found: Found, records: tuple[Record, ...]) -> Past:
    return Past(
        name=found.name,
        records=records,
        builds=len(found.records),
        size=_line(records, [record.size for record in records]),
        seconds=_line(records, [record.seconds for record in records]),
        is_there=found.manifest is not None,
    )


def _line(records: Sequence[Record], values: Sequence[float]) -> Line:
    """Lay values out from left to right; the scale goes from the smallest to the largest, with some room."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    dots = []
    for index, (record, value) in enumerate(zip(records, values, strict=True)):
        x = 100 * (index + 0.5) / len(values)
        y = 50.0 if low == high else 100 * (ROOM + (1 - 2 * ROOM) * (high - value) / span)
        dots.append(Dot(round(x, 2), round(y, 2), is_cached(record)))
    return Line(tuple(dots), low, high, values[-1])


def is_cached(record: Record) -> bool:
    """Tell whether a build found its base tree in the cache: such a build is quick."""
    return any(step.title == "base" and step.remark == CACHED for step in record.steps)
