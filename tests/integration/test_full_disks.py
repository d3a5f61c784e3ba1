"""Disks that are full with the last bytes of a build: an image's directory, its trace, its line in the history."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, TypeVar

import pytest

from pipeline.core import namespace, progress, publish, trace
from pipeline.core.errors import StorageError
from pipeline.image import history
from tests import traces

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.root

KIB = 1024
PAGE = os.sysconf("SC_PAGE_SIZE")
T = TypeVar("T")


def on_a_disk(place: Path, size: int, work: Callable[[], T]) -> T:
    """Do something while a directory is a small disk; it is gone afterwards."""

    def inside() -> T:
        namespace.mount("tmpfs", place, kind="tmpfs", options=f"size={size}")
        return work()

    return namespace.run_private(inside)


def fill(place: Path) -> None:
    """Leave not a byte."""
    with (place / "ballast").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(bytes(PAGE))


@pytest.mark.parametrize("size", [1 * KIB, 60 * KIB])
def test_an_image_that_does_not_fit_leaves_the_old_one(tmp_path: Path, size: int) -> None:
    def work() -> tuple[str, str, list[str], str]:
        with publish.staging(tmp_path, "tiny") as staged:
            (staged / "manifest.json").write_text("old")
            publish.publish(staged, tmp_path / "tiny")
        if size < PAGE:
            fill(tmp_path)
        with pytest.raises(StorageError) as caught, publish.staging(tmp_path, "tiny") as staged:
            for name in ("manifest.json", "sbom.cdx.json"):
                (staged / name).write_bytes(bytes(size))
            publish.publish(staged, tmp_path / "tiny")
        left = sorted(path.name for path in tmp_path.iterdir() if path.name != "ballast")
        return caught.value.message, caught.value.hint, left, (tmp_path / "tiny/manifest.json").read_text()

    message, hint, left, old = on_a_disk(tmp_path, 64 * KIB, work)
    assert message.startswith("no space left while writing tiny: ")
    assert f"free on {tmp_path} (tmpfs), which holds {tmp_path}\n" in message
    assert "./invoke clean" in hint
    assert (left, old) == (["tiny"], "old")


def test_a_trace_that_does_not_fit_is_told_and_costs_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> list[str]:
        with trace.recorded(tmp_path / "logs/old.json"), progress.session(), progress.step("old"):
            pass
        fill(tmp_path)
        with trace.recorded(tmp_path / "logs/old.json"), progress.session(), progress.step("new"):
            pass
        assert list(traces.complete(traces.read(tmp_path / "logs/old.json"), "step")) == ["old"]
        return sorted(path.name for path in (tmp_path / "logs").iterdir())

    assert on_a_disk(tmp_path, 64 * KIB, work) == ["old.json"]
    assert f"no trace: {tmp_path}/logs/" in (said := capfd.readouterr().err)
    assert "cannot be written: No space left on device" in said


def test_a_history_that_does_not_fit_keeps_its_lines(tmp_path: Path) -> None:
    record = history.Record(
        schema=1, name="tiny", key="k", time=datetime.datetime.now(datetime.UTC), sha256="0" * 64, size=1, packages=1,
        seconds=1.0,
    )  # fmt: skip

    def work() -> int:
        history.note(tmp_path, record)
        fill(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            for _ in range(2 * PAGE // 100):  # the file's last page still has room
                history.note(tmp_path, record)
        found = history.read(tmp_path)
        assert found.unreadable == 0
        return len(found.records)

    assert on_a_disk(tmp_path, 64 * KIB, work) >= 1
