"""The command: measure, then write Markdown, JSON and plots."""

from __future__ import annotations

import datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.peers import plots, rounds
from benchmarks.peers.ours import NAME as OURS
from benchmarks.peers.report import PeersReport, as_json, as_markdown
from pipeline.core import progress

STEM = "peers"


def write_report(os_name: str, mirror: str | None, count: int, output: Path) -> str:
    """Measure us beside the peers and write ``peers.md``, ``peers.json`` and the plots.

    Args:
        os_name: the profile.
        mirror: package archive, or None for this machine's apt sources.
        count: how often each is measured.
        output: directory of the report.

    Returns:
        The report as Markdown.

    Raises:
        PipelineError: our own build failed, or a plot. What a peer cannot do stands in the report.
    """
    parent = machine.scratch_parent()
    described = machine.describe(parent)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    found = rounds.measured(os_name, mirror, count, parent)
    titles = [row.title for row in found.rows if row.title in rounds.PLOTTED]
    made = PeersReport(
        f"./invoke benchmark --peers -n {count}", date, described, OURS, found.versions, found.rows, found.own,
        found.floor, found.failures, plots.names(titles, STEM),
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    text = as_markdown(made)
    (output / STEM).with_suffix(".md").write_text(text)
    (output / STEM).with_suffix(".json").write_text(as_json(made))
    with progress.step("plots"):
        plots.draw((output / STEM).with_suffix(".json"), output)
    return text
