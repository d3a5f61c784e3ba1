"""Processes are run, timed, and their memory watched."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process
from pipeline.core.errors import ToolError

SAMPLE_SECONDS = 0.02
PROC = Path("/proc")
SHOWN_LINES = 15


@dataclass(frozen=True)
class Sample:
    """One run of a command.

    Attributes:
        seconds: wall clock time from before its start until after its end.
        peak: largest resident set that any one process of our own ever had, in bytes (see :func:`run`).
        output: what it printed on standard output and standard error.
    """

    seconds: float
    peak: int
    output: str


def run(argv: Sequence[str], *, output: Path, env: Mapping[str, str] | None = None, watch: bool = False) -> Sample:
    """Run a command to its end.

    Peak memory is the kernel's own high-water mark (``VmHWM`` in proc(5)), the same number as ``ru_maxrss`` of
    ``RUSAGE_SELF``, read again and again while the command runs. It is read of the command and of those processes
    below it that run the same program, which are its forks: the tools it starts are not counted.

    Args:
        argv: the command; it gets this process's environment.
        output: file that takes what it prints.
        env: variables added to its environment.
        watch: look at its memory, at intervals of 20 ms; without it, ``peak`` is 0.

    Raises:
        ToolError: it failed; what it printed last is in the message.
    """
    started = time.monotonic()
    peak = 0
    with process.background(argv, output=output, env={**os.environ, **(env or {})}) as child:
        while watch and child.poll() is None:
            peak = max(peak, own_peak(child.pid))
            time.sleep(SAMPLE_SECONDS)
        status = child.wait()
    seconds = time.monotonic() - started
    text = output.read_text(errors="replace")
    if status != 0:
        tail = "\n".join(f"  | {line}" for line in text.splitlines()[-SHOWN_LINES:])
        raise ToolError(f"the measured command failed: {' '.join(argv)}\n{tail}", hint="run it by hand; mend the cause")
    return Sample(seconds, peak, text)


def own_peak(pid: int) -> int:
    """Return the largest resident set so far of a process and of its forks, in bytes; 0 if it has ended."""
    program = _program(pid)
    return max((_high_water(one) for one in _below(pid) if program and _program(one) == program), default=0)


def _program(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes()
    return b""


def _below(pid: int) -> Iterator[int]:
    """Yield a process and everything below it."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _below(int(child))


def _high_water(pid: int) -> int:
    with contextlib.suppress(OSError):
        return high_water((PROC / str(pid) / "status").read_text())
    return 0


def high_water(status: str) -> int:
    """Return ``VmHWM`` of a ``/proc/<pid>/status`` in bytes; 0 if it has none, as a process that is ending."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def median(values: Sequence[float]) -> float:
    """Return the middle one of some measurements, or the mean of the middle two.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no measurement")
    return statistics.median(values)
