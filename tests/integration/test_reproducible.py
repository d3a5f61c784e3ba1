"""One lock, one sha256 of the qcow2: whoever builds, wherever, and on whichever day.

What two builds differ in is in elsewhere.py. Each has a cache of its own, with nothing in it but downloaded packages.
"""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.image import compare
from pipeline.image.compare import ext4
from pipeline.image.compare.entries import moment
from tests.integration import builds, elsewhere, test_standin
from tests.integration.builds import NAME, Project
from tests.standin import distribution

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]

RPM_CELL = "uos:20-1070a"  # a small one, whose database is the harder one: Berkeley DB


@pytest.fixture
def later(scratch: Path, tmp_path: Path) -> list[str]:
    """What to put before a command that shall run on another machine, in another month."""
    if elsewhere.library() is None:
        pytest.skip("libfaketime is not installed")
    place = scratch / f"elsewhere-{tmp_path.name}"
    place.mkdir()
    words = elsewhere.wrapper(place)
    shown = subprocess.run([*words, "date", "+%F"], capture_output=True, text=True, check=True).stdout.strip()
    days = (datetime.date.fromisoformat(shown) - datetime.datetime.now(datetime.UTC).date()).days
    assert days in (40, 41)
    return words


def check_same(first: Path, second: Path) -> None:
    """Check that two directories hold one image; says where they differ if not."""
    images = [directory / f"{directory.name}.qcow2" for directory in (first, second)]
    found = compare.compare(images[0], images[1])
    assert found.is_same, compare.text(found)
    for directory in (first, second):
        builds.check_published(directory)
    names = {"packages.json", "plan.json", "sbom.cdx.json"}
    assert [name for name in sorted(names) if (first / name).read_bytes() != (second / name).read_bytes()] == []


# --- deb -------------------------------------------------------------------------------------------------------------


def test_a_user_elsewhere_builds_the_same_bytes_from_the_same_lock(
    locked: Project, users: Project, later: list[str]
) -> None:
    lock = f"osprofiles/locks/{NAME}.json"
    builds.own(users.write(lock, (locked.directory / lock).read_text()).parent)
    status, _, err = users.build("--os", "tiny", "--locked", wrapper=later)
    assert status == 0, err
    check_same(locked.published, users.published)
    assert users.in_the_way() == []
    assert "is up to date" in users.build("--os", "tiny", "--locked")[1]
    assert re.search(r"freed 0\.\d+ GB", users.invoke("clean", "--cache")[1])
    assert not list((users.cache / "node-images/base").glob("*"))


def test_nothing_in_an_image_is_newer_than_its_packages(locked: Project, tmp_path: Path) -> None:
    """Programs inside the tree have the real time, so it is looked for."""
    epoch = locked.manifest()["epoch"]
    disk = builds.unpack(locked.published / f"{NAME}.qcow2", tmp_path / "disk.raw")
    entries = ext4.read(disk.raw, disk.partition("root")[0], tmp_path).entries
    times = {value for entry in entries.values() for _, value in entry.times}
    assert max(times) == moment(epoch)
    days = {int(day) for day in re.findall(r"^\w+:[^:]*:(\d+):", disk.read("/etc/shadow"), re.MULTILINE)}
    assert max(days) == epoch // 86400


# --- rpm -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profiles() -> Path:
    """The stand-ins of the vendors' repositories."""
    return distribution.make(distribution.default_directory())


def rpm_project(directory: Path) -> Project:
    directory.mkdir()
    (directory / "cache").mkdir()
    return Project(directory / "checkout", directory / "cache")


def rpm_build(project: Project, profiles: Path, cell: str, arch: Architecture, *words: str, wrapper: list[str]) -> Path:
    """Build one of the stand-ins' images; returns its directory."""
    system, _, release = cell.partition(":")
    which = ("--os", system, "--release", release, "--arch", arch.value, "--profiles", str(profiles))
    status, _, err = project.build(*which, *words, wrapper=wrapper)
    assert status == 0, err
    return project.build_dir / test_standin.name_of(cell, arch)


def test_an_rpm_system_is_the_same_elsewhere_from_the_same_lock(
    profiles: Path, scratch: Path, later: list[str]
) -> None:
    own = scratch / "rpm-profiles"
    shutil.copytree(profiles, own)
    first, second = (rpm_project(scratch / name) for name in ("rpm-here", "rpm-elsewhere"))
    system, _, release = RPM_CELL.partition(":")
    which = ("--os", system, "--release", release, "--arch", "amd64", "--profiles", str(own))
    assert first.invoke("lock", *which)[0] == 0
    images = [
        rpm_build(project, own, RPM_CELL, Architecture.AMD64, "--locked", wrapper=wrapper)
        for project, wrapper in ((first, []), (second, later))
    ]
    check_same(images[0], images[1])


def test_an_arm64_image_is_the_same_elsewhere(profiles: Path, scratch: Path, later: list[str]) -> None:
    """The other one is the matrix's, which test_standin.py looks at and boots as well."""
    cell, arch = "kylin:V10-SP3-2403", Architecture.ARM64
    assert test_standin.run_matrix(profiles)
    second = rpm_build(rpm_project(scratch / "arm64-elsewhere"), profiles, cell, arch, wrapper=later)
    check_same(test_standin.BUILD / test_standin.name_of(cell, arch), second)
