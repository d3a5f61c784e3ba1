"""A farm on paper: how long many images take on many servers, and what they wait for.

    python -m benchmarks.scaling            # prints the tables
    python -m benchmarks.scaling --write    # puts them into docs/scaling.md

Times and sizes come from benchmarks/report.json; what a site's network and servers are like is assumed, and said so.
Every part of a farm is a pipe of its own: servers compute while others fetch or deliver. So a matrix takes as long as
its slowest pipe, and that one is the bottleneck.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORT, DOCUMENT = ROOT / "benchmarks/report.json", ROOT / "docs/scaling.md"
BEGIN, END = "<!-- python -m benchmarks.scaling -->", "<!-- end -->"
COLD = "cold build"
EDIT = "rebuild after an edit that the initramfs does not see"
NOTHING = "nothing changed: `./invoke build`"
CELLS = 200
SERVERS = (2, 4, 10, 20, 50, 100)


@dataclass(frozen=True)
class Site:
    """What is assumed of a site.

    Attributes:
        amd64: servers of that architecture; each like the machine of the report, with one cell at a time.
        arm64: servers of that architecture.
        mirror: bytes a second that the mirror of packages gives all servers together.
        store: bytes a second that the store of images takes from all of them together.
        packages: bytes of packages that a cell fetches if its server's cache is empty.
        order: seconds that scheduler and orderer are busy with each cell; measured, see docs/decisions.md.
    """

    amd64: int
    arm64: int
    mirror: float = 117e6
    store: float = 117e6
    packages: float = 150e6
    order: float = 0.01

    @classmethod
    def of(cls, servers: int) -> Site:
        """Return a site with so many servers, half of them of each architecture."""
        return cls(servers // 2, servers // 2)


@dataclass(frozen=True)
class Work:
    """What a cell costs.

    Attributes:
        title: what has changed.
        seconds: on a server.
        fetched: share of its packages that it fetches.
        size: bytes that it delivers.
    """

    title: str
    seconds: float
    fetched: float
    size: float


def read(report: dict[str, Any]) -> tuple[Work, ...]:
    """Return the three kinds of work that a report has measured."""
    medians = {number["name"]: float(number["median"]) for number in report["numbers"]}
    size = next(value for name, value in medians.items() if name.startswith("size of ")) * 1e6
    return (
        Work("nothing was ever built", medians[COLD], 1.0, size),
        Work("an overlay was edited", medians[EDIT], 0.0, size),
        Work("nothing has changed", medians[NOTHING], 0.0, 0.0),
    )


def pipes(work: Work, site: Site, cells: int = CELLS) -> dict[str, float]:
    """Return how long each part of a farm would be busy, in seconds.

    Args:
        work: what each cell costs.
        site: the farm.
        cells: how many, half of them of each architecture.
    """
    halves = {"amd64 servers": (math.ceil(cells / 2), site.amd64), "arm64 servers": (cells // 2, site.arm64)}
    busy = {name: math.ceil(count / servers) * work.seconds for name, (count, servers) in halves.items()}
    busy["mirror"] = cells * work.fetched * site.packages / site.mirror
    busy["store"] = cells * work.size / site.store
    busy["scheduler"] = cells * site.order
    return busy


def bottleneck(busy: dict[str, float]) -> tuple[str, float]:
    """Return what a matrix waits for, and how long it takes."""
    name = max(busy, key=busy.__getitem__)
    both = math.isclose(busy["amd64 servers"], busy["arm64 servers"])
    return ("servers" if name.endswith("servers") and both else name), busy[name]


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def table(works: Sequence[Work]) -> Iterator[str]:
    """Write how long a matrix takes on more and more servers."""
    yield "| servers | " + " | ".join(f"{work.title} | waits for" for work in works) + " |"
    yield "| ---: |" + " ---: | --- |" * len(works)
    for servers in SERVERS:
        cells = [bottleneck(pipes(work, Site.of(servers))) for work in works]
        yield f"| {servers} | " + " | ".join(f"{duration(seconds)} | {name}" for name, seconds in cells) + " |"


def variants(cold: Work) -> Iterator[str]:
    """Write what changes the bottleneck of ten servers and a cold farm."""
    ten = Site.of(10)
    rows = {
        "5 + 5 servers, 1 Gbit/s": ten,
        "8 amd64 + 2 arm64": replace(ten, amd64=8, arm64=2),
        "a mirror over 100 Mbit/s": replace(ten, mirror=11.7e6),
        "a store over 100 Mbit/s": replace(ten, store=11.7e6),
        "each server as large as four (`-j 4`)": replace(ten, amd64=20, arm64=20),
        "that, and 10 Gbit/s": replace(ten, amd64=20, arm64=20, mirror=1.17e9, store=1.17e9),
    }
    yield "| ten servers | servers busy | mirror busy | store busy | in all | waits for |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for title, site in rows.items():
        busy = pipes(cold, site)
        name, seconds = bottleneck(busy)
        parts = [max(busy["amd64 servers"], busy["arm64 servers"]), busy["mirror"], busy["store"], seconds]
        yield f"| {title} | {' | '.join(map(duration, parts))} | {name} |"


def text(report: dict[str, Any]) -> str:
    """Return both tables with the inputs."""
    works, site = read(report), Site.of(10)
    cold, edit, nothing = works
    lines = [
        f"Measured ({report['date']}, {report['machine']['cores']} cores, `benchmarks/report.json`): a cold build "
        f"{cold.seconds:.1f} s, after an edit {edit.seconds:.1f} s, nothing to do {nothing.seconds:.2f} s, an image "
        f"{cold.size / 1e6:.0f} MB. {site.order * 1000:.0f} ms of scheduler and orderer a cell (docs/decisions.md).",
        f"Assumed: every cell is like that one; each server is like that machine and builds one at a time; arm64 "
        f"servers are as fast; {site.packages / 1e6:.0f} MB of packages a cold cell; 1 Gbit/s ({site.mirror / 1e6:.0f} "
        f"MB/s) for the mirror and for the store.",
    ]
    return "\n\n".join([*lines, "\n".join(table(works)), "\n".join(variants(cold))])


def main(words: Sequence[str]) -> None:
    """Print the tables, or put them into the document."""
    made = text(json.loads(REPORT.read_text()))
    if "--write" not in words:
        print(made)
        return
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])
