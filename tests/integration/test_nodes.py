"""The main job, as a user does it: build, verify, build again; for both architectures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import lab
from pipeline.core.arch import Architecture
from tests.emulated import is_left_out

ROOT = Path(__file__).resolve().parents[2]
ARCHES = ("amd64", "arm64")

pytestmark = [pytest.mark.slow, pytest.mark.root]


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the front door; what it says goes on to pytest's output, so that a failure shows all of it."""
    completed = subprocess.run([ROOT / "invoke", *words], capture_output=True, text=True, check=False)
    sys.stdout.write(completed.stdout + completed.stderr)
    return completed


def directory(arch: str) -> Path:
    return ROOT / "build" / f"debian-12-{arch}"


@pytest.fixture(scope="module", params=ARCHES)
def arch(request: pytest.FixtureRequest) -> str:
    """An architecture whose image is built."""
    name = str(request.param)
    assert invoke("build", "--arch", name).returncode == 0
    return name


def test_a_second_build_says_that_it_is_up_to_date(arch: str) -> None:
    before = (directory(arch) / "manifest.json").stat().st_mtime_ns
    again = invoke("build", "--arch", arch)
    assert again.returncode == 0
    assert "is up to date" in again.stdout
    assert (directory(arch) / "manifest.json").stat().st_mtime_ns == before


def test_every_file_beside_the_image_is_covered_by_checksums(arch: str) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=directory(arch),
        capture_output=True,
        text=True,
        check=True,
    )
    files = {file.name for file in directory(arch).iterdir() if file.is_file()} - {"SHA256SUMS"}
    assert {line.split(":")[0] for line in checked.stdout.splitlines()} == files


def test_the_image_passes_offline(arch: str) -> None:
    assert invoke("verify", "--arch", arch, "--offline").returncode == 0


def test_the_amd64_image_boots_and_passes() -> None:
    """The whole suite with both firmware kinds; another kernel is installed in the node and booted."""
    assert invoke("build", "--arch", "amd64").returncode == 0
    assert invoke("verify", "--arch", "amd64").returncode == 0
    reports = directory("amd64") / "verify"
    assert all((reports / f"{kind}.{suffix}").stat().st_size for kind in ("uefi", "bios") for suffix in ("html", "xml"))


def test_the_arm64_image_boots_and_passes(request: pytest.FixtureRequest) -> None:
    """The whole suite; for the update, initramfs and grub.cfg are made anew in the node, and it reboots.

    That takes ten minutes on an emulated machine; ``./invoke verify --arch arm64`` does it as well.
    """
    assert invoke("build", "--arch", "arm64").returncode == 0
    result = lab.verify(directory("arm64"), update=not is_left_out(request, Architecture.ARM64))
    assert [(run.kind, run.failed) for run in result.runs] == [("uefi", ())]


def test_libguestfs_sees_the_same_image() -> None:
    assert invoke("build", "--arch", "amd64").returncode == 0
    manifest = json.loads((directory("amd64") / "manifest.json").read_text())
    packages = json.loads((directory("amd64") / "packages.json").read_text())
    seen = invoke("inspect", "--arch", "amd64")
    assert seen.returncode == 0
    assert f"{len(packages)} packages" in seen.stdout
    assert f"kernels: {manifest['kernels'][0]}" in seen.stdout
    assert manifest["identifiers"]["root"] in seen.stdout
    assert "partition table: gpt" in seen.stdout


def test_the_list_shows_what_is_built(arch: str) -> None:
    shown = invoke("list")
    assert shown.returncode == 0
    (line,) = [line for line in shown.stdout.splitlines() if line.split()[:1] == ["debian"] and arch in line]
    assert "MB" in line
    assert "not built" not in line
