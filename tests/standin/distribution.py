"""The stand-in distributions as a whole: made once, and kept by what they are made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline import profile as profiles
from pipeline.core.arch import Architecture
from pipeline.quality import ROOT
from tests.standin import sets, vendor

HERE = Path(__file__).parent
PROFILES = ROOT / "osprofiles"
# OS:release -> the era that it is cut from (os-facts.md §2: which database its own rpm writes).
CELLS = {
    "anolis:23": "sqlite",
    "centos:9": "sqlite",
    "kylin:V10-SP3-2403": "bdb",
    "uos:20-1070a": "bdb",
}
# Older and newer releases of the same systems, which are only built and looked at.
MORE_CELLS = {
    "anolis:8": "bdb",
    "centos:7": "bdb",
    "kylin:V11": "sqlite",
}
ERA_OF = CELLS | MORE_CELLS
SET_CODE = ("cut.py", "debian.py", "names.py", "sets.py", "specs.py", "files")


def default_directory() -> Path:
    """Return where the stand-ins are kept if nothing else is said: they are dear to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "node-images-stand-in"


def make(
    directory: Path, cells: Sequence[str] = tuple(CELLS), arches: Sequence[Architecture] = tuple(Architecture)
) -> Path:
    """Make what is missing of the stand-ins.

    Args:
        directory: where they are kept.
        cells: keys of ``CELLS`` or ``MORE_CELLS``; a system's first one is the default of its profile.
        arches: for which architectures.

    Returns:
        The directory of their profiles: the real ones, but for the addresses and keys of the repositories.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        for era in sorted({ERA_OF[cell] for cell in cells}):
            _make_set(directory, era, arches)
        for cell in cells:
            _make_cell(directory, cell, arches)
        return _write_profiles(directory, cells)


def repositories(directory: Path, cell: str, arch: Architecture) -> Path:
    """Return the directory of a cell's repositories, each in one called as its id."""
    return _cell_directory(directory, cell) / arch.rpm


def _digest(*paths: Path) -> str:
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(file.read_bytes())
    return total.hexdigest()[:12]


def _set_directory(directory: Path, era: str, arch: Architecture) -> Path:
    return directory / f"set-{era}-{arch}-{_digest(*(HERE / name for name in SET_CODE))}"


def _cell_directory(directory: Path, cell: str) -> Path:
    name, _, release = cell.partition(":")
    inputs = [HERE / name for name in (*SET_CODE, "vendor.py")] + [PROFILES / f"{name}.yaml"]
    return directory / f"cell-{name}-{release}-{_digest(*inputs)}"


def _remove_others(wanted: Path) -> None:
    """Remove what was made by other code."""
    for path in wanted.parent.glob(f"{wanted.name.rpartition('-')[0]}-*"):
        if path != wanted:
            shutil.rmtree(path)


def _make_set(directory: Path, era: str, arches: Sequence[Architecture]) -> None:
    missing = [arch for arch in arches if not _set_directory(directory, era, arch).is_dir()]
    if not missing:
        return
    work = directory / f".{era}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for arch, made in sets.make(sets.ERAS[era], missing, work).items():
        target = _set_directory(directory, era, arch)
        _remove_others(target)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    shutil.rmtree(work)


def _make_cell(directory: Path, cell: str, arches: Sequence[Architecture]) -> None:
    name, _, release = cell.partition(":")
    described, place = profiles.load(PROFILES / f"{name}.yaml"), _cell_directory(directory, cell)
    _remove_others(place)
    place.mkdir(exist_ok=True)
    home = place / "key"
    key = vendor.read_key(home) if home.exists() else vendor.make_key(home, f"{described.title} stand-in")
    for arch in arches:
        target = place / arch.rpm
        if not target.exists():
            half = place / f".{arch.rpm}"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            vendor.publish(described, release, arch, _set_directory(directory, ERA_OF[cell], arch), key, half)
            half.rename(target)


def _write_profiles(directory: Path, cells: Sequence[str]) -> Path:
    """Write the profiles of some cells; others may be in use, so they get a directory of their own."""
    target = directory / f"profiles-{hashlib.sha256(' '.join(cells).encode()).hexdigest()[:8]}"
    target.mkdir(exist_ok=True)
    for name in sorted({cell.partition(":")[0] for cell in cells}):
        releases = [cell.partition(":")[2] for cell in cells if cell.startswith(f"{name}:")]
        places = {release: _cell_directory(directory, f"{name}:{release}") for release in releases}
        vendor.stand_in_profile(PROFILES / f"{name}.yaml", places, target)
    return target
