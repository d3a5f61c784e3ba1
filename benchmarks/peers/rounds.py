"""The measurement: makers in turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import scenarios
from benchmarks.peers import floor, recipe, system
from benchmarks.peers.boot import Booted, boot
from benchmarks.peers.compare import Row
from benchmarks.peers.dib import NAME as DIB
from benchmarks.peers.dib import Dib
from benchmarks.peers.made import Made, Maker
from benchmarks.peers.mkosi import NAME as MKOSI
from benchmarks.peers.mkosi import Mkosi
from benchmarks.peers.ours import NAME as OURS
from benchmarks.peers.ours import Ours
from benchmarks.peers.report import scrubbed
from benchmarks.report import Number
from pipeline.core import progress
from pipeline.core.errors import PipelineError

COLD, REBUILD, SIZE, BOOT = "cold build", "rebuild", "image", "boot"
FILTERED = "image, where the peers leave out what the profile leaves out"
TARGETS = {COLD: 0.6, REBUILD: 0.1, SIZE: 0.8, BOOT: 0.8}
PLOTTED = (COLD, REBUILD, SIZE, BOOT)
MB = 1_000_000
LARGEST_TRAFFIC, LARGEST_PEAK = 3.0, 300.0  # sizes of the tree; MB


@dataclass
class Rounds:
    """What was measured so far.

    Attributes:
        makers: who still takes part.
        scratch: directory that takes each maker's machines.
        hidden: words that no failure may name.
        samples: measurements, by what and maker.
        failures: why a maker takes part no more.
    """

    makers: list[Maker]
    scratch: Path
    hidden: tuple[str, ...] = ()
    samples: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def turn(self, what: str, act: Callable[[Maker], None]) -> None:
        """Let each maker do something; a peer that fails takes part no more.

        Args:
            what: what it does.
            act: does it.

        Raises:
            PipelineError: it was we who failed.
        """
        for maker in list(self.makers):
            try:
                with progress.step(f"{maker.name}: {what}"):
                    act(maker)
            except PipelineError as error:
                if maker.name == OURS:
                    raise
                self.makers.remove(maker)
                self.failures[maker.name] = f"{what}: {scrubbed(error.message, self.hidden)}"
                progress.note(f"{maker.name} takes part no more: {self.failures[maker.name]}")
                progress.log(error.message)

    def add(self, what: str, maker: Maker, value: float) -> None:
        """Keep a measurement."""
        by_maker = self.samples.setdefault(what, {})
        by_maker[maker.name] = (*by_maker.get(maker.name, ()), value)

    def cold(self, maker: Maker) -> None:
        """Measure a cold build."""
        self._built(COLD, maker, maker.cold())

    def rebuild(self, maker: Maker, number: int) -> None:
        """Measure a rebuild, and keep its image for the boot."""
        made = maker.rebuild(number)
        self._built(REBUILD, maker, made)
        self.add(SIZE, maker, made.image.stat().st_size / MB)
        self._image(maker).unlink(missing_ok=True)
        self._image(maker).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.image, self._image(maker))

    def _built(self, what: str, maker: Maker, made: Made) -> None:
        self.add(what, maker, made.seconds)
        if made.packing:
            self.add(f"{what}: of these, qemu-img", maker, made.packing)

    def boot(self, maker: Maker) -> None:
        """Measure a boot of the last image."""
        self._booted(maker, boot(self._image(maker), self.scratch / maker.name / "machine"))

    def _booted(self, maker: Maker, booted: Booted) -> None:
        self.add(BOOT, maker, booted.seconds)
        self.add("packages in the image", maker, booted.packages)
        self.add("used on the root file system", maker, booted.used / MB)

    def filtered(self, maker: Maker) -> None:
        """Measure how large the image is if everybody leaves out the same."""
        self.add(FILTERED, maker, maker.filtered().image.stat().st_size / MB)

    def _image(self, maker: Maker) -> Path:
        return self.scratch / maker.name / "node.qcow2"

    def rows(self) -> tuple[Row, ...]:
        """Return what was measured as the rows of the report."""
        return tuple(
            Row(what, unit_of(what), by_maker, TARGETS.get(what), REMARKS.get(what, ""))
            for what, by_maker in sorted(self.samples.items(), key=_place)
        )


REMARKS = {
    COLD: "packages and indexes in each maker's own cache, nothing else",
    REBUILD: "after an edit of one script, each with its best incremental mode",
    SIZE: "zstd qcow2; the same packages, and each maker's own means against what a node does not need",
    FILTERED: "once: the profile's path filters are given to the peers",
    BOOT: "from power on until sshd sends its banner; BIOS, the lab's machine and cloud-init seed",
}


def unit_of(what: str) -> str:
    """Return the unit of a row."""
    return {SIZE: "MB", FILTERED: "MB", "used on the root file system": "MB", "packages in the image": ""}.get(
        what, "s"
    )


def _place(item: tuple[str, object]) -> tuple[int, str]:
    order = list(TARGETS)
    return (order.index(item[0]) if item[0] in order else len(order), item[0])


@dataclass(frozen=True)
class Measured:
    """Everything that was measured.

    Attributes:
        versions: version of each maker.
        rows: what everybody did.
        own: numbers of ours alone.
        floor: seconds of single programs.
        failures: what a maker could not do.
    """

    versions: dict[str, str]
    rows: tuple[Row, ...]
    own: tuple[Number, ...]
    floor: dict[str, float]
    failures: dict[str, str]


def measured(os_name: str, mirror: str | None, count: int, parent: Path) -> Measured:
    """Measure everything; the first time, the peers' system is made and their packages are fetched.

    Args:
        os_name: the profile.
        mirror: package archive, or None for this machine's apt sources.
        count: how often each is measured.
        parent: directory to work in.

    Raises:
        PipelineError: our own build failed, or the floor.
    """
    wanted = recipe.read(os_name, mirror)
    with scenarios.place(parent, os_name, mirror) as where:
        ours = Ours(where)
        hidden = (str(system.place()), str(where.root), str(recipe.ROOT), *wanted.hosts())
        rounds = Rounds([ours], where.root / "peers", hidden)
        try:
            peers = system.obtain(wanted)
            rounds.makers += [Mkosi(peers, wanted, _own(MKOSI)), Dib(peers, wanted, _own(DIB))]
        except PipelineError as error:
            rounds.failures = dict.fromkeys((MKOSI, DIB), scrubbed(error.message, hidden))
        versions = {maker.name: maker.version() for maker in rounds.makers}
        rounds.turn("its caches are filled", lambda maker: maker.prepare())
        for number in range(1, count + 1):
            rounds.turn(COLD, rounds.cold)
            rounds.turn(REBUILD, functools.partial(rounds.rebuild, number=number))
            rounds.turn(BOOT, rounds.boot)
        rounds.turn(FILTERED, rounds.filtered)
        packages = where.cache / "packages/deb"
        floors = floor.measured(wanted, packages, next(where.results.glob("*/*.qcow2")), _empty(where.root / "floor"))
        own = (*own_numbers(ours), *scenarios.unchanged(os_name, mirror, count, where.root / "output")[:1])
    return Measured(versions, rounds.rows(), own, floors, rounds.failures)


def _own(name: str) -> Path:
    path = system.place() / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def _empty(path: Path) -> Path:
    path.mkdir()
    return path


def own_numbers(ours: Ours) -> Sequence[Number]:
    """Return the numbers that only we are measured by."""
    size = ours.tree_size()
    moved = tuple((one.read + one.written) / size for one in ours.traffic)
    remark = "of all programs of the build (getrusage(2): blocks in and out); the tree has {:.0f} MB, {}"
    parts = f"read {ours.traffic[-1].read / MB:.0f} MB, written {ours.traffic[-1].written / MB:.0f} MB the last time"
    peak = max(sample.peak for sample in ours.samples) / MB
    return (
        Number("disk read and written in a rebuild, by the size of the tree", "share", moved, LARGEST_TRAFFIC,
               remark.format(size / MB, parts)),
        Number("peak memory of one process of ours", "MB", (peak,), LARGEST_PEAK,
               "largest resident set (VmHWM) in any build above; tools are not counted"),
    )  # fmt: skip
