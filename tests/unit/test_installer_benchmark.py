"""The benchmark of the installer image reads and shows its numbers rightly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import installer
from benchmarks.report import Report
from pipeline.core.errors import DependencyError
from tests.unit import installers

SIZES = {"one": 300_000, "two": 200_000}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    for number in range(3):
        (folder / f"program{number}").write_bytes(bytes(range(256)) * (100 + number))
    return folder


def test_everything_is_measured(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "ROOT", checkout(tmp_path / "checkout"))
    (tmp_path / "place").mkdir()
    place = installer.prepare(tmp_path / "place", SIZES, programs)
    numbers = installer.measured(place, 2)
    assert [(len(number.samples), number.target) for number in numbers] == [
        (1, None), (1, None), (2, 5.0), (2, 1.0), (2, 5.0), (1, None), (2, 1.0),
    ]  # fmt: skip
    pulled = numbers[-1]
    assert all(0 < sample < 1 for sample in pulled.samples)
    text = installer.as_markdown(Report("command", "today", {"cores": "2"}, numbers))
    assert "| what a node pulls after a script has changed | 0.00 MB | ≤ 1.00 MB | yes |" in text


def checkout(root: Path) -> Path:
    """Make what is copied of a checkout, with a small installer."""
    installers.make(root)
    shutil.copytree(installer.ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(installer.ROOT / "tasks.py", root / "tasks.py")
    return root


def test_components_have_their_sizes(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    installer.prepare(tmp_path / "place", SIZES, programs)
    found = {path.name: path.stat().st_size for path in (tmp_path / "place/mirror/1.0/arm64").glob("*[!6]")}
    assert found == SIZES


def test_without_programs_there_is_nothing_to_cut_from(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "place").mkdir()
    with pytest.raises(DependencyError, match="there is no program"):
        installer.prepare(tmp_path / "place", SIZES, tmp_path / "empty")
