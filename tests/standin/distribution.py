"""The stand-in distributions as a whole: made once, kept by what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path

from pipeline import profile as profiles
from pipeline.core.arch import Architecture
from pipeline.quality import ROOT
from tests.standin import sets, vendor

PROFILES = ROOT / "osprofiles"
# OS:release -> the era that it is cut from (os-facts.md §2: which database its own rpm writes).
CELLS = {
    "centos:9": "sqlite",
    "kylin:V10-SP3-2403": "bdb",
    "anolis:23": "sqlite",
    "uos:20-1070a": "bdb",
}


def make(directory: Path, cells: tuple[str, ...], arches: tuple[Architecture, ...]) -> Path:
    """Make what is missing of the stand-ins.

    Args:
        directory: where they are kept.
        cells: keys of ``CELLS``.
        arches: for which architectures.

    Returns:
        The directory of their profiles.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = directory / _key()
        place.mkdir(exist_ok=True)
        for old in directory.iterdir():
            if old.is_dir() and old != place:
                shutil.rmtree(old)
        for era in sorted({CELLS[cell] for cell in cells}):
            _make_set(place, era, arches)
        for cell in cells:
            _make_cell(place, cell, arches)
    return place / "profiles"


def _key() -> str:
    """Return a digest of the code and of the profiles: another stand-in when they change."""
    total = hashlib.sha256()
    for file in [*sorted(Path(__file__).parent.rglob("*")), *sorted(PROFILES.glob("*.yaml"))]:
        if file.is_file() and "__pycache__" not in file.parts:
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def _make_set(place: Path, era: str, arches: tuple[Architecture, ...]) -> None:
    if all((place / f"{era}-{arch}").is_dir() for arch in arches):
        return
    work = place / f".{era}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for arch, made in sets.make(sets.ERAS[era], arches, work).items():
        target = place / f"{era}-{arch}"
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    shutil.rmtree(work)


def _make_cell(place: Path, cell: str, arches: tuple[Architecture, ...]) -> None:
    name, _, release = cell.partition(":")
    described = profiles.load(PROFILES / f"{name}.yaml")
    repositories, written = place / "repositories", place / "profiles"
    for needed in (repositories, written):
        needed.mkdir(exist_ok=True)
    homes = place / f"key-{name}"
    key = vendor.make_key(homes, f"{described.title} stand-in") if not homes.exists() else vendor.read_key(homes)
    for arch in arches:
        target = repositories / f"{name}-{release}" / arch.rpm
        if not (target / "done").exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            vendor.publish(described, release, arch, place / f"{CELLS[cell]}-{arch}", key, target)
            (target / "done").touch()
    releases = tuple(other.partition(":")[2] for other in CELLS if other.startswith(f"{name}:"))
    vendor.stand_in_profile(PROFILES / f"{name}.yaml", releases, repositories, key, written)
