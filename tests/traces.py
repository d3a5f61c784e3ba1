"""What every trace has to be: valid, and nested as the viewers expect."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ROUNDING = 0.01  # microseconds that sums of floating-point numbers may be off


def read(path: Path) -> list[dict[str, Any]]:
    """Read a trace and check it by the Trace Event Format; returns its events, less metadata."""
    document = json.loads(path.read_text())
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] == "ms"
    rows: list[dict[str, Any]] = document["traceEvents"]
    named = set()
    for row in rows:
        assert {"ph", "name", "pid", "tid", "args"} <= set(row), row
        assert isinstance(row["pid"], int)
        assert isinstance(row["tid"], int)
        if row["ph"] == "M":
            assert row["name"] in {"process_name", "thread_name"}
            assert isinstance(row["args"]["name"], str)
            named.add((row["pid"], row["tid"] if row["name"] == "thread_name" else None))
            continue
        assert row["ts"] >= 0
        own = {"X": {"dur", "cat"}, "i": {"s", "cat"}, "C": set()}[row["ph"]]
        assert set(row) == {"ph", "name", "pid", "tid", "args", "ts"} | own, row
        if row["ph"] == "C":
            assert list(row["args"]) == ["value"]
        if row["ph"] == "X":
            assert row["dur"] >= 0
            assert (row["pid"], row["tid"]) in named
        assert (row["pid"], None) in named
    check_nesting(rows)
    return [row for row in rows if row["ph"] != "M"]


def check_nesting(rows: list[dict[str, Any]]) -> None:
    """Check that of two events on one track either one lies in the other, or they do not touch."""
    tracks = defaultdict(list)
    for row in rows:
        if row["ph"] == "X":
            tracks[row["pid"], row["tid"]].append((row["ts"], row["ts"] + row["dur"], row["name"]))
    for spans in tracks.values():
        around: list[tuple[float, float, str]] = []
        for begin, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1][1] <= begin + ROUNDING:
                around.pop()
            assert not around or end <= around[-1][1] + ROUNDING, f"{name} outlasts {around[-1][2]}"
            around.append((begin, end, name))


def complete(rows: list[dict[str, Any]], category: str) -> dict[str, dict[str, Any]]:
    """Return complete events of a category by their names, in their order; of several the longest."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["ph"] == "X" and row["cat"] == category and row["dur"] >= found.get(row["name"], row)["dur"]:
            found[row["name"]] = row
    return found
