"""A trace of one command, for the trace viewers of browsers: ui.perfetto.dev, or chrome://tracing.

It holds every step, every program, what the cache had and had not, and, of a private namespace, how much memory, time
of the processors and disk all of its processes took. The format is the "Trace Event Format" (Google, 2016), its JSON
object with complete (X), instant (i), counter (C) and metadata (M) events.

Events are collected in memory that the private worker, a fork, shares (memfd_create(2)), so that they are there
whatever becomes of it, and a full disk loses none. The file is written at the end, also of a command that fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import events, files, progress, usage
from pipeline.core.errors import InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Row = dict[str, Any]  # an event in the format's own words

INTERVAL = 0.25  # seconds between two looks at the processes
OWN_TRACK = 1 << 32  # tracks of what goes on beside its thread: higher than any thread's id
SHOWN = 4  # of the longest things, for the terminal
PROC = Path("/proc")


class Recorder:
    """Collects what happens, in this process and in those that are forked from it."""

    def __init__(self) -> None:
        self._file = os.memfd_create("trace")
        fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)
        self._begin, self._sampled = time.monotonic_ns(), os.getpid()

    def tell(self, event: events.Event) -> None:
        """Take an event; what is called at its beginning, its end, or when it happens."""
        if os.getpid() != self._sampled:
            self._sampled = os.getpid()
            if self._sampled == 1:  # of a private namespace, whose /proc shows all of its processes and no other
                threading.Thread(target=self._sample, name="trace", daemon=True).start()
        facts = {name: fact for name, fact in event.facts.items() if fact is not None}
        phase = {events.BEGIN: "B", events.END: "E"}.get(event.kind, "i")
        track = OWN_TRACK + event.number if event.is_beside else threading.get_native_id()
        row: Row = {"ph": phase, "cat": event.category, "name": event.name, "tid": track, "args": facts}
        if event.kind == events.MOMENT:
            row["s"] = "t"
        elif event.category == "step" or event.name.startswith(usage.IN_TREE):
            row["used"] = _used()
        self._put(row | {"number": event.number})

    def rows(self) -> list[Row]:
        """Return what was collected, in the order in which it happened."""
        text = os.pread(self._file, os.fstat(self._file).st_size, 0).decode()
        return sorted((json.loads(line) for line in text.splitlines()), key=lambda row: float(row["ts"]))

    def close(self) -> None:
        """Give the memory back."""
        os.close(self._file)

    def _put(self, row: Row) -> None:
        at = (time.monotonic_ns() - self._begin) / 1000
        # One write for each: with O_APPEND those of several processes do not mix.
        os.write(self._file, json.dumps({"ts": at, "pid": os.getpid(), **row}).encode() + b"\n")

    def _sample(self) -> None:
        before, then = _look(), time.monotonic()
        while True:
            time.sleep(INTERVAL)
            look, now = _look(), time.monotonic()
            rates = {
                "memory, MB": look.memory / 1e6,
                "busy processors": (look.cpu - before.cpu) / (now - then),
                "read, MB/s": (look.read - before.read) / 1e6 / (now - then),
                "written, MB/s": (look.written - before.written) / 1e6 / (now - then),
            }
            for name, value in rates.items():
                self._put({"ph": "C", "name": name, "tid": 0, "args": {"value": round(max(0.0, value), 3)}})
            before, then = look, now


@dataclass(frozen=True)
class _Look:
    """What all processes of a namespace use now (bytes), and have used since they began (seconds, bytes)."""

    memory: int
    cpu: float
    read: int
    written: int


def _look(*, with_memory: bool = True) -> _Look:
    """Look at all processes; those that ended count with the one that has waited for them (proc(5)).

    Memory that several processes share counts once (Pss).
    """
    memory, ticks, read, written = 0, 0, 0, 0
    for directory in (path for path in PROC.iterdir() if path.name.isdigit()):
        with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile, or has but its status left
            ticks += sum(map(int, (directory / "stat").read_text().rpartition(")")[2].split()[11:15]))
            io = dict(line.split(": ") for line in (directory / "io").read_text().splitlines())
            read, written = read + int(io["read_bytes"]), written + int(io["write_bytes"])
            if with_memory:
                shares = (directory / "smaps_rollup").read_text().partition("\nPss:")[2]
                memory += int(shares.split()[0]) * 1024
    return _Look(memory, ticks / os.sysconf("SC_CLK_TCK"), read, written)


def _used() -> Row:
    """Return what this process and its programs have used so far: seconds of the processors, and bytes.

    In a private namespace programs are those that it shows: bwrap leaves the one that it started to the namespace's
    first process, where nobody waits for it.
    """
    times, own = os.times(), resource.getrusage(resource.RUSAGE_SELF)
    mine, programs = times.user + times.system, times.children_user + times.children_system
    found: Row = {"own": mine, "own_max_rss": own.ru_maxrss * 1024, "programs": programs}
    if os.getpid() == 1:
        look = _look(with_memory=False)
        found |= {"programs": look.cpu - mine, "read": look.read, "written": look.written}
    return found


@contextlib.contextmanager
def recorded(target: Path) -> Iterator[None]:
    """Record what happens while the context lasts, and write it down.

    If the trace cannot be written, that is said, and no more: what was recorded is worth more than its record.

    Args:
        target: the file, replaced if it exists; its directory is made.

    Raises:
        InputError: the target is a directory.
    """
    if target.is_dir():
        hint = "name a file, or none; a directory of profiles is named with --profiles"
        raise InputError(f"{target}: a trace is a file, and this is a directory", hint=hint)
    recorder = Recorder()
    try:
        with events.told(recorder.tell):
            yield
    finally:
        found = complete(recorder.rows())
        recorder.close()
        try:
            with files.storage(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            files.write(target, _document(found).encode())
        except StorageError as error:
            progress.note(f"no trace: {error.message}")
        else:
            progress.note(f"trace: {target}, for ui.perfetto.dev or chrome://tracing; {summary(found)}")


def complete(rows: Sequence[Row]) -> list[Row]:
    """Join beginnings and ends to complete events; what never ended lasts to the end.

    Args:
        rows: what was collected, in order.

    Returns:
        Events as the format has them, in the order in which they began.
    """
    last = rows[-1]["ts"] if rows else 0.0
    begun: dict[tuple[int, int], Row] = {}
    found: list[Row] = []
    for row in map(dict, rows):
        number = row.pop("number", 0)
        if row["ph"] == "B":
            whole = row | {"ph": "X", "dur": last - row["ts"], "args": row["args"] | {"unfinished": True}}
            begun[row["pid"], number] = whole
            found.append(whole)
        elif row["ph"] == "E":
            whole = begun[row["pid"], number]
            whole |= {"dur": row["ts"] - whole["ts"], "args": _facts(whole, row)}
        else:
            found.append(row)
    for row in found:
        row.pop("used", None)
    return found


def _facts(begin: Row, end: Row) -> Row:
    """Return what is to be said of something that has ended, with what was used meanwhile."""
    facts: Row = end["args"]
    before, after = begin.get("used"), end.get("used")
    if before is None or after is None:
        return facts
    grown = {name: max(0, round(after[name] - before[name], 2)) for name in after if name != "own_max_rss"}
    own, programs = grown.pop("own"), grown.pop("programs")
    if begin["cat"] == "step":
        return facts | {"cpu_own_s": own, "cpu_programs_s": programs, "own_max_rss": after["own_max_rss"]} | grown
    # What wait4(2) told is of bwrap alone.
    return {name: fact for name, fact in facts.items() if name not in usage.TOLD} | {"cpu_s": programs} | grown


def _document(rows: list[Row]) -> str:
    """Return the file: the events, and names for their tracks."""
    names: list[Row] = []
    for pid in sorted({row["pid"] for row in rows}):
        name = "private worker" if pid == 1 else "invoke"
        names.append({"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}})
    for pid, track in sorted({(row["pid"], row["tid"]) for row in rows if row["ph"] == "X"}):
        own = next(row["name"] for row in rows if row["ph"] == "X" and (row["pid"], row["tid"]) == (pid, track))
        name = own if track >= OWN_TRACK else "steps" if track == pid else f"thread {track}"
        names.append({"ph": "M", "pid": pid, "tid": track, "name": "thread_name", "args": {"name": name}})
    whole = {"traceEvents": names + rows, "displayTimeUnit": "ms", "otherData": {"units": "seconds and bytes"}}
    return json.dumps(whole, indent=None, separators=(",", ":")).replace('},{"', '},\n{"') + "\n"


def own_times(rows: Sequence[Row]) -> dict[str, float]:
    """Return the seconds of each thing by its name, without those of what was inside of it.

    A step's own time is that of our Python code, so its name says so.
    """
    found: Counter[str] = Counter()
    tracks: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in sorted((row for row in rows if row["ph"] == "X"), key=lambda row: (row["ts"], -row["dur"])):
        around = tracks[row["pid"], row["tid"]]
        while around and around[-1]["ts"] + around[-1]["dur"] <= row["ts"]:
            around.pop()
        if around:
            found[_word(around[-1])] -= row["dur"] / 1e6
        around.append(row)
        found[_word(row)] += row["dur"] / 1e6
    return dict(found)


def _word(row: Row) -> str:
    name: str = row["name"]
    return name if row["cat"] == "program" else f"{name} (Python)"


def summary(rows: Sequence[Row]) -> str:
    """Return one line for the terminal: what took longest, and the most memory."""
    times = sorted(own_times(rows).items(), key=lambda pair: -pair[1])
    if not times:
        return "nothing was done"
    text = "longest: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times[:SHOWN])
    sizes = [(row["args"]["max_rss"], row["name"]) for row in rows if "max_rss" in row["args"]]
    sizes += [(row["args"]["own_max_rss"], "Python") for row in rows if "own_max_rss" in row["args"]]
    if sizes:
        size, name = max(sizes)
        text += f"; most memory of one process: {name} {size / 1e6:.0f} MB"
    together = [row["args"]["value"] for row in rows if row["name"] == "memory, MB"]
    return text + (f", of all at once {max(together):.0f} MB" if together else "")
