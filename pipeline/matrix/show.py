"""What users see of a matrix: a live table on a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import image
from pipeline.core import progress
from pipeline.core.progress import Moment
from pipeline.matrix.model import Order, Report, Result, Status
from pipeline.profile import Cell

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

MB = 1_000_000
HEARTBEAT_SECONDS = 60  # without a terminal, so often is said what goes on
COLOURS = {Status.BUILT: "green", Status.UP_TO_DATE: "green", Status.FAILED: "bold red", Status.SKIPPED: "dim"}
RUNNING, FAILED, DONE, WAITING = range(4)  # the order of the live table: what does not fit is cut off at its end


@dataclass
class _Row:
    """A line of the live table; of a cell that waits, nothing but the name."""

    name: str
    began: float | None = None
    state: str = "waiting"
    result: Result | None = None
    server: str = ""

    @property
    def rank(self) -> int:
        if self.result is None:
            return WAITING if self.began is None else RUNNING
        return FAILED if self.result.status is Status.FAILED else DONE

    @property
    def seconds(self) -> float | None:
        if self.result is not None:
            return self.result.seconds
        return None if self.began is None else time.monotonic() - self.began


class Board:
    """The state of every cell, drawn where there is a terminal and said in lines where there is none.

    Args:
        orders: all cells, in the order in which they are shown.
        results: those of cells that are not built.
    """

    def __init__(self, orders: Sequence[Order], results: Mapping[str, Result]) -> None:
        self._rows = {order.name: _Row(order.name, result=results.get(order.name)) for order in orders}
        self._live: Live | None = None
        self._said = time.monotonic()

    @contextlib.contextmanager
    def shown(self) -> Iterator[Board]:
        """Draw the table while the context lasts, if there is a terminal."""
        if not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True) as self._live:
            yield self

    def say(self, line: str) -> None:
        """Show a line, above the table if there is one."""
        self._said = time.monotonic()
        if self._live is None:
            progress.note(line)
            return
        from rich.text import Text

        self._live.console.print(Text(line))

    def begin(self, order: Order, server: str = "") -> None:
        """A cell was started, on a build server if one is named; perhaps not for the first time."""
        row = self._rows[order.name]
        row.began, row.server = time.monotonic(), server
        row.state = "begins"
        if self._live is None:
            self.say(f"{order.name}: begins" + (f" on {server}" if server else ""))

    def lose(self, order: Order, why: str) -> None:
        """A cell that was begun waits again."""
        row = self._rows[order.name]
        row.began, row.state, row.server = None, "waiting", ""
        self.say(f"{order.name}: {why}")

    def told(self, order: Order, moment: Moment) -> None:
        """A cell tells where it is."""
        self._rows[order.name].state = " > ".join(moment.running) or moment.line.strip()

    def end(self, result: Result) -> None:
        """A cell has ended."""
        self._rows[result.name].result = result
        if self._live is None:
            self.say(f"{result.name}: {_ending(result)}")

    def tick(self) -> None:
        """Where nothing is drawn, say now and then that work goes on."""
        if self._live is not None or time.monotonic() - self._said < HEARTBEAT_SECONDS:
            return
        running = [row for row in self._rows.values() if row.rank == RUNNING]
        self.say(f"{self._counts()}: " + ", ".join(f"{row.name} ({row.state}, {row.seconds:.0f} s)" for row in running))

    def render(self) -> Table:
        """Draw the table."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, title=self._counts(), title_justify="left")
        there_are_servers = any(row.server for row in self._rows.values())
        for title in ("CELL", *(["SERVER"] if there_are_servers else []), "STATE", "ELAPSED", "SIZE"):
            table.add_column(title, justify="right" if title in ("ELAPSED", "SIZE") else "left", no_wrap=True)
        for row in sorted(self._rows.values(), key=lambda row: row.rank):
            result, seconds = row.result, row.seconds
            state = Text(row.state) if result is None else Text(result.status, style=COLOURS[result.status])
            size = _size(result.size) if result else ""
            server = [row.server] if there_are_servers else []
            table.add_row(row.name, *server, state, "" if seconds is None else _duration(seconds), size)
        return table

    def _counts(self) -> str:
        ranks = Counter(row.rank for row in self._rows.values())
        words = {RUNNING: "running", WAITING: "waiting", DONE: "done", FAILED: "failed"}
        return ", ".join(f"{ranks[rank]} {word}" for rank, word in words.items() if ranks[rank])


def print_selection(cells: Sequence[Cell], build_dir: Path, *, only_missing: bool) -> None:
    """Print which cells would be built, and which of them have an image."""
    for cell in cells:
        there = image.published(build_dir / cell.name) is not None
        if not (there and only_missing):
            _print(f"{cell.name:<40} {'has an image' if there else 'not built'}")


def print_report(report: Report, build_dir: Path) -> None:
    """Print the summary: one line for each cell, then every failure with its cause, hint and log."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    there_are_servers = any(cell.server for cell in report.cells)
    for title in ("CELL", *(["SERVER"] if there_are_servers else []), "STATUS", "SIZE", "PACKAGES", "TIME"):
        table.add_column(title, justify="left" if title in ("CELL", "SERVER", "STATUS") else "right", no_wrap=True)
    for cell in report.cells:
        packages = "-" if cell.packages is None else str(cell.packages)
        status = Text(cell.status, style=COLOURS[cell.status])
        server = [cell.server] if there_are_servers else []
        table.add_row(cell.name, *server, status, _size(cell.size), packages, _duration(cell.seconds))
    Console().print(table)
    for cell in report.failed:
        lines = cell.error.splitlines() or [""]
        _print(f"\n{cell.name}: {lines[0]}")
        for line in lines[1:]:
            _print(f"  {line}")
        for name, text in (("hint", cell.hint), ("log", str(build_dir / cell.log) if cell.log else "")):
            if text:
                _print(f"  {name}: {text}")
    counts = Counter(cell.status for cell in report.cells)
    summary = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    _print(f"\n{summary} in {_duration((report.finished - report.started).total_seconds())}")


def _print(line: str) -> None:
    from rich.console import Console

    Console().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _ending(result: Result) -> str:
    if result.status is Status.FAILED:
        return f"failed in {_duration(result.seconds)}: {result.error.partition(chr(10))[0]}"
    return f"{result.status} in {_duration(result.seconds)}, {_size(result.size)}"


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / MB:.1f} MB"


def _duration(seconds: float) -> str:
    """Return seconds as people say them: ``9.5 s``, ``3 min 07 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s"
