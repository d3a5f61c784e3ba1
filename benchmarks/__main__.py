"""Measure what this project promises: a report for each part, in benchmarks/, as Markdown and as JSON.

The RPM systems are built from the stand-in repositories, which are made first if they are not there.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bundles, cluster, installer, machine, peers, report, rpm, rpm_report, scenarios
from benchmarks.report import Number, Report
from benchmarks.rpm_report import RpmReport
from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.console import command
from pipeline.core.progress import StepTime

HERE = Path(__file__).resolve().parent
COUNT, RPM_COUNT = 3, 1  # one round of the RPM systems takes as long as many of Debian


def measured(os_name: str, mirror: str | None, count: int, cold_count: int) -> Report:
    """Measure everything of a deb system; it takes some minutes.

    Args:
        os_name: the profile.
        mirror: package archive, or None for this machine's apt sources.
        count: how often each is measured.
        cold_count: how often a cold build is.
    """
    parent = machine.scratch_parent()
    described = machine.describe(parent)
    date = _now()
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
    return Report(
        f".venv/bin/python -m benchmarks --deb -n {count} --cold {cold_count}",
        date, described, (*numbers, *sizes), steps, packages,
    )  # fmt: skip


def measured_rpm(count: int) -> RpmReport:
    """Measure everything of the RPM systems; it takes half an hour and more.

    Args:
        count: how often each is measured.
    """
    profiles = rpm.stand_ins()
    parent = machine.scratch_parent()
    described = machine.describe(parent)
    date = _now()
    steps: dict[str, tuple[StepTime, ...]] = {}
    warm: list[Number] = []
    with scenarios.private(parent) as root:
        site = rpm.Site(root, profiles)
        numbers, images = rpm.whole(site, count)
        for arch in Architecture:
            for system in rpm.SYSTEMS:
                runs = rpm.warm(site, system, arch, count)
                warm.append(rpm.warm_number(runs))
                steps[runs[-1].cells[0].name] = rpm.steps(runs[-1])
    numbers = [*warm, *numbers, *rpm.size_numbers(images)]
    return RpmReport(
        f".venv/bin/python -m benchmarks --rpm -n {count}",
        date, described, tuple(numbers), steps, images=tuple(images),
    )  # fmt: skip


def measured_installer(count: int) -> Report:
    """Measure everything of the installer image; it takes some minutes.

    Args:
        count: how often each is measured.
    """
    parent = machine.scratch_parent()
    described, date = machine.describe(parent), _now()
    with tempfile.TemporaryDirectory(prefix="node-images-benchmark-", dir=parent) as name:
        numbers = installer.measured(installer.prepare(Path(name)), count)
    return Report(f".venv/bin/python -m benchmarks --installer -n {count}", date, described, numbers)


def measured_cluster(count: int) -> Report:
    """Measure the installation of a cluster; the first time, its parts are made, which takes minutes.

    Args:
        count: how often.
    """
    parent = machine.scratch_parent()
    described, date = machine.describe(parent), _now()
    with tempfile.TemporaryDirectory(prefix="node-images-benchmark-", dir=parent) as name:
        numbers, steps = cluster.measured(Path(name), count)
    return Report(f".venv/bin/python -m benchmarks --cluster -n {count}", date, described, numbers, steps)


def measured_bundles(count: int) -> Report:
    """Measure bundles; it takes some minutes.

    Args:
        count: how often.
    """
    parent = machine.scratch_parent()
    described, date = machine.describe(parent), _now()
    with tempfile.TemporaryDirectory(prefix="node-images-benchmark-", dir=parent) as name:
        numbers = bundles.measured(Path(name), count)
    return Report(f".venv/bin/python -m benchmarks --bundles -n {count}", date, described, numbers)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


@command
def main(words: Sequence[str] | None = None) -> None:
    """Measure, and write the reports.

    Args:
        words: the command line; that of this process if not given.
    """
    chosen = _parser().parse_args(words)
    logs = HERE.parent / "build/logs"
    every = not (chosen.rpm or chosen.deb or chosen.installer or chosen.cluster or chosen.bundles or chosen.peers)
    if chosen.peers:  # only if asked for: it needs root, and fetches what the peers are made of
        with progress.session(logs / "benchmark-peers.log"):
            print(peers.write_report(chosen.os, chosen.mirror, chosen.n or COUNT, chosen.output))
    if chosen.installer or every:
        with progress.session(logs / "benchmark-installer.log"):
            made = measured_installer(chosen.n or COUNT)
        _write(chosen.output / "installer", installer.as_markdown(made), report.as_json(made))
    if chosen.cluster or every:
        with progress.session(logs / "benchmark-cluster.log"):
            installed = measured_cluster(chosen.n or COUNT)
        _write(chosen.output / "cluster", cluster.as_markdown(installed), report.as_json(installed))
    if chosen.bundles or every:
        with progress.session(logs / "benchmark-bundles.log"):
            carried = measured_bundles(chosen.n or COUNT)
        _write(chosen.output / "bundles", bundles.as_markdown(carried), report.as_json(carried))
    if chosen.deb or every:
        with progress.session(logs / "benchmark.log"):
            done = measured(chosen.os, chosen.mirror, chosen.n or COUNT, chosen.cold)
        _write(chosen.output / "report", report.as_markdown(done), report.as_json(done))
    if chosen.rpm or every:
        with progress.session(logs / "benchmark-rpm.log"):
            found = measured_rpm(chosen.n or RPM_COUNT)
        _write(chosen.output / "rpm", rpm_report.as_markdown(found), report.as_json(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("-n", type=_count, help=f"how often each is measured (default: {COUNT}; RPM: {RPM_COUNT})")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--rpm", action="store_true", help="only the RPM systems")
    only.add_argument("--deb", action="store_true", help="only Debian")
    only.add_argument("--installer", action="store_true", help="only the installer image")
    only.add_argument("--cluster", action="store_true", help="only the installation of a cluster")
    only.add_argument("--bundles", action="store_true", help="only bundles")
    only.add_argument("--peers", action="store_true", help="side by side with mkosi and diskimage-builder, as root")
    parser.add_argument("--cold", type=_count, default=1, help="how often a cold build of Debian is (default: 1)")
    parser.add_argument("--os", default="debian", help="deb profile that is built (default: debian)")
    parser.add_argument("--mirror", help="package archive to use in place of this machine's apt sources")
    parser.add_argument("--output", type=Path, default=HERE, help="directory of the reports (default: benchmarks/)")
    return parser


def _write(path: Path, text: str, document: str) -> None:
    """Write one report as soon as it is there: what is measured after it may fail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(document)
    path.with_suffix(".md").write_text(text)
    print(text)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main()
