"""Around a build: what is up to date, how it is put in place, what is removed. Real builds are integration tests."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline import image
from pipeline.core.errors import InputError, StorageError
from pipeline.core.publish import publish as put_in_place
from pipeline.core.publish import staging as staging_place
from pipeline.image import Plan
from pipeline.image.bases import downloads
from tests.unit.projects import Project

NAME = "debian-12-amd64"


@pytest.fixture
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return Project(tmp_path_factory.mktemp("project")).plan()


def publish(build_dir: Path, name: str, manifest: object, size: int = 7) -> Path:
    """Make the directory of an image."""
    directory = build_dir / name
    directory.mkdir(parents=True)
    (directory / f"{name}.qcow2").write_bytes(bytes(size))
    (directory / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return directory


# --- up to date ------------------------------------------------------------------------------------------------------


def test_an_image_of_this_plan_is_up_to_date(tmp_path: Path, plan: Plan) -> None:
    directory = publish(tmp_path, NAME, {"key": plan.key, "image": {"size": 7}})
    found = image.up_to_date(plan, directory)
    assert found is not None
    assert (found.image, found.size, found.times) == (directory / f"{NAME}.qcow2", 7, ())


@pytest.mark.parametrize(
    "manifest",
    [
        {"key": "another", "image": {"size": 7}},
        {"key": "{key}", "image": {"size": 8}},  # cut short
        {"key": "{key}", "image": {}},
        {"key": "{key}", "image": None},
        {"image": {"size": 7}},
        [],
        None,
        7,
        "",
        "{",
        "\0",
    ],
)
def test_anything_else_is_not(tmp_path: Path, plan: Plan, manifest: Any) -> None:  # noqa: ANN401
    text = manifest if isinstance(manifest, str) else json.dumps(manifest).replace("{key}", plan.key)
    assert image.up_to_date(plan, publish(tmp_path, NAME, text)) is None


@pytest.mark.parametrize("missing", [f"{NAME}.qcow2", "manifest.json"])
def test_an_image_without_one_of_its_files_is_not(tmp_path: Path, plan: Plan, missing: str) -> None:
    directory = publish(tmp_path, NAME, {"key": plan.key, "image": {"size": 7}})
    (directory / missing).unlink()
    assert image.up_to_date(plan, directory) is None


def test_up_to_date_needs_no_privileges_and_changes_nothing(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = publish(tmp_path, NAME, {"key": plan.key, "image": {"size": 7}})
    before = {path: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]}
    assert image.build(plan, tmp_path).times == ()
    assert {path: path.stat().st_mtime_ns for path in [directory, *directory.iterdir()]} == before
    assert not (tmp_path / "cache").exists()


def test_a_build_directory_that_cannot_be_written(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "build").write_text("a file")
    with pytest.raises(StorageError, match=f"cannot write to {tmp_path / 'build'}") as caught:
        image.build(plan, tmp_path / "build")
    assert caught.value.hint


def test_a_build_waits_for_another_of_the_same_image(
    tmp_path: Path, plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, NAME, {"key": plan.key, "image": {"size": 7}})
    (tmp_path / "logs").mkdir()
    holder = (tmp_path / "logs" / f"{NAME}.lock").open("w")
    fcntl.flock(holder, fcntl.LOCK_EX)
    done: list[image.Built] = []
    waiting = threading.Thread(target=lambda: done.append(image.build(plan, tmp_path)))
    waiting.start()
    said = ""
    while "waiting for it" not in said:
        said += capfd.readouterr().err
        assert waiting.is_alive()
    assert done == []
    holder.close()
    waiting.join(30)
    assert len(done) == 1
    assert f"another build of {NAME} is running; waiting for it" in said


# --- publishing ------------------------------------------------------------------------------------------------------


def test_the_first_image_is_put_in_place(tmp_path: Path) -> None:
    staging = publish(tmp_path, ".staging", {"n": 1})
    put_in_place(staging, tmp_path / NAME)
    assert json.loads((tmp_path / NAME / "manifest.json").read_text()) == {"n": 1}
    assert not staging.exists()


def test_the_next_image_takes_its_place_at_once(tmp_path: Path) -> None:
    """Another process reads all the time, and never finds the place empty."""
    publish(tmp_path, NAME, {"n": 0})
    script = "import sys\nprint('ready', flush=True)\nwhile True: open(sys.argv[1]).close()"
    reader = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / NAME / "manifest.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for number in range(1, 100):
        staging = publish(tmp_path, f".staging{number}", {"n": number})
        put_in_place(staging, tmp_path / NAME)
        assert json.loads((tmp_path / NAME / "manifest.json").read_text()) == {"n": number}
        assert json.loads((staging / "manifest.json").read_text()) == {"n": number - 1}
    assert reader.poll() is None, reader.communicate()
    reader.kill()
    reader.communicate()


def test_what_a_killed_build_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    for name in (f".{NAME}.0123abcd", f".{NAME}.ffff0000"):
        publish(tmp_path, name, {})
    other = publish(tmp_path, ".debian-12-arm64.0123abcd", {})
    with staging_place(tmp_path, NAME) as staging:
        assert sorted(tmp_path.iterdir()) == sorted([staging, other])
    assert list(tmp_path.iterdir()) == [other]


# --- clean -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A build directory with two images, remains of two more, logs and things that are not ours."""
    for name in (NAME, "debian-12-arm64", f".{NAME}.0123abcd", ".uos-20-amd64.0123abcd"):
        publish(tmp_path, name, {}, size=100_000)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{NAME}.log").touch()
    (tmp_path / "README.md").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine").touch()
    return tmp_path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_clean_removes_images_and_what_killed_builds_left(full: Path) -> None:
    assert image.clean(full) >= 400_000
    assert names(full) == {"logs", "README.md", "notes"}
    assert (full / "notes/mine").exists()
    assert f"{NAME}.log" in names(full / "logs")


def test_clean_removes_one_image(full: Path) -> None:
    freed = image.clean(full, names=(NAME,))
    assert 200_000 <= freed < 400_000
    assert names(full) == {"debian-12-arm64", ".uos-20-amd64.0123abcd", "logs", "README.md", "notes"}


@pytest.mark.parametrize("name", ["debian-13-amd64", "notes", "logs", "..", ".", "/", f".{NAME}.0123abcd", "*"])
def test_clean_of_what_is_no_image(full: Path, name: str) -> None:
    before = names(full)
    with pytest.raises(InputError, match="there is no image") as caught:
        image.clean(full, names=(name,))
    assert "./invoke list" in caught.value.hint
    assert names(full) == before


def test_clean_of_nothing(tmp_path: Path) -> None:
    assert image.clean(tmp_path / "build") == 0
    assert image.clean(tmp_path) == 0


def test_downloaded_packages_can_be_removed(tmp_path: Path) -> None:
    packages = tmp_path / "deb"
    packages.mkdir()
    (packages / "x_1_all.deb").write_bytes(bytes(100_000))
    assert downloads.clear(packages) >= 100_000
    assert names(packages) == set()
    assert downloads.clear(tmp_path / "missing") == 0


def test_packages_that_a_build_uses_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_1_all.deb").touch()
    with downloads.in_use(tmp_path), downloads.in_use(tmp_path):
        assert downloads.clear(tmp_path) == 0
    assert names(tmp_path) == {"x_1_all.deb"}
    assert f"a build is using the packages in {tmp_path}; they stay" in capfd.readouterr().err
    downloads.clear(tmp_path)
    assert names(tmp_path) == set()
