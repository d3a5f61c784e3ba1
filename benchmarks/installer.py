"""What is measured of the installer image: builds of it, nothing changed, and what a node pulls after a change.

Its components have the sizes of upstream's, and are cut from this machine's own programs, so that they compress as
programs do: upstream's cannot be had everywhere. Its scripts are those of this checkout.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks import measure
from benchmarks.report import Number, Report, numbers_table, table
from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError

ROOT = Path(__file__).resolve().parents[1]
PART_OF_A_CHECKOUT = ("pipeline", "tasks.py", "installer-image")
ORIGIN = "https://components.test"
MACHINES = {Architecture.AMD64: 62, Architecture.ARM64: 183}  # elf(5)
PROGRAMS = Path("/usr/bin")
MB = 1_000_000
# Bytes of each component of Kubernetes 1.31, unpacked.
SIZES = {
    "containerd": 82 * MB,
    "runc": 11 * MB,
    "cni-plugins": 17 * MB,
    "crictl": 39 * MB,
    "kubeadm": 58 * MB,
    "kubelet": 77 * MB,
    "kubectl": 56 * MB,
    "etcdctl": 17 * MB,
}
EDITED = "lib/benchmark.sh"
TARGET_CACHED, TARGET_UNCHANGED, TARGET_PULL = 5.0, 1.0, 1.0


@dataclass(frozen=True)
class Place:
    """A private copy of what an installer image is made with, its cache and its results.

    Attributes:
        root: its directory.
    """

    root: Path

    @property
    def built(self) -> Path:
        """What was built."""
        return self.root / "build/cluster-installer"

    def invoke(self, *words: str) -> float:
        """Run a command, and return its seconds, from the process's start to its end.

        Raises:
            ToolError: it failed.
        """
        argv = [sys.executable, "-I", "-m", "invoke", "--search-root", str(self.root), *words]
        env = {"XDG_CACHE_HOME": str(self.root / "cache")}
        return measure.run(argv, output=self.root / "output", env=env).seconds

    def layers(self) -> dict[str, dict[str, int]]:
        """Return the sizes of the layers that a node of each architecture pulls, by digest."""
        platforms = json.loads((self.built / "manifest.json").read_text())["platforms"]
        return {arch: {one["digest"]: one["size"] for one in found["layers"]} for arch, found in platforms.items()}

    def edit(self, number: int) -> None:
        """Change a script."""
        (self.root / "installer-image/payload" / EDITED).write_text(f"#!/usr/bin/env bash\n# {number}\n")


def prepare(root: Path, sizes: dict[str, int] | None = None, programs: Path = PROGRAMS) -> Place:
    """Make a place, with a mirror of components, in an empty directory.

    Args:
        root: the directory.
        sizes: bytes of each component; upstream's if not given.
        programs: what they are cut from.

    Raises:
        DependencyError: there is no program to cut from.
    """
    place = Place(root)
    for name in PART_OF_A_CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "components.lock"))
        else:
            shutil.copy2(source, root / name)
    described = {}
    url = f"{ORIGIN}/{{version}}/{{arch}}/"
    for name, size in (sizes or SIZES).items():
        for arch in Architecture:
            _write_artifact(root / "mirror/1.0" / arch.value / name, arch, size, programs)
        described[name] = {"version": "1.0", "url": url + name, "checksum": f"{url}{name}.sha256"}
    text = yaml.safe_dump({"components": described})
    (root / "installer-image/components.yaml").write_text(text)
    return place


def _write_artifact(path: Path, arch: Architecture, size: int, programs: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + MACHINES[arch].to_bytes(2, "little")
    left = size - len(header) - len(path.name)
    with path.open("wb") as file:
        for piece in (header, path.name.encode(), *_pieces(programs, left)):
            file.write(piece)
            total.update(piece)
    path.with_name(f"{path.name}.sha256").write_text(f"{total.hexdigest()}\n")


def _pieces(programs: Path, size: int) -> Iterator[bytes]:
    """Yield so many bytes of programs, the largest first, and again from the first one if they do not do."""
    files = sorted((path for path in programs.iterdir() if path.is_file() and not path.is_symlink()), key=_size)
    if not files or _size(files[-1]) == 0:
        raise DependencyError(f"there is no program in {programs}", hint="measure on a machine with some")
    while size > 0:
        for path in reversed(files):
            content = path.read_bytes()[:size]
            size -= len(content)
            yield content


def _size(path: Path) -> int:
    return path.stat().st_size


def measured(place: Place, count: int) -> tuple[Number, ...]:
    """Measure everything.

    Args:
        place: from :func:`prepare`.
        count: how often each is measured, but for the first build.
    """
    with progress.step("lock"):
        locked = place.invoke("installer.lock", "--mirror", str(place.root / "mirror"))
    with progress.step("first build"):
        first = place.invoke("installer.build")
    weight = max(sum(sizes.values()) for sizes in place.layers().values())
    cached, unchanged, edited, pulled = [], [], [], []
    for number in range(count):
        with progress.step("build from cached components"):
            shutil.rmtree(place.built)
            cached.append(place.invoke("installer.build"))
        with progress.step("nothing changed"):
            unchanged.append(place.invoke("installer.build"))
        with progress.step("a script changed"):
            before = place.layers()
            place.edit(number)
            edited.append(place.invoke("installer.build"))
            pulled.append(_most_new(before, place.layers()) / MB)
    both = "both architectures; the process from start to end"
    return (
        Number("lock: 8 components for 2 architectures, from this machine's disk", "s", (locked,)),
        Number("first build: every layer is compressed", "s", (first,), remark=both),
        Number("build from cached components", "s", tuple(cached), TARGET_CACHED, both),
        Number("nothing changed", "s", tuple(unchanged), TARGET_UNCHANGED, "the whole process"),
        Number("build after a script has changed", "s", tuple(edited), TARGET_CACHED, both),
        Number("what a node pulls the first time", "MB", (weight / MB,), remark="layers of one architecture"),
        Number("what a node pulls after a script has changed", "MB", tuple(pulled), TARGET_PULL, "layers it lacks"),
    )


def _most_new(before: dict[str, dict[str, int]], after: dict[str, dict[str, int]]) -> int:
    """Return the bytes of the layers that are new, of the architecture that has most of them."""
    return max(sum(size for one, size in sizes.items() if one not in before[arch]) for arch, sizes in after.items())


def as_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [
        "# Benchmark of the installer image",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test.",
        "The components are stand-ins of the sizes that those of Kubernetes 1.31 have, cut from this machine's own"
        " programs, on this machine's disk; the scripts are those of `installer-image/payload`.",
        numbers_table(report.numbers),
        "## Machine",
        table(("", ""), report.machine.items()),
    ]
    return "\n\n".join(parts) + "\n"
