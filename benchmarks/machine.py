"""What the numbers were measured on; nothing that names the machine."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from pipeline import lab
from pipeline.core import cache, process
from pipeline.core.arch import Architecture


def describe(where: Path) -> dict[str, str]:
    """Describe this machine as it is now.

    Args:
        where: the directory that is measured in.

    Returns:
        What there is to say, by its title.
    """
    load = os.getloadavg()
    host = Architecture.host()
    return {
        "architecture": host.value,
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory(Path('/proc/meminfo').read_text()) / 2**30:.1f} GiB",
        "load average at the start": f"{load[0]:.2f} (1 min), {load[1]:.2f} (5 min)",
        "KVM": "usable" if lab.choose_accelerator(host).kind is lab.Kind.KVM else "not usable (builds do not need it)",
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "file system": file_system(where, Path("/proc/self/mountinfo").read_text()),
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "revision": revision(),
    }


def processor(cpuinfo: str) -> str:
    """Return the first processor's name of a ``/proc/cpuinfo``; arm64 kernels give none."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unnamed"


def memory(meminfo: str) -> int:
    """Return the memory in bytes that a ``/proc/meminfo`` speaks of."""
    line = next(line for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) * 1024


def file_system(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that a path is on."""
    best = ("", "unknown")
    for line in mountinfo.splitlines():
        words = line.split()
        point, kind = words[4], words[words.index("-") + 1]
        if path.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def revision() -> str:
    """Return the checkout's commit, with ``-dirty`` if its code is changed; numbers of other code are other numbers."""
    root = Path(__file__).resolve().parents[1]
    if shutil.which("git", path=process.SYSTEM_PATH) is None:
        return "unknown"
    words = ["git", "-c", f"safe.directory={root}", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    return process.run(words, cwd=root, capture=True, check=False).stdout.strip() or "unknown"


def scratch_parent() -> Path:
    """Return the directory that measuring happens in: beside the cache, so that packages can be linked."""
    parent = cache.cache_root().parent
    parent.mkdir(parents=True, exist_ok=True)
    return parent
