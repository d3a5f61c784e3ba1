"""Measure what this project promises, and write benchmarks/report.md and report.json."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, report, scenarios
from benchmarks.report import Number, Report
from pipeline.core import progress
from pipeline.core.console import command
from pipeline.core.progress import StepTime

HERE = Path(__file__).resolve().parent


def measured(os_name: str, mirror: str | None, count: int, cold_count: int) -> Report:
    """Measure everything; it takes some minutes.

    Args:
        os_name: the profile.
        mirror: package archive, or None for this machine's apt sources.
        count: how often each is measured.
        cold_count: how often a cold build is.
    """
    parent = machine.scratch_parent()
    described = machine.describe(parent)
    numbers: list[Number] = []
    steps: dict[str, tuple[StepTime, ...]] = {}
    with scenarios.place(parent, os_name, mirror) as where:
        builds = scenarios.cold(where, cold_count)
        numbers += scenarios.cold_numbers(builds)
        steps["cold build"] = builds[-1].times
        cold_seconds = numbers[0].median
        for what in scenarios.EDITS:
            again = scenarios.rebuilds(where, count, what)
            numbers += scenarios.rebuild_numbers(again, what, cold_seconds)
            steps[f"rebuild after an edit {what}"] = again[-1].times
            builds += again
        numbers += scenarios.unchanged(os_name, mirror, count, where.root / "output")
    numbers.append(scenarios.memory_number(builds))
    sizes, packages = scenarios.sizes(os_name)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Report(
        f".venv/bin/python -m benchmarks -n {count} --cold {cold_count}",
        date, described, (*numbers, *sizes), steps, packages,
    )  # fmt: skip


@command
def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the report.

    Args:
        words: the command line; that of this process if not given.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("-n", type=_count, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--cold", type=_count, default=1, help="how often a cold build is (default: 1)")
    parser.add_argument("--os", default="debian", help="profile that is built (default: debian)")
    parser.add_argument("--mirror", help="package archive to use in place of this machine's apt sources")
    parser.add_argument("--output", type=Path, default=HERE, help="directory of the report (default: benchmarks/)")
    chosen = parser.parse_args(words)
    with progress.session(HERE.parent / "build/logs/benchmark.log"):
        done = measured(chosen.os, chosen.mirror, chosen.n, chosen.cold)
    text = report.as_markdown(done)
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "report.json").write_text(report.as_json(done))
    (chosen.output / "report.md").write_text(text)
    print(text)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main()
