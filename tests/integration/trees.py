"""Small root trees for tests, made of this machine's own programs and their libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("bash", "cat", "id", "ls", "mkdir", "rm", "sleep", "stat", "touch")


def make(root: Path, programs: tuple[str, ...] = PROGRAMS) -> Path:
    """Make a tree with a merged /usr in which these programs run."""
    for name in ("etc", "proc", "dev", "run", "tmp", "usr/bin", "usr/lib", "usr/lib64", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for program in programs:
        path = shutil.which(program)
        assert path is not None
        shutil.copy(path, root / "usr/bin" / program)
        for library in _libraries(path):
            target = root / str(library).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    return root


def _libraries(program: str) -> list[Path]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(found) for found in re.findall(r"(/\S+) \(0x", listed)]
