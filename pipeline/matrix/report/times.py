"""Where the time went: a bar for every image, with a part for each step."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.image import Step
from pipeline.matrix.model import Status
from pipeline.matrix.report.found import Found
from pipeline.matrix.report.sizes import HUES

CACHED = "cached"
LAST_OF_FAILED = "failed"


@dataclass(frozen=True)
class Segment:
    """A step's part of a bar.

    Attributes:
        title: the step.
        seconds: how long it took.
        width: in percent of the longest bar.
        hue: of its colour, in degrees.
        cached: whether its result was there already.
        failed: whether the build ended in it.
        detail: a sentence for whoever points at it.
    """

    title: str
    seconds: float
    width: float
    hue: int
    cached: bool
    failed: bool
    detail: str


@dataclass(frozen=True)
class Bar:
    """The times of one image.

    Attributes:
        name: of the image.
        seconds: of all steps.
        segments: its top-level steps, in order.
        built: when, if these are times of an earlier build, as nothing was built in the last matrix.
        failed: whether the build failed.
    """

    name: str
    seconds: float
    segments: tuple[Segment, ...]
    built: datetime.datetime | None
    failed: bool

    def of(self, title: str) -> Segment | None:
        """Return the step with this title."""
        return next((segment for segment in self.segments if segment.title == title), None)


@dataclass(frozen=True)
class Times:
    """All bars.

    Attributes:
        bars: in the order of the images; of those of which nothing is known there is none.
        legend: every step, with the hue of its colour.
        unknown: images of which nothing is known.
    """

    bars: tuple[Bar, ...]
    legend: tuple[tuple[str, int], ...]
    unknown: tuple[str, ...]


def times(images: Sequence[Found]) -> Times:
    """Return how long each image's steps took, when it was last built."""
    measured = {found.name: _measured(found) for found in images}
    known = {name: steps for name, (steps, _) in measured.items() if steps}
    titles = list(dict.fromkeys(step.title for steps in known.values() for step in steps if step.depth == 0))
    hues = {title: HUES[index % len(HUES)] for index, title in enumerate(titles)}
    longest = max((_total(steps) for steps in known.values()), default=0.0) or 1.0
    bars = []
    for found in images:
        if found.name in known:
            failed = found.result is not None and found.result.status is Status.FAILED
            steps, built = measured[found.name]
            segments = _segments(steps, hues, longest, failed=failed)
            bars.append(Bar(found.name, _total(steps), segments, built, failed))
    return Times(tuple(bars), tuple(hues.items()), tuple(found.name for found in images if found.name not in known))


def _measured(found: Found) -> tuple[Sequence[Step], datetime.datetime | None]:
    """Return the steps of the last matrix; if it built nothing, those of the last build and when that was."""
    if found.result is not None and found.result.steps:
        return found.result.steps, None
    if found.records:
        return found.records[-1].steps, found.records[-1].time
    return (), None


def _total(steps: Sequence[Step]) -> float:
    return sum(step.seconds for step in steps if step.depth == 0)


def _segments(steps: Sequence[Step], hues: dict[str, int], longest: float, *, failed: bool) -> tuple[Segment, ...]:
    made = []
    top = [index for index, step in enumerate(steps) if step.depth == 0]
    for index, following in zip(top, [*top[1:], len(steps)], strict=True):
        step, inner = steps[index], [inside for inside in steps[index + 1 : following] if inside.depth == 1]
        is_last = failed and following == len(steps)
        words = [step.remark] * bool(step.remark) + [f"{inside.title} {inside.seconds:.1f} s" for inside in inner]
        words = [LAST_OF_FAILED] * is_last + words
        detail = f"{step.title}: {step.seconds:.1f} s" + (f" ({', '.join(words)})" if words else "")
        width = round(100 * step.seconds / longest, 3)
        is_cached = step.remark == CACHED
        made.append(Segment(step.title, step.seconds, width, hues[step.title], is_cached, is_last, detail))
    return tuple(made)
