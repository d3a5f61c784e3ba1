"""The four target systems, for both architectures, against stand-ins of their repositories: built, looked at, booted.

The stand-ins are real RPM distributions, cut from Debian's packages (tests/standin). Making them and the eight images
is the longest part of the tests, so everything here works on the images that one matrix has built.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import image, lab, profile
from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.lab import Firmware
from pipeline.profile import Release, RpmBase
from pipeline.quality import ROOT
from tests.emulated import is_left_out, leave_out
from tests.integration import test_rpm_base as trees
from tests.integration.builds import unpack
from tests.standin import distribution, media

BUILD = ROOT / "build"
LARGEST_MB = 300
CELLS = [(cell, arch) for cell in distribution.CELLS for arch in Architecture]

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.network]


def invoke(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the front door; what it says goes on to pytest's output, so that a failure shows all of it."""
    argv = [ROOT / "invoke", *words]
    completed = subprocess.run(argv, capture_output=True, text=True, check=False)
    sys.stdout.write(completed.stdout + completed.stderr)
    return completed


@dataclass(frozen=True)
class Built:
    """What the matrix has built.

    Attributes:
        profiles: the stand-ins' profiles.
        cells: the rows of its result, by name.
    """

    profiles: Path
    cells: dict[str, dict[str, Any]]

    def manifest(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((BUILD / name / "manifest.json").read_text())
        return found


def name_of(cell: str, arch: Architecture) -> str:
    return f"{cell.replace(':', '-')}-{arch}"


def run_matrix(profiles: Path) -> dict[str, dict[str, Any]]:
    assert invoke("matrix", "--os", "all", "--arch", "all", "--profiles", profiles).returncode == 0
    result = json.loads((BUILD / "matrix.json").read_text())
    return {row["name"]: row for row in result["cells"]}


@pytest.fixture(scope="module")
def built() -> Built:
    profiles = distribution.make(distribution.default_directory())
    return Built(profiles, run_matrix(profiles))


def test_doctor_finds_everything_in_place(built: Built) -> None:
    seen = invoke("doctor", "--os", "kylin", "--arch", "all", "--profiles", built.profiles)
    assert seen.returncode == 0
    assert "pinned and found" in seen.stdout


def test_the_matrix_builds_every_cell(built: Built) -> None:
    assert set(built.cells) == {name_of(cell, arch) for cell, arch in CELLS}
    assert {row["status"] for row in built.cells.values()} <= {"built", "up to date"}


def test_a_second_matrix_has_nothing_to_do(built: Built) -> None:
    again = run_matrix(built.profiles)
    assert {row["status"] for row in again.values()} == {"up to date"}


@pytest.mark.parametrize(("cell", "arch"), CELLS, ids=[name_of(*pair) for pair in CELLS])
def test_a_cell_is_small_and_its_database_is_its_own_rpms(built: Built, cell: str, arch: Architecture) -> None:
    name = name_of(cell, arch)
    manifest = built.manifest(name)
    assert manifest["image"]["size"] <= LARGEST_MB * 10**6
    packages = json.loads((BUILD / name / "packages.json").read_text())
    assert {"rpm", "systemd", "chrony"} <= {row["name"] for row in packages}
    assert all(len(row["sha256"]) == 64 for row in packages)
    assert manifest["provenance"]["probe"]["backend"] == distribution.CELLS[cell]


@pytest.mark.parametrize(("cell", "arch"), CELLS, ids=[name_of(*pair) for pair in CELLS])
def test_a_cell_passes_offline(built: Built, cell: str, arch: Architecture) -> None:
    words = ("--os", cell.partition(":")[0], "--arch", arch, "--profiles", built.profiles)
    assert invoke("verify", "--offline", *words).returncode == 0


def test_other_releases_of_the_systems_build_too(scratch: Path) -> None:
    """EL7, EL8 and the next generation: what their profiles name is there, and comes together."""
    profiles = distribution.make(
        distribution.default_directory(), tuple(distribution.MORE_CELLS), (Architecture.AMD64,)
    )
    for cell, era in distribution.MORE_CELLS.items():
        system, _, release = cell.partition(":")
        described = profile.find(system, profiles)
        plan = image.resolve(described, release, Architecture.AMD64, overlays=ROOT / "overlays")
        directory = image.build(plan, scratch / "more").directory
        lab.verify(directory, offline=True)
        assert json.loads((directory / "manifest.json").read_text())["provenance"]["probe"]["backend"] == era


@pytest.mark.parametrize("arch", Architecture)
def test_a_berkeley_database_is_the_same_at_another_time(built: Built, scratch: Path, arch: Architecture) -> None:
    """Its rpm writes the clock's time, and Berkeley DB what memory held; nothing of that may be in a tree."""
    cell, place = "uos:20-1070a", scratch / f"berkeley-{arch}"
    described, mirror = (
        release_of(built, cell).base,
        distribution.repositories(distribution.default_directory(), cell, arch),
    )
    assert isinstance(described, RpmBase)
    place.mkdir()
    first = trees.make(place, described, mirror, ("rpm", "bash"), arch=arch)
    time.sleep(1.1)  # rpm notes the second of an installation
    again = trees.make(place, described, mirror, ("rpm", "bash"), "again", arch)
    assert trees.digest(again) == trees.digest(first)

    def asked() -> str:
        root = first / "tree"
        namespace.in_tree(root, ["rpmdb", "--verifydb"])
        words = ["/bin/sh", "-c", "rpm -qa --qf '%{INSTALLTIME} %{INSTALLTID}\\n' | sort -u"]
        return namespace.in_tree(root, words, capture=True).stdout

    with progress.session(place / "asked.log"):
        epoch = json.loads((first / "origin.json").read_text())["epoch"]
        assert namespace.run_private(asked) == f"{epoch} {epoch}\n"


@pytest.mark.vm
def test_the_commands_of_el7_start_its_kernel_under_uefi(scratch: Path, request: pytest.FixtureRequest) -> None:
    """GRUB of EL7 has "linuxefi" instead of "linux" there."""
    leave_out(request, Architecture.AMD64, "other RPM systems boot")
    directory = scratch / "more/centos-7-amd64"
    if not directory.exists():
        pytest.skip("it was not built")
    result = lab.verify(directory, firmware=Firmware.UEFI, update=False)
    assert [(run.kind, run.failed) for run in result.runs] == [("uefi", ())]


def test_no_trace_of_the_vendors_traps_is_left(built: Built, scratch: Path) -> None:
    """What the overlays of Kylin and UOS are there for; the stand-ins have these traps."""
    assert {"kylin-V10-SP3-2403-amd64", "uos-20-1070a-amd64"} <= set(built.cells)
    kylin = unpack(BUILD / "kylin-V10-SP3-2403-amd64/kylin-V10-SP3-2403-amd64.qcow2", scratch / "kylin.raw")
    settings = [line for line in kylin.read("/etc/sysctl.conf").splitlines() if not line.startswith("#")]
    assert not [line for line in settings if "ip_forward" in line]
    assert "vm.swappiness = 30" in settings  # the rest of it stays
    kylin.raw.unlink()
    uos = unpack(BUILD / "uos-20-1070a-amd64/uos-20-1070a-amd64.qcow2", scratch / "uos.raw")
    assert "a-secret" not in uos.read("/etc/yum/vars/auth_p")
    assert uos.read("/etc/yum/vars/StateMode").strip() == "ufu"
    uos.raw.unlink()


@pytest.mark.vm
@pytest.mark.parametrize(
    ("cell", "firmware"),
    [
        ("kylin:V10-SP3-2403", Firmware.UEFI),
        ("centos:9", Firmware.UEFI),
        ("anolis:23", Firmware.BIOS),
        ("uos:20-1070a", Firmware.BIOS),
    ],
    ids=str,
)
def test_an_amd64_cell_boots_and_passes(
    built: Built, cell: str, firmware: Firmware, request: pytest.FixtureRequest
) -> None:
    """One of either kind of kernel package gets another kernel."""
    arch = Architecture.AMD64
    if cell == "anolis:23":
        leave_out(request, arch, "CentOS, which boots, has the same packages")
    boot(built, cell, arch, firmware, update=firmware is Firmware.UEFI and not is_left_out(request, arch))


@pytest.mark.vm
@pytest.mark.parametrize("cell", ["kylin:V10-SP3-2403", "centos:9"])
def test_an_arm64_cell_boots_and_passes(built: Built, cell: str, request: pytest.FixtureRequest) -> None:
    if cell == "centos:9":
        leave_out(request, Architecture.ARM64, "Kylin boots")
    boot(built, cell, Architecture.ARM64, Firmware.UEFI, update=False)


def boot(built: Built, cell: str, arch: Architecture, firmware: Firmware, *, update: bool) -> None:
    """Boot an image and run the suite on it; for the update, another kernel of its repositories is installed."""
    system, _, release = cell.partition(":")
    directory = BUILD / name_of(cell, arch)
    described = profile.select(profile.find(system, built.profiles), release, arch)
    with progress.session(BUILD / "logs" / f"verify-{directory.name}.log"):
        packages = image.other_kernel(described.base, arch, directory) if update else ()
        assert bool(packages) is update
        result = lab.verify(directory, firmware=firmware, kernel_update=packages, update=update)
    assert [(run.kind, run.failed) for run in result.runs] == [(firmware.value, ())]


# ------------------------------------------------------------------------------------------------------- media


def build_from(built: Built, cell: str, kind: str, medium: Path, build_dir: Path) -> Path:
    """Build an image from a medium, elsewhere than the matrix' images are; it has to pass what needs no boot."""
    system, _, release = cell.partition(":")
    described = profile.find(system, built.profiles)
    arch = Architecture.AMD64
    plan = image.resolve(described, release, arch, overlays=ROOT / "overlays", base_kind=kind, medium=medium)
    directory = image.build(plan, build_dir).directory
    lab.verify(directory, offline=True)
    return directory


def release_of(built: Built, cell: str) -> Release:
    system, _, release = cell.partition(":")
    return profile.select(profile.find(system, built.profiles), release, Architecture.AMD64)


@pytest.mark.parametrize("cell", ["centos:9", "kylin:V10-SP3-2403"])
def test_a_dvd_gives_the_same_packages_as_the_repositories(built: Built, scratch: Path, cell: str) -> None:
    release = release_of(built, cell)
    assert isinstance(release.base, RpmBase)
    place = distribution.repositories(distribution.default_directory(), cell, Architecture.AMD64)
    ids = [entry.id for entry in release.base.repositories]
    medium = media.iso(place, ids, Architecture.AMD64, scratch / "standin.iso")
    directory = build_from(built, cell, "iso", medium, scratch / "from-iso")
    ours = (BUILD / directory.name / "packages.json").read_text()
    assert json.loads((directory / "packages.json").read_text()) == json.loads(ours)
    medium.unlink()


def test_a_container_gets_kernel_and_boot_loader(built: Built, scratch: Path) -> None:
    made = media.tree(
        release_of(built, "anolis:23"), Architecture.AMD64, media.CONTAINER, scratch / "stand-in-container"
    )
    assert not (made / "boot/efi").exists()
    medium = media.archive(made, scratch / "stand-in-container.tar")
    directory = build_from(built, "anolis:23", "rootfs", medium, scratch / "from-rootfs")
    names = {row["name"] for row in json.loads((directory / "packages.json").read_text())}
    assert {"kernel-core", "shim-x64", "cloud-init", "podman"} <= names


def test_a_cloud_image_on_lvm_and_xfs_is_taken_over(built: Built, scratch: Path) -> None:
    pytest.importorskip("guestfs")
    cell, arch = "uos:20-1070a", Architecture.AMD64
    release = release_of(built, cell)
    all_but = {"chrony", "ipvsadm", "socat"}  # what the build has to add
    packages = sorted({*release.packages, *release.arch[arch].packages} - all_but)
    packed = media.archive(
        media.tree(release, arch, packages, scratch / "stand-in-cloud-image"), scratch / "stand-in-cloud-image.tar"
    )
    shutil.rmtree(scratch / "stand-in-cloud-image")
    medium = media.cloud_image(packed, scratch / "stand-in-cloud-image.qcow2")
    packed.unlink()
    directory = build_from(built, cell, "qcow2", medium, scratch / "from-qcow2")
    assert all_but <= {row["name"] for row in json.loads((directory / "packages.json").read_text())}
