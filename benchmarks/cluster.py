"""How long a node takes from the hook to Ready: first master, further master, worker, as hosts made of namespaces.

The registry is on this machine, so what is measured is the installation and not a network.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import Number, Report, numbers_table, steps_table, table
from pipeline.core import progress
from pipeline.core.progress import StepTime
from tests.cluster import site as sites
from tests.cluster.host import Host

# Seconds from the hook's start until the node is Ready and the hook has ended.
TARGETS = {"first master": 60.0, "further master": 45.0, "worker": 20.0}
TITLES = {
    sites.FIRST: "first master",
    sites.SECOND: "further master",
    sites.THIRD: "further master",
    sites.WORKER: "worker",
}
PREFLIGHT = 5.0
RECORDS = "cat /var/lib/cluster-installer/checkpoints/*/*/*/*.json"


def measured(work: Path, count: int) -> tuple[tuple[Number, ...], dict[str, tuple[StepTime, ...]]]:
    """Install a cluster so many times.

    Args:
        work: an empty directory.
        count: how often.

    Returns:
        The numbers, and the steps of each role in the last round.
    """
    seconds: dict[str, list[float]] = {title: [] for title in TARGETS}
    preflights: list[float] = []
    steps: dict[str, tuple[StepTime, ...]] = {}
    for number in range(count):
        place = work / str(number)
        place.mkdir()
        with sites.in_namespaces(place) as site:
            assert site.lan is not None
            seeds = site.render(site.spec(sites.NODES, site.lan.address))
            for node, title in TITLES.items():
                with progress.step(f"install {node.name}, a {title}"):
                    host = site.host(node, seeds)
                    seconds[title].append(sites.bootstrap(host)[1])
                steps[title] = recorded(host)
                preflights += [time.seconds for time in steps[title] if time.title == "preflight"]
    remark = "from the hook's start to Ready: pull, verify, all steps; images from a registry on this machine"
    numbers = [Number(title, "s", tuple(found), TARGETS[title], remark) for title, found in seconds.items()]
    return (*numbers, Number("preflight", "s", tuple(preflights), PREFLIGHT, "of all roles")), steps


def recorded(host: Host) -> tuple[StepTime, ...]:
    """Return the steps of a host's installation, from its own records."""
    found = [json.loads(line) for line in host.run(["sh", "-c", RECORDS]).stdout.splitlines()]
    return tuple(StepTime(one["step"], 0, one["seconds"]) for one in found)


def as_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [
        "# Benchmark of a cluster's installation",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test.",
        "Hosts are namespaces of this machine with a real containerd, kubelet 1.20.2 and etcd, see"
        " `tests/cluster/README.md`. All of them share its processors.",
        numbers_table(report.numbers),
    ]
    for title, times in report.steps.items():
        parts += [f"## Steps of a {title}", steps_table(times)]
    parts += ["## Machine", table(("", ""), report.machine.items())]
    return "\n\n".join(parts) + "\n"
