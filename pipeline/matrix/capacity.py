"""How many images this machine can build at a time."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline import image
from pipeline.core.cache import cache_root

# Measured for Debian 12: zstd and mke2fs take most of it, and the page cache wants its share.
MEMORY_PER_CELL = 1024**3
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Capacity:
    """How many cells at a time, and why not more.

    Attributes:
        cells: at least 1: a build says itself what it lacks.
        limit: what there is least of, in words.
    """

    cells: int
    limit: str


def measure(build_dir: Path) -> Capacity:
    """Return how many images can be built at a time here.

    Args:
        build_dir: directory of the images.
    """
    processors, memory, disk = len(os.sched_getaffinity(0)), free_memory(), _cells_on_disk(cache_root(), build_dir)
    found = {
        f"{processors} processors": processors,
        f"{memory / 1e9:.1f} GB of memory": memory // MEMORY_PER_CELL,
        "free disk space": disk,
    }
    limit = min(found, key=found.__getitem__)
    return Capacity(max(1, found[limit]), limit)


def free_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that can still be had, by this machine and by a container that we may be in."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    free = int(match[1]) * 1024 if match else MEMORY_PER_CELL
    try:  # cgroup v2; elsewhere, and at the top, there are no such files
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def _cells_on_disk(cache: Path, build_dir: Path) -> int:
    """Return for how many builds with an empty cache there is space; see the checks of a single build."""
    cold, staged = image.SPACE_COLD, image.SPACE_WARM // 3
    cache_place, build_place = _existing(cache), _existing(build_dir)
    if cache_place.stat().st_dev == build_place.stat().st_dev:
        return shutil.disk_usage(cache_place).free // (cold + staged)
    return min(shutil.disk_usage(cache_place).free // cold, shutil.disk_usage(build_place).free // staged)


def _existing(directory: Path) -> Path:
    return next(path for path in (directory, *directory.absolute().parents) if path.exists())
