"""The matrix without building: how many at a time, what is shown, the report, and cells that cannot even begin."""

from __future__ import annotations

import datetime
import io
import json
import os
import pty
import time
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import matrix, profile
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError
from pipeline.core.progress import Moment, StepTime
from pipeline.matrix import capacity, show, worker
from pipeline.matrix.model import Order, Report, Result, Status, Workshop

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def orders(build_dir: Path, *names: str) -> list[Order]:
    workshop = Workshop(profiles=ROOT / "osprofiles", overlays=ROOT / "overlays", build_dir=build_dir)
    return [Order(os=name, release="1", arch=Architecture.AMD64, workshop=workshop) for name in names]


def result(order: Order, status: Status = Status.BUILT, **more: object) -> Result:
    return Result.model_validate(order.identity | {"status": status, "seconds": 67.0} | more)


# ---------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        (None, None, 8_000_000 * 1024),
        ("max", "5", 8_000_000 * 1024),
        ("2000000", "500000", 1_500_000),
        ("100", "900", 0),
        ("a lot", "5", 8_000_000 * 1024),
    ],
)
def test_a_containers_limit_counts_as_memory(tmp_path: Path, limit: str | None, used: str, expected: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    assert capacity.free_memory(meminfo, tmp_path) == expected


def test_never_more_at_a_time_than_processors_and_never_none(tmp_path: Path) -> None:
    found = capacity.measure(tmp_path / "not/there/yet")
    assert 1 <= found.cells <= len(os.sched_getaffinity(0))
    assert found.limit


@pytest.mark.parametrize("free", [0, 1])
def test_a_full_machine_still_tries_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: free)
    assert capacity.measure(tmp_path).cells == 1


def test_a_negative_number_of_builds_is_refused(tmp_path: Path) -> None:
    workshop = Workshop(profiles=ROOT / "osprofiles", overlays=ROOT / "overlays", build_dir=tmp_path)
    with pytest.raises(InputError, match="-1 builds at a time are not possible"):
        matrix.build((), workshop, jobs=-1)


# ------------------------------------------------------------------------------------------------- cells


def nothing(_: Moment) -> None:
    pass


def test_a_cell_that_cannot_begin_is_a_failed_one_and_its_log_says_why(tmp_path: Path) -> None:
    order = orders(tmp_path, "no-such-system")[0]
    order.log.parent.mkdir(parents=True)
    order.log.write_text("an older build\n")
    os.utime(order.log, (1, 1))
    failed = worker.build_cell(order, nothing)
    assert (failed.status, failed.exit_code, failed.name) == (Status.FAILED, 2, "no-such-system-1-amd64")
    assert "unknown OS 'no-such-system'" in failed.error
    text = order.log.read_text()
    assert "older" not in text
    assert f"error: {failed.error}" in text
    assert f"hint: {failed.hint}" in text


def test_a_defect_fails_its_cell_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("that was not planned")

    monkeypatch.setattr(profile, "find", broken)
    order = orders(tmp_path, "debian")[0]
    order.log.parent.mkdir(parents=True)
    failed = worker.build_cell(order, nothing)
    assert (failed.exit_code, failed.error) == (70, "unexpected ZeroDivisionError: that was not planned")
    assert "Traceback" in capfd.readouterr().err


def test_an_order_crosses_to_another_process_as_json(tmp_path: Path) -> None:
    order = orders(tmp_path, "debian")[0]
    assert Order.model_validate_json(order.model_dump_json()) == order


# ------------------------------------------------------------------------------------------------ report


def test_the_exit_code_is_that_of_the_worst_failure(tmp_path: Path) -> None:
    one, two, three = orders(tmp_path, "a", "b", "c")
    bad = worker.failure(two, NetworkError("away"), 1.0)
    worse = worker.failure(three, PipelineError("a defect"), 1.0)
    assert Report(started=NOW, finished=NOW, cells=(result(one),)).exit_code == 0
    assert Report(started=NOW, finished=NOW, cells=(result(one), bad)).exit_code == 6
    assert Report(started=NOW, finished=NOW, cells=(worse, bad)).exit_code == 70
    assert Report(started=NOW, finished=NOW, cells=()).exit_code == 0


def test_the_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    (one,) = orders(tmp_path, "a")
    report = Report(started=NOW, finished=NOW, cells=(result(one, size=5, packages=3),))
    text = report.model_dump_json(by_alias=True)
    assert json.loads(text)["schema"] == 1
    assert Report.model_validate_json(text) == report


def test_the_summary_has_every_cell_and_every_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = orders(tmp_path, "kylin", "uos")
    failed = worker.failure(two, NetworkError("cannot be had\n  [second] line", hint="try again"), 5.0)
    failed = failed.model_copy(update={"log": "logs/uos.log"})
    built = result(one, size=250_000_000, packages=321)
    later = NOW + datetime.timedelta(seconds=90)
    matrix.print_report(Report(started=NOW, finished=later, cells=(built, failed)), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["kylin-1-amd64", "built", "250.0", "MB", "321", "1", "min", "07", "s"]
    assert lines[2].split() == ["uos-1-amd64", "failed", "-", "-", "5.0", "s"]
    tail = [line.strip() for line in lines[3:] if line.strip()]
    assert tail == [
        "uos-1-amd64: cannot be had", "[second] line", "hint: try again", f"log: {tmp_path}/logs/uos.log",
        "1 built, 1 failed in 1 min 30 s",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------- board


def moment(*running: str) -> Moment:
    return Moment("a line", running, tuple(StepTime(title, depth, 0.0) for depth, title in enumerate(running)))


def test_plain_lines_tell_begin_and_end_and_that_work_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = orders(tmp_path, "a", "b")
    board = show.Board([one, two], {})
    board.begin(one)
    board.told(one, moment("base", "unpacking"))
    board.tick()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + show.HEARTBEAT_SECONDS + 1)
    board.tick()
    board.tick()  # said once
    board.end(worker.failure(one, NetworkError("away\nand more"), 3.0))
    lines = [line.split(" ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "a-1-amd64: begins",
        "1 running, 1 waiting: a-1-amd64 (base > unpacking, 61 s)",
        "a-1-amd64: failed in 3.0 s: away",
    ]


def test_the_table_has_what_runs_first(tmp_path: Path) -> None:
    waiting, running, failed, done, skipped = orders(tmp_path, "w", "r", "f", "d", "s")
    board = show.Board([waiting, running, failed, done, skipped], {skipped.name: result(skipped, Status.SKIPPED)})
    console = Console(width=100, record=True, file=io.StringIO())
    for order in (running, failed, done):
        board.begin(order)
    board.told(running, moment("overlay", "10-script.sh"))
    board.end(worker.failure(failed, NetworkError("away"), 3.0))
    board.end(result(done, size=5_000_000))
    console.print(board.render())
    title, _, *rows = [line.split() for line in console.export_text().splitlines()]
    assert " ".join(title) == "1 running, 1 waiting, 2 done, 1 failed"
    assert [row[0][0] for row in rows] == ["r", "f", "d", "s", "w"]
    assert rows[0][1:4] == ["overlay", ">", "10-script.sh"]
    assert rows[2][1:] == ["built", "1", "min", "07", "s", "5.0", "MB"]
    assert rows[4][1:] == ["waiting"]


def test_on_a_terminal_the_table_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    (order,) = orders(tmp_path, "kylin")
    with open(follower, "w") as terminal:  # noqa: PTH123  a descriptor
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with show.Board([order], {}).shown() as board:
            board.begin(order)
            board.told(order, moment("base"))
            board.say("a line above")
            assert board._live is not None
            board._live.refresh()
            board.end(result(order))
        drawn = os.read(leader, 65536).decode()
    os.close(leader)
    assert "kylin-1-amd64" in drawn
    assert "base" in drawn
    assert "a line above" in drawn
    assert "begins" not in drawn
