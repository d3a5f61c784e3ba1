"""What users see of images."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
import yaml

from pipeline import image, profile
from pipeline.core.arch import Architecture
from pipeline.core.progress import StepTime
from pipeline.image.show import Row, print_rows

ROOT = Path(__file__).resolve().parents[2]


def debian() -> profile.Profile:
    return profile.find("debian", ROOT / "osprofiles")


def put_image(build_dir: Path, name: str, size: int, age: datetime.timedelta) -> None:
    directory = build_dir / name
    directory.mkdir(parents=True)
    (directory / f"{name}.qcow2").write_bytes(bytes(size))
    created = (datetime.datetime.now(datetime.UTC) - age).strftime("%Y-%m-%dT%H:%M:%SZ")
    (directory / "manifest.json").write_text(json.dumps({"created": created, "image": {"file": f"{name}.qcow2"}}))


def test_the_list_has_a_row_for_everything_that_can_be_built(tmp_path: Path) -> None:
    put_image(tmp_path, "debian-12-arm64", 1000, datetime.timedelta(hours=3))
    amd64, arm64 = image.rows([debian()], tmp_path)
    assert amd64 == Row("debian", "12 *", "amd64", None, None)
    assert (arm64.arch, arm64.size) == ("arm64", 1000)
    assert arm64.age is not None
    assert 3 * 3600 <= arm64.age < 3 * 3600 + 60


@pytest.mark.parametrize("manifest", ["", "{}", '{"created": "yesterday"}', "[]"])
def test_a_directory_that_is_no_image_counts_as_not_built(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "debian-12-amd64").mkdir()
    (tmp_path / "debian-12-amd64" / "manifest.json").write_text(manifest)
    assert image.rows([debian()], tmp_path)[0].size is None


@pytest.mark.parametrize(
    ("age", "shown"),
    [(None, "not built"), (5.0, "just now"), (60.0, "1 minute ago"), (7300.0, "2 hours ago"), (200000.0, "2 days ago")],
)
def test_ages_are_said_as_people_say_them(age: float | None, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([Row("debian", "12", "amd64", None if age is None else 2_000_000, age)])
    assert shown in capsys.readouterr().out


def test_the_outcome_names_path_size_times_and_the_next_command() -> None:
    path = Path("build/x/x.qcow2")
    times = (StepTime("base", 0, 60.0, "cached"), StepTime("inner", 1, 59.0), StepTime("disk", 0, 4.5))
    lines = image.outcome(image.Built(path.parent, path, 200_600_000, times), "./invoke verify").splitlines()
    assert lines[0] == "build/x/x.qcow2 (200.6 MB)"
    assert lines[1].split() == ["base", "60.0", "s", "cached"]
    assert lines[-2].split() == ["total", "64.5", "s"]  # a nested step is not counted twice
    assert lines[-1] == "next: ./invoke verify"


def test_an_image_that_is_up_to_date_says_so() -> None:
    path = Path("build/x/x.qcow2")
    assert "is up to date" in image.outcome(image.Built(path.parent, path, 1, ()), "next")


def test_the_plan_is_shown_whole(tmp_path: Path) -> None:
    plan = image.resolve(
        debian(), None, Architecture.ARM64, overlays=ROOT / "overlays", mirror=f"file://{tmp_path}/debian"
    )
    shown = yaml.safe_load(image.plan_text(plan))
    assert shown["key"] == plan.key
    assert {name: shown[name] for name in plan.inputs} == plan.inputs
    assert str(ROOT) not in image.plan_text(plan)
