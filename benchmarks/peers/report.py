"""The report: Markdown for people, JSON for programs and for the plots."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from benchmarks.peers.cannot import CANNOT
from benchmarks.peers.compare import Row
from benchmarks.report import Number, numbers_table, show, table

QUOTE = "  | "  # what benchmarks.measure puts before each line that a program said
SHOWN_LINES = 10


@dataclass(frozen=True)
class PeersReport:
    """Everything that was measured.

    Attributes:
        command: what to type to measure again.
        date: when it was measured, in UTC.
        machine: what it was measured on.
        ours: our own name in the rows.
        versions: version of each maker.
        rows: what everybody did.
        own: numbers of ours alone.
        floor: seconds of single programs, by title.
        failures: what a maker could not do this time, by maker.
        plots: names of the plots' files, by title.
    """

    command: str
    date: str
    machine: Mapping[str, str]
    ours: str
    versions: Mapping[str, str]
    rows: tuple[Row, ...]
    own: tuple[Number, ...]
    floor: Mapping[str, float]
    failures: Mapping[str, str]
    plots: Mapping[str, str]


def as_json(report: PeersReport) -> str:
    """Return a report as JSON."""
    document = asdict(report)
    for row, shown in zip(report.rows, document["rows"], strict=True):
        medians = {maker: row.median(maker) for maker in report.versions}
        shown |= {"medians": medians, "ratio": row.ratio(report.ours), "met": row.met(report.ours)}
    for number, shown in zip(report.own, document["own"], strict=True):
        shown |= {"median": number.median, "met": number.met}
    return json.dumps({"schema": 1, **document}, indent=1, ensure_ascii=False) + "\n"


def as_markdown(report: PeersReport) -> str:
    """Return a report as Markdown."""
    versions = ", ".join(f"{maker} {version}" for maker, version in report.versions.items())
    parts = [
        "# Beside peers",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test. {versions}.",
        "Everybody makes the same image: Debian 12 for amd64 with the packages of `osprofiles/debian.yaml`,"
        " a disk of 4 GiB, packed as zstd qcow2, that boots and takes the lab's seed of cloud-init."
        " What is configured besides is each maker's own: ours has our overlays, the peers' the services"
        " that a node cannot be reached without. So size and boot compare whole images, not programs alone. The runs"
        " alternate. A ratio is our median by that of the better peer.",
        rows_table(report),
        *(f"![{title}]({name})" for title, name in report.plots.items()),
        "## All measurements",
        samples_table(report),
        "## Ours alone",
        numbers_table(report.own),
        "## The floor",
        "What single programs take for parts of the work, once each; a cold build is not quicker than the first of them"
        " unless it installs packages in another way.",
        table(("what", "time"), ((title, show(seconds, "s")) for title, seconds in report.floor.items()), "lr"),
        "## What a peer cannot do",
        *_cannot(report),
        "## Machine",
        table(("", ""), report.machine.items()),
    ]
    return "\n\n".join(parts) + "\n"


def rows_table(report: PeersReport) -> str:
    """Return the table of medians and ratios."""
    makers = list(report.versions)
    titles = ("", *makers, "ratio", "target", "met", "remark")
    return table(titles, (_row(row, makers, report.ours) for row in report.rows), "l" + "r" * (len(makers) + 2) + "ll")


def _row(row: Row, makers: Iterable[str], ours: str) -> tuple[str, ...]:
    medians = [row.median(maker) for maker in makers]
    ratio = row.ratio(ours)
    return (
        row.title,
        *("" if value is None else _shown(value, row.unit) for value in medians),
        "" if ratio is None else f"{ratio:.2f}",
        "" if row.target is None else f"≤ {row.target:.1f}",
        {True: "yes", False: "**no**", None: ""}[row.met(ours)],
        row.remark,
    )


def samples_table(report: PeersReport) -> str:
    """Return the table of every measurement."""
    rows = [
        (row.title, maker, ", ".join(_shown(value, row.unit) for value in values))
        for row in report.rows
        for maker, values in row.samples.items()
    ]
    return table(("", "maker", "measured"), rows)


def _shown(value: float, unit: str) -> str:
    return show(value, unit) if unit else f"{value:.0f}"


def _cannot(report: PeersReport) -> list[str]:
    parts = []
    for peer, sentences in CANNOT.items():
        lines = [f"- {sentence}" for sentence in sentences]
        if peer in report.failures:
            lines.insert(0, f"- **This time it failed**: {report.failures[peer]}")
        parts.append(f"### {peer}\n\n" + "\n".join(lines))
    return parts


def scrubbed(message: str, hidden: Iterable[str]) -> str:
    """Return why a program failed, on one line, without archives' addresses and this machine's directories.

    Args:
        message: the error's; of one that quotes what the program said, its last lines are what is returned.
        hidden: words that do not belong into a report.
    """
    said = [line.removeprefix(QUOTE) for line in message.splitlines() if line.startswith(QUOTE)]
    flat = " ".join(" ".join([line for line in said if line.strip()][-SHOWN_LINES:] or [message]).split())
    flat = re.sub(r"[a-z+]+://[^\s'\"]+", "(an address)", flat)
    for word in sorted(hidden, key=len, reverse=True):
        flat = flat.replace(word, "…")
    return flat
