"""What is measured of RPM systems: cells whose packages are there, the matrix, and what the images hold.

The packages are those of the stand-ins (see ``tests/standin``), as the vendors' repositories cannot be had everywhere.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure, scenarios
from benchmarks.report import Number
from benchmarks.rpm_report import Image
from pipeline import matrix
from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.progress import StepTime
from tests.standin import distribution

MB = 1_000_000
SYSTEMS = ("kylin", "centos")  # one of each era: a database that only the target's rpm can write, and one that ours can
# In every RPM image, and in no initramfs (NOT_IN_INITRAMFS in pipeline/image/boot.py).
EDITED = "common/root/etc/systemd/journald.conf.d/10-node.conf"
TARGET_NATIVE, TARGET_EMULATED, TARGET_MATRIX, TARGET_SIZE = 60.0, 300.0, 180.0, 300.0


@dataclass(frozen=True)
class Run:
    """One measured matrix, of one cell or of many.

    Attributes:
        seconds: wall clock time of its process, from start to end.
        cells: what became of each cell.
    """

    seconds: float
    cells: tuple[matrix.Result, ...]

    @property
    def remark(self) -> str:
        """What was done, and which steps came from the cache in every cell that was built."""
        counts = Counter(cell.status for cell in self.cells)
        built = [cell for cell in self.cells if cell.status == "built"]
        found = [{step.title for step in cell.steps if step.remark == "cached"} for cell in built]
        words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        everywhere = [step.title for step in built[0].steps if all(step.title in one for one in found)] if built else []
        return f"{words}; cached: {', '.join(everywhere) or 'nothing'}" if built else words


@dataclass(frozen=True)
class Site(scenarios.Private):
    """A private place to build a matrix in. Its cache begins empty: stand-ins' packages are on this machine's disk.

    Attributes:
        profiles: directory of the stand-ins' profiles.
    """

    profiles: Path

    def run(self, os: str = "all", arch: str = "all") -> Run:
        """Build a matrix here, in a process of its own.

        Args:
            os: profiles with commas between them, or ``all``.
            arch: architectures, likewise.

        Raises:
            ToolError: a build failed.
        """
        words = [sys.executable, "-I", "-c", _CODE, str(self.profiles), str(self.overlays), str(self.results), os, arch]
        sample = measure.run(words, output=self.root / "output", env=self.environment)
        report = matrix.Report.model_validate_json((self.results / "matrix.json").read_text())
        return Run(sample.seconds, report.cells)


# With -I Python does not look into the current directory, whatever is there.
_CODE = f"import sys; sys.path.insert(0, {str(scenarios.ROOT)!r}); from benchmarks.one_matrix import main; main()"


def stand_ins() -> Path:
    """Make the stand-ins unless they are there, and return the directory of their profiles."""
    with progress.step("stand-ins"):
        return distribution.make(distribution.default_directory().absolute())


def whole(site: Site, count: int) -> tuple[list[Number], list[Image]]:
    """Measure the matrix: everything anew, nothing to do, and after one overlay edit.

    Args:
        site: where nothing has been built yet.
        count: how often each is measured; but that of everything anew once, which is there to have something to edit.

    Returns:
        The numbers, and the images.
    """
    with progress.step("matrix, nothing cached"):
        first = site.run()
    unchanged, edited = [], []
    for number in range(count):
        with progress.step("matrix, nothing changed"):
            unchanged.append(site.run())
        edit(site, number)
        with progress.step("matrix after an overlay edit"):
            edited.append(site.run())
    return matrix_numbers(first, unchanged, edited), [image_of(site.results, cell) for cell in edited[-1].cells]


def edit(site: Site, number: int) -> None:
    """Append a comment to one file of an overlay."""
    file = site.overlays / EDITED
    file.write_text(scenarios.edited(file.read_text(), f"# benchmark {number}"))


def matrix_numbers(first: Run, unchanged: Sequence[Run], edited: Sequence[Run]) -> list[Number]:
    """Return the numbers of matrices."""
    name = f"matrix of {len(first.cells)} cells"
    return [
        Number(f"{name}, no cached step", "s", (first.seconds,), remark=first.remark),
        Number(f"{name}, nothing changed", "s", tuple(run.seconds for run in unchanged), remark=unchanged[-1].remark),
        Number(f"{name}, after one overlay edit", "s", tuple(run.seconds for run in edited), TARGET_MATRIX,
               edited[-1].remark),
    ]  # fmt: skip


def image_of(results: Path, cell: matrix.Result) -> Image:
    """Return what an image weighs."""
    manifest = json.loads((results / cell.name / "manifest.json").read_text())
    return Image(cell.name, manifest["image"]["size"], cell.packages, manifest["tree"]["size"])


def size_numbers(images: Iterable[Image]) -> list[Number]:
    """Return the numbers of images' sizes."""
    return [Number(f"size of {image.name}.qcow2", "MB", (image.size / MB,), TARGET_SIZE) for image in images]


def warm(site: Site, system: str, arch: Architecture, count: int) -> list[Run]:
    """Build one cell again and again with no cached step, while its packages and their indexes are there."""
    runs = []
    for _ in range(count):
        namespace.run_private(site.forget)
        with progress.step(f"{system} {arch}, packages cached"):
            runs.append(site.run(system, arch.value))
    return runs


def warm_number(runs: Sequence[Run]) -> Number:
    """Return the number of a cell that was built with no cached step."""
    cell = runs[-1].cells[0]
    native = cell.arch is Architecture.host()
    target, how = (TARGET_NATIVE, "native") if native else (TARGET_EMULATED, "scriptlets under qemu-user")
    seconds = tuple(run.seconds for run in runs)
    return Number(f"{cell.name}, packages cached", "s", seconds, target, f"{how}; {runs[-1].remark}")


def steps(run: Run) -> tuple[StepTime, ...]:
    """Return the steps of a run of one cell."""
    return tuple(StepTime(step.title, step.depth, step.seconds, step.remark) for step in run.cells[0].steps)
