"""Numbers become a report: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.measure import median
from pipeline.core.progress import StepTime

MB = 1_000_000
NUMBER_TITLES = ("number", "median", "target", "met", "all measurements", "remark")


@dataclass(frozen=True)
class Number:
    """One number of the report.

    Attributes:
        name: what was measured.
        unit: ``s``, ``MB`` (a million bytes) or ``share``.
        samples: every measurement.
        target: what the median may be at most; None if nothing was promised.
        remark: what a reader needs to know of it.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    target: float | None = None
    remark: str = ""

    @property
    def median(self) -> float:
        """The number itself."""
        return median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether it is within its target; None without one."""
        return None if self.target is None else self.median <= self.target


@dataclass(frozen=True)
class Package:
    """One of the largest packages of an image.

    Attributes:
        name: its name.
        size: what its files take in the image, in bytes, before compression.
        reason: why it is there.
    """

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        command: what to type to measure again.
        date: when it was measured, in UTC.
        machine: what it was measured on.
        numbers: what was measured.
        steps: the steps of one build of each kind, by its title.
        packages: the largest packages, by the image's name.
    """

    command: str
    date: str
    machine: Mapping[str, str]
    numbers: tuple[Number, ...]
    steps: Mapping[str, tuple[StepTime, ...]] = field(default_factory=dict)
    packages: Mapping[str, tuple[Package, ...]] = field(default_factory=dict)


def as_json(report: Report) -> str:
    """Return a report as JSON."""
    document = asdict(report)
    for number, row in zip(report.numbers, document["numbers"], strict=True):
        row |= {"median": number.median, "met": number.met}
    return json.dumps({"schema": 1, **document}, indent=1, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [
        "# Benchmark",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test.",
        numbers_table(report.numbers),
        "## Machine",
        table(("", ""), report.machine.items()),
        "## Steps",
        *(f"### {title}\n\n{steps_table(times)}" for title, times in report.steps.items()),
        "## Largest packages",
        "Sizes are those of the files in the image, before compression; the last column is why a package is there:"
        " named by the profile, essential to every system, or the shortest chain of dependencies from one of these.",
        *(f"### {name}\n\n{_packages(found)}" for name, found in report.packages.items()),
    ]
    return "\n\n".join(parts) + "\n"


def numbers_table(numbers: Iterable[Number]) -> str:
    """Return the table of numbers, each held against its target."""
    return table(NUMBER_TITLES, map(_number, numbers), "lrrl")


def _number(number: Number) -> tuple[str, ...]:
    word = {True: "yes", False: "**no**", None: ""}[number.met]
    target = "" if number.target is None else f"≤ {show(number.target, number.unit)}"
    several = ", ".join(show(sample, number.unit) for sample in number.samples) if len(number.samples) > 1 else ""
    return number.name, show(number.median, number.unit), target, word, several, number.remark


def show(value: float, unit: str) -> str:
    """Return a value with its unit, with as many digits as mean something."""
    if unit == "share":
        return f"{value:.1%}".replace("%", " %")
    return f"{value:.2f} {unit}" if abs(value) < 10 else f"{value:.1f} {unit}"


def steps_table(times: Sequence[StepTime]) -> str:
    """Return the table of one build's steps."""
    rows = [(f"{'&emsp;' * step.depth}{step.title}", f"{step.seconds:.2f} s", step.remark) for step in times]
    total = sum(step.seconds for step in times if step.depth == 0)
    return table(("step", "time", "remark"), [*rows, ("**all steps**", f"{total:.2f} s", "")], "lrl")


def _packages(packages: Iterable[Package]) -> str:
    return table(
        ("package", "size", "needed by"), ((one.name, f"{one.size / MB:.1f} MB", one.reason) for one in packages), "lrl"
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """Return a table in Markdown.

    Args:
        titles: of the columns.
        rows: of cells.
        align: ``r`` for each column of numbers, ``l`` or nothing for others.
    """
    rule = ["---:" if align[index : index + 1] == "r" else "---" for index in range(len(titles))]
    lines = [titles, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
