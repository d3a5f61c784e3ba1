"""The history of builds: appended whole, read whatever happened to it, and never a reason for a build to fail."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from pipeline.core.progress import StepTime
from pipeline.image import history
from pipeline.image.history import Record, Step

TIMES = (
    StepTime("base", 0, 12.3456, "cached"),
    StepTime("install packages", 1, 10.0),
    StepTime("10-identity.sh", 2, 1.0),
    StepTime("disk", 0, 2.0),
)


def record(name: str = "debian-12-amd64", size: int = 200_000_000) -> Record:
    return Record(
        name=name,
        key="a" * 64,
        time=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        sha256="b" * 64,
        size=size,
        packages=2,
        seconds=14.346,
        steps=(Step(title="base", depth=0, seconds=12.346, remark="cached"), Step(title="disk", depth=0, seconds=2.0)),
    )


def image(build_dir: Path, name: str = "debian-12-amd64") -> Path:
    directory = build_dir / name
    directory.mkdir()
    details = {"size": 200_000_000, "sha256": "b" * 64}
    manifest = {"name": name, "key": "a" * 64, "created": "2026-01-02T03:04:05Z", "image": details}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "packages.json").write_text(json.dumps([{"name": "bash"}, {"name": "zlib1g"}]))
    return directory


def test_a_build_is_noted_and_read_back(tmp_path: Path) -> None:
    history.keep(tmp_path, image(tmp_path), TIMES)
    (found,) = history.read(tmp_path).records
    assert found.model_copy(update={"steps": ()}) == record().model_copy(update={"steps": ()})
    assert [(step.title, step.seconds, step.remark) for step in found.steps] == [
        ("base", 12.346, "cached"),
        ("install packages", 10.0, ""),
        ("disk", 2.0, ""),
    ], "single scripts are not kept"


def test_without_a_history_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert history.read(tmp_path) == history.History((), 0)


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path, cut: int) -> None:
    history.note(tmp_path, record("first-1-amd64"))
    history.note(tmp_path, record("killed-1-amd64"))
    path = tmp_path / history.FILE
    path.write_bytes(path.read_bytes()[:-cut])
    history.note(tmp_path, record("next-1-amd64"))
    found = history.read(tmp_path)
    names = [line.name for line in found.records]
    if cut == 1:  # nothing but the end of the line is missing
        assert (names, found.unreadable) == (["first-1-amd64", "killed-1-amd64", "next-1-amd64"], 0)
    else:
        assert (names, found.unreadable) == (["first-1-amd64", "next-1-amd64"], 1)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        record().model_dump_json(by_alias=True).replace('"schema":1', '"schema":2').encode(),
        record().model_dump_json(by_alias=True).replace('"size":200000000', '"size":-1').encode(),
        record().model_dump_json(by_alias=True).replace("14.346", "1e999").encode(),
        record().model_dump_json(by_alias=True).replace('"name"', '"nome"').encode(),
    ],
    ids=["cut off", "no text", "a list", "null", "another schema", "negative", "infinite", "another key"],
)
def test_what_is_no_build_is_counted(tmp_path: Path, line: bytes) -> None:
    history.note(tmp_path, record())
    with (tmp_path / history.FILE).open("ab") as file:
        file.write(line + b"\n\n")
    history.note(tmp_path, record())
    found = history.read(tmp_path)
    assert (found.records, found.unreadable) == ((record(), record()), 1)


def test_the_oldest_go_when_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LIMIT", 4096)
    for number in range(40):
        history.note(tmp_path, record(size=number))
        assert (tmp_path / history.FILE).stat().st_size <= history.LIMIT
    found = history.read(tmp_path)
    sizes = [line.size for line in found.records]
    assert found.unreadable == 0
    assert sizes == list(range(40))[-len(sizes) :]
    assert len(sizes) > 3


def _note_many(build_dir: Path, first: int) -> None:
    for number in range(first, first + 50):
        history.note(build_dir, record(size=number))


def test_many_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork of pytest would be warned about
    writers = [context.Process(target=_note_many, args=(tmp_path, first)) for first in (0, 100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = history.read(tmp_path)
    assert found.unreadable == 0
    assert sorted(line.size for line in found.records) == [*range(50), *range(100, 150), *range(200, 250)]


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for a full disk: it, too, takes the half of a line."""
    directory = image(tmp_path)
    history.note(tmp_path, record())
    before = (tmp_path / history.FILE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        history.keep(tmp_path, directory, TIMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert (tmp_path / history.FILE).read_bytes() == before
    assert "this build is not in the history: [Errno 27] File too large" in capsys.readouterr().err


def test_builds_of_other_machines_are_noted_once(tmp_path: Path) -> None:
    began = record().time
    others = [record().model_copy(update={"name": name}) for name in ("here-1-amd64", "there-1-arm64")]
    history.note(tmp_path, others[0])
    history.note(tmp_path, others[1].model_copy(update={"time": began - datetime.timedelta(days=1)}))
    history.keep_others(tmp_path, others, began)
    names = [line.name for line in history.read(tmp_path).records]
    assert names == ["here-1-amd64", "there-1-arm64", "there-1-arm64"], "the one of a day before is another build"


def test_a_matrix_does_not_fail_for_want_of_a_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / history.FILE).mkdir()
    history.keep_others(tmp_path, [record()], record().time)
    assert "builds of other machines are not in the history" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["a directory", "no directory for locks", "no manifest"])
def test_a_finished_build_does_not_fail(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    directory = image(tmp_path)
    if what == "a directory":
        (tmp_path / history.FILE).mkdir()
    elif what == "no directory for locks":
        (tmp_path / "logs").touch()
    else:
        (directory / "manifest.json").unlink()
    history.keep(tmp_path, directory, TIMES)
    assert "this build is not in the history" in capsys.readouterr().err
    assert sorted(os.listdir(directory))[-1] == "packages.json"
