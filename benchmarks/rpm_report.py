"""The report on RPM systems: what that on Debian has, what the images weigh, and builds side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report import MB, Report, numbers_table, steps_table, table
from pipeline.core.progress import StepTime

DEEPEST = 1  # deeper steps are single scripts


@dataclass(frozen=True)
class Image:
    """What an image weighs.

    Attributes:
        name: its name.
        size: of the qcow2, in bytes.
        packages: how many it has; None if that is not known.
        tree: what its files take before compression, in bytes.
    """

    name: str
    size: int
    packages: int | None
    tree: int


@dataclass(frozen=True)
class RpmReport(Report):
    """Everything that was measured of RPM systems.

    Attributes:
        images: what they weigh.
    """

    images: tuple[Image, ...] = ()


def as_markdown(report: RpmReport) -> str:
    """Return a report as Markdown."""
    parts = [
        "# Benchmark of the RPM systems",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test.",
        "The packages are those of the stand-ins (`tests/standin/README.md`), read from this machine's disk; a vendor's"
        " own differ in number and size.",
        numbers_table(report.numbers),
        "## Images",
        images_table(report.images),
        "## Machine",
        table(("", ""), report.machine.items()),
        "## Where the time goes",
        "The last build of each cell with its packages cached and nothing else; shares are of all its steps.",
        compared(report.steps),
        "## Steps",
        *(f"### {title}\n\n{steps_table(times)}" for title, times in report.steps.items()),
    ]
    return "\n\n".join(parts) + "\n"


def images_table(images: Iterable[Image]) -> str:
    """Return the table of images."""
    rows = [
        (one.name, f"{one.size / MB:.1f} MB", "" if one.packages is None else str(one.packages),
         f"{one.tree / MB:.1f} MB")
        for one in images
    ]  # fmt: skip
    return table(("image", "qcow2", "packages", "tree"), rows, "lrrr")


def compared(builds: Mapping[str, Sequence[StepTime]]) -> str:
    """Return the steps of several builds side by side, with the share that each has in its build.

    Args:
        builds: the steps of each, by the build's title.
    """
    columns = [_places(times) for times in builds.values()]
    places = dict.fromkeys(place for column in columns for place in column)
    totals = [sum(step.seconds for step in times if step.depth == 0) for times in builds.values()]
    rows = [
        (f"{'&emsp;' * (len(place) - 1)}{place[-1]}",
         *(_share(column.get(place), total) for column, total in zip(columns, totals, strict=True)))
        for place in _in_order(places)
    ]  # fmt: skip
    rows.append(("**all steps**", *(f"{total:.1f} s" for total in totals)))
    return table(("step", *builds), rows, "l" + "r" * len(columns))


def _places(times: Sequence[StepTime]) -> dict[tuple[str, ...], float]:
    """Return the seconds of each step, by its title and those of the steps that it is inside of."""
    found: dict[tuple[str, ...], float] = {}
    above: tuple[str, ...] = ()
    for step in times:
        above = (*above[: step.depth], step.title)
        if step.depth <= DEEPEST:
            found[above] = found.get(above, 0.0) + step.seconds
    return found


def _in_order(places: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Put steps that only some builds have below the step that they are inside of."""
    known = list(places)
    tops = [place for place in known if len(place) == 1]
    return [place for top in tops for place in known if place[:1] == top]


def _share(seconds: float | None, total: float) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s ({seconds / total:.0%})".replace("%", " %") if total else f"{seconds:.1f} s"
