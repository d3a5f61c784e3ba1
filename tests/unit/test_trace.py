"""Traces: of steps, programs, threads and forks, of what fails or is killed, and what the terminal is told of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core import events, parallel, process, progress, trace, usage
from pipeline.core.errors import InputError, ToolError
from tests import traces

if TYPE_CHECKING:
    from pathlib import Path

BUSY = "sum(i * i for i in range(10**6)); b = bytearray(64 << 20); b[::4096] = b'x' * (64 << 8)"
Row = dict[str, Any]
Rows = list[Row]


def test_steps_and_programs_nest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.trace.json"
    with trace.recorded(path), progress.session():
        with progress.step("outer"):
            with progress.step("inner"):
                progress.remark("cached")
                process.run([sys.executable, "-c", BUSY])
            process.run(["sh", "-c", "exit 3"], check=False)
        with progress.step("next"):
            pass
    rows = traces.read(path)
    steps, programs = traces.complete(rows, "step"), traces.complete(rows, "program")
    assert list(steps) == ["outer", "inner", "next"]
    assert steps["inner"]["args"]["remark"] == "cached"
    assert steps["outer"]["args"]["cpu_programs_s"] > 0
    python = next(row["args"] for name, row in programs.items() if name.startswith("python"))
    assert python["exit_status"] == 0
    assert python["command"].endswith(BUSY)
    assert python["user_s"] > 0
    assert python["max_rss"] > 64 << 20
    assert programs["sh"]["args"]["exit_status"] == 3
    assert {row["pid"] for row in rows} == {os.getpid()}


def test_threads_have_tracks_of_their_own(tmp_path: Path) -> None:
    meet = threading.Barrier(3)

    def work(number: int) -> None:
        with progress.step(f"part {number}"):
            meet.wait()
            process.run(["true"])

    with trace.recorded(tmp_path / "trace"), progress.session(), progress.step("all"):
        parallel.each(3, range(3), work)
    steps = traces.complete(traces.read(tmp_path / "trace"), "step")
    assert len({row["tid"] for row in steps.values()}) == 4


def test_what_goes_on_beside_has_a_track_of_its_own(tmp_path: Path) -> None:
    """The two ends overlap: neither lies within the other."""
    with trace.recorded(tmp_path / "trace"), progress.session():
        with progress.step("begin"):
            one = process.piped(["cat"])
            child = one.__enter__()
        with progress.step("end"), process.background(["sleep", "60"], output=tmp_path / "log"):
            assert child.stdout is not None
            child.stdout.close()
            one.__exit__(None, None, None)
    programs = traces.complete(traces.read(tmp_path / "trace"), "program")
    assert programs["sleep"]["args"]["exit_status"] == -signal.SIGKILL
    assert len({row["tid"] for row in programs.values()}) == 2
    assert min(row["tid"] for row in programs.values()) >= trace.OWN_TRACK


@pytest.mark.parametrize("ending", ["leaves", "fails", "is killed"])
def test_a_fork_tells_as_well(tmp_path: Path, ending: str) -> None:
    with trace.recorded(tmp_path / "trace"), progress.session(), progress.step("outer"):
        child = os.fork()
        if child == 0:
            try:
                with progress.step("whole"):
                    pass
                with progress.step("last"):
                    process.run(["true"])
                    if ending == "is killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if ending == "fails":
                        raise ValueError("as told")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    rows = traces.read(tmp_path / "trace")
    steps = traces.complete(rows, "step")
    assert steps["whole"]["pid"] == steps["last"]["pid"] == child
    assert steps["outer"]["pid"] == os.getpid()
    assert "unfinished" not in steps["whole"]["args"]
    assert ("unfinished" in steps["last"]["args"]) == (ending == "is killed")
    assert steps["last"]["args"].get("error") == ("ValueError" if ending == "fails" else None)
    assert traces.complete(rows, "program")["true"]["args"]["exit_status"] == 0


def test_a_failure_is_written_and_passes(tmp_path: Path) -> None:
    with (
        pytest.raises(ToolError, match="exit status 1"),
        trace.recorded(tmp_path / "trace"),
        progress.session(),
        progress.step("outer"),
    ):
        process.run(["false"])
    rows = traces.read(tmp_path / "trace")
    assert traces.complete(rows, "step")["outer"]["args"]["error"] == "ToolError"
    assert traces.complete(rows, "program")["false"]["args"]["exit_status"] == 1


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not installed"), trace.recorded(tmp_path / "trace"):
        process.run(["no-such-program"])
    (row,) = traces.complete(traces.read(tmp_path / "trace"), "program").values()
    assert row["args"]["error"] == "DependencyError"


def test_a_trace_that_cannot_be_written_costs_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with trace.recorded(tmp_path / "file" / "trace"), progress.session(), progress.step("step"):
        pass
    assert f"no trace: {tmp_path}/file/trace: cannot be written: " in capfd.readouterr().err
    assert (tmp_path / "file").read_text() == ""


def test_a_directory_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory") as caught, trace.recorded(tmp_path):
        raise AssertionError("begun")
    assert "--profiles" in caught.value.hint


def test_an_older_trace_is_replaced_whole(tmp_path: Path) -> None:
    for _ in range(2):
        with trace.recorded(tmp_path / "trace"), progress.session(), progress.step("step"):
            pass
        assert list(traces.complete(traces.read(tmp_path / "trace"), "step")) == ["step"]
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_without_a_listener_nothing_is_told() -> None:
    told: list[events.Event] = []
    with events.told(told.append), events.span("step", "one"):
        events.moment("cache", "hit", key="k")
    with events.span("step", "two") as facts:
        facts["more"] = 1
        events.moment("cache", "hit", key="k")
    assert [(event.kind, event.name) for event in told] == [("begin", "one"), ("moment", "hit"), ("end", "one")]


def test_what_a_program_announces_is_in_the_trace(tmp_path: Path) -> None:
    with trace.recorded(tmp_path / "trace"):
        process.run(["printf", "%s\\n", "I: unpacking", "W: I: not so", "I: configuring"])
    rows = traces.read(tmp_path / "trace")
    assert [row["name"] for row in rows if row["ph"] == "i"] == ["I: unpacking", "I: configuring"]


# --- the line for the terminal


def row(
    name: str, begin: float, seconds: float, category: str = "step", track: int = 1, **facts: int
) -> dict[str, Any]:
    return {
        "ph": "X", "name": name, "cat": category, "pid": 1, "tid": track,
        "ts": begin * 1e6, "dur": seconds * 1e6, "args": facts,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], {}),
        ([row("a", 0, 5)], {"a (Python)": 5}),
        ([row("a", 0, 5), row("tar", 1, 3, "program")], {"a (Python)": 2, "tar": 3}),
        ([row("a", 0, 5), row("b", 0, 5), row("tar", 0, 5, "program")], {"a (Python)": 0, "b (Python)": 0, "tar": 5}),
        ([row("a", 0, 5), row("b", 5, 5)], {"a (Python)": 5, "b (Python)": 5}),
        ([row("a", 0, 5), row("tar", 1, 1, "program"), row("tar", 3, 1, "program")], {"a (Python)": 3, "tar": 2}),
        ([row("a", 0, 5), row("b", 1, 9, track=2)], {"a (Python)": 5, "b (Python)": 9}),
    ],
)
def test_own_times(rows: Rows, expected: dict[str, float]) -> None:
    assert trace.own_times(rows) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "nothing was done"),
        ([row("a", 0, 5)], "longest: a (Python) 5.0 s"),
        (
            [row("a", 0, 5, own_max_rss=50 * 10**6), row("tar", 1, 3, "program", max_rss=70 * 10**6)],
            "longest: tar 3.0 s, a (Python) 2.0 s; most memory of one process: tar 70 MB",
        ),
        (
            [*(row(f"p{n}", n, n / 10, "program", max_rss=n) for n in range(1, 7)),
             {"ph": "C", "name": "memory, MB", "pid": 1, "tid": 0, "ts": 0, "args": {"value": 81.2}}],
            "longest: p6 0.6 s, p5 0.5 s, p4 0.4 s, p3 0.3 s; most memory of one process: p6 0 MB, "
            "of all at once 81 MB",
        ),
    ],
)  # fmt: skip
def test_the_line_for_the_terminal(rows: Rows, expected: str) -> None:
    assert trace.summary(rows) == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/tar", "x"], "tar"),
        (["sh", "-c", "true"], "sh"),
        (["/bin/bash", "/run/scripts/10-a.sh"], "10-a.sh"),
        (["bash", "relative.sh"], "bash"),
        (["/usr/bin/setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-m"], "qemu-system-x86_64"),
        (["bwrap", "--bind", "/tree", "/", "--", "/bin/bash", "/run/s/20-b.sh"], "in the tree: 20-b.sh"),
        (["bwrap", "--", "dpkg", "--", "x"], "in the tree: dpkg"),
        (["bwrap", "--version"], "bwrap"),
    ],
)
def test_labels(argv: list[str], expected: str) -> None:
    assert usage.label(argv) == expected
