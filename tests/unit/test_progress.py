"""Progress: plain lines where nobody watches, a live display on a (pseudo) terminal, and the log in both."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import process, progress

REPOSITORY = Path(__file__).parents[2]
CLOCK = r"\d\d:\d\d:\d\d"


def without_clock(text: str) -> list[str]:
    lines = text.splitlines()
    assert all(re.match(CLOCK + " ", line) for line in lines)
    return [re.sub(r"in \d+\.\d s", "in T s", line.split(" ", 1)[1]) for line in lines]


# --- plain -------------------------------------------------------------------------------------------------


def test_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.session():
        progress.note("hello")
        with progress.step("outer"), progress.step("inner"):
            progress.log("only in the log")
            progress.remark("cached")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert without_clock(captured.err) == [
        "hello",
        "outer ...",
        "  inner ...",
        "  inner: done in T s (cached)",
        "outer: done in T s",
    ]


def test_a_failed_step_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.session() as session:
        with contextlib.suppress(ValueError), progress.step("risky"):
            raise ValueError
        with progress.step("next"):
            pass
    assert without_clock(capfd.readouterr().err)[1] == "risky: failed in T s"
    assert [(step.title, step.depth) for step in session.times] == [("risky", 0), ("next", 0)]


def test_a_watched_session_shows_nothing_and_tells(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told: list[progress.Moment] = []
    log = tmp_path / "log"
    with progress.watched(told.append), progress.session(log), progress.step("outer"), progress.step("inner"):
        progress.note("hello")
        progress.log("only in the log")
    assert capfd.readouterr() == ("", "")
    assert [moment.line.split(":")[0].strip() for moment in told] == [
        "outer ...",
        "inner ...",
        "hello",
        "inner",
        "outer",
    ]
    assert [moment.running for moment in told] == [("outer",), ("outer", "inner"), ("outer", "inner"), ("outer",), ()]
    assert [step.title for step in told[-1].times] == ["outer", "inner"]
    assert told[2].times[1].seconds == 0.0 < told[3].times[1].seconds
    assert "only in the log" in log.read_text()


def test_times_nest() -> None:
    with progress.session() as session:
        with progress.step("a"):
            with progress.step("b"):
                time.sleep(0.03)
            with progress.step("c"):
                pass
        with progress.step("d"):
            pass
    assert [(step.title, step.depth) for step in session.times] == [("a", 0), ("b", 1), ("c", 1), ("d", 0)]
    a, b, c, _ = session.times
    assert 0.03 <= b.seconds <= a.seconds
    assert c.seconds < b.seconds


def test_the_log_holds_everything(tmp_path: Path) -> None:
    log = tmp_path / "new" / "directory" / "log"
    with progress.session(log):
        progress.note("noted")
        with progress.step("step"):
            progress.log("logged \udcff")
            process.run(["echo", "printed by a tool"])
            progress.remark("remarked")
    assert without_clock(log.read_text(encoding="utf-8")) == [
        "noted",
        "== step",
        "logged ?",
        "$ echo 'printed by a tool'",
        "printed by a tool",
        "== step: done in T s (remarked)",
    ]
    with progress.session(log):
        pass
    assert log.read_text() == "", "each session has its log to itself"


def test_a_full_disk_does_not_stop_the_reading_of_a_tools_output() -> None:
    with progress.session(Path("/dev/full")):
        done = process.run(["sh", "-c", "yes error | head -n 50000 >&2; echo out"], capture=True)
        progress.log("x" * 100_000)
    assert done.stdout == "out\n"


def test_without_a_session(capfd: pytest.CaptureFixture[str]) -> None:
    progress.note("noted")
    progress.log("logged")
    progress.remark("remarked")
    with progress.step("step"), progress.paused():
        pass
    assert without_clock(capfd.readouterr().err) == ["noted", "step ...", "step: done in T s"]
    assert progress.current().log_path is None


def test_sessions_nest_and_end() -> None:
    with progress.session() as outer:
        with progress.session() as inner:
            assert progress.current() is inner
        assert progress.current() is outer
    assert progress.current() is not outer


# --- live --------------------------------------------------------------------------------------------------


def on_terminal(script: str) -> str:
    """Run Python code with its standard error on a pseudo terminal; returns all that was drawn."""
    parent, child = pty.openpty()
    code = f"import time\nfrom pipeline.core import process, progress\n{script}"
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, stderr=child) as running:
        os.close(child)
        drawn = b""
        while chunk := _read(parent):
            drawn += chunk
        assert running.wait() == 0, drawn.decode()
    os.close(parent)
    return drawn.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError as error:
        if error.errno != errno.EIO:  # what Linux says when the other side is gone
            raise
        return b""


def test_live_display() -> None:
    drawn = on_terminal("""
with progress.session():
    with progress.step("outer"), progress.step("inner"):
        progress.log("latest line")
        time.sleep(1.2)
        progress.note("noted")
""")
    assert "outer  0 s" in drawn
    assert "inner  1 s" in drawn, "the seconds are counted"
    assert "latest line" in drawn
    assert "noted\r\n" in drawn
    assert re.search(r"  inner: done in 1\.\d s\r$", drawn, re.MULTILINE)
    assert len(set(re.findall(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", drawn))) > 2, "the spinner turns"
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is back"


def test_what_tools_print_for_terminals_is_not_drawn() -> None:
    drawn = on_terminal(r"""
with progress.session(), progress.step("step"):
    progress.log("\x1b[31mred\x1b[0m \x1b]0;title\x07and\x1b[2J \x08\x0cplain\x1b[?25l [markup]")
    time.sleep(0.4)
""")
    assert "red and plain [markup]" in drawn
    assert "\x1b[2J" not in drawn
    assert "title\x07" not in drawn


def test_long_lines_are_cut() -> None:
    drawn = on_terminal("""
with progress.session(), progress.step("step"):
    progress.log("long" * 1000)
    time.sleep(0.4)
""")
    assert "longlong" in drawn
    assert max(len(line) for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", drawn).splitlines()) <= 80


def test_paused_leaves_the_terminal_to_a_program() -> None:
    drawn = on_terminal("""
with progress.session(), progress.step("step"):
    process.attach(["sh", "-c", "echo BEGIN >&2; sleep 0.5; echo END >&2"])
    time.sleep(0.3)
""")
    between, after = drawn.partition("BEGIN\r\n")[2].split("END\r\n")
    assert between == ""
    assert "step" in after


def test_many_short_steps_on_a_terminal() -> None:
    drawn = on_terminal("""
with progress.session() as session:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with progress.step("short"):
            pass
    with progress.step("last"):
        time.sleep(0.5)
""")
    assert "Traceback" not in drawn
    assert "last  0 s" in drawn, "the display is still drawn"


def test_without_rich_a_terminal_gets_plain_lines() -> None:
    drawn = on_terminal(
        """
import sys
sys.modules["rich"] = None
sys.modules["rich.console"] = sys.modules["rich.live"] = None
with progress.session(), progress.step("long work"), progress.paused():
    progress.note("hello")
"""
    )
    assert [re.sub(r"in \d+\.\d s", "in T s", line[9:]) for line in drawn.split("\r\n") if line] == [
        "long work ...",
        "hello",
        "long work: done in T s",
    ]
