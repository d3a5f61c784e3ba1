"""What is measured: a cold build, rebuilds after an edit, nothing changed, and what the images hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure, packages
from benchmarks.report import Number, Package
from pipeline import image, profile
from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import cache_root
from pipeline.core.errors import InputError
from pipeline.core.progress import StepTime

ROOT = Path(__file__).resolve().parents[1]
BUILD, OVERLAYS, PROFILES = ROOT / "build", ROOT / "overlays", ROOT / "osprofiles"
MANAGER = re.compile(r"I: success in ([\d.]+) seconds")  # mmdebstrap's own last word
# What an edited script does more than before; the first is in no initramfs, the second is in every one.
EDITS = {
    "that the initramfs does not see": "echo {number} >/usr/local/share/benchmark",
    "that the initramfs sees": "echo '# {number}' >/etc/modprobe.d/benchmark.conf",
}
TARGET_OUTSIDE, TARGET_REBUILD, TARGET_REBUILD_SHARE = 20.0, 15.0, 0.1
TARGET_UNCHANGED, TARGET_FRONT_DOOR, TARGET_SIZE, TARGET_MEMORY = 1.0, 0.2, 220.0, 200.0
MB = 1_000_000


@dataclass(frozen=True)
class BuildSample:
    """One measured build.

    Attributes:
        seconds: wall clock time of its process, from start to end.
        peak: largest resident set of any one process of our own, in bytes.
        times: its steps.
        manager: seconds in the package manager; 0 if the base was cached.
        downloaded: packages that were not in the package cache.
    """

    seconds: float
    peak: int
    times: tuple[StepTime, ...]
    manager: float
    downloaded: int


@dataclass(frozen=True)
class Private:
    """A private place to build in: cache, overlays and results of its own.

    Attributes:
        root: its directory.
    """

    root: Path

    @property
    def cache(self) -> Path:
        """Directory of the cached steps and packages."""
        return self.root / "cache/node-images"

    @property
    def overlays(self) -> Path:
        """A copy of the checkout's overlays."""
        return self.root / "overlays"

    @property
    def results(self) -> Path:
        """Directory of the images."""
        return self.root / "build"

    @property
    def environment(self) -> dict[str, str]:
        """What a build here needs in its environment."""
        return {"XDG_CACHE_HOME": str(self.cache.parent)}

    def forget(self) -> None:
        """Remove every cached step and result, but keep the packages."""
        for path in (*self.cache.glob("*"), self.results):
            if path.name != "packages" and path.is_dir():
                shutil.rmtree(path)


@dataclass(frozen=True)
class Place(Private):
    """A private place to build one profile in; the packages are those of the real cache.

    Attributes:
        os: the profile that is built.
        mirror: package archive, or None for this machine's apt sources.
    """

    os: str
    mirror: str | None

    def build(self) -> BuildSample:
        """Build here, in a process of its own.

        Raises:
            ToolError: the build failed.
        """
        before = self._packages()
        words = [sys.executable, "-I", "-c", _CODE, self.os, str(self.overlays), str(self.results)]
        words += ["--mirror", self.mirror] if self.mirror else []
        output = self.root / "output"
        sample = measure.run(words, output=output, env=self.environment, watch=True)
        times = tuple(StepTime(**row) for row in json.loads(sample.output.splitlines()[-1]))
        logs = [file.read_text(errors="replace") for file in (self.results / "logs").glob("*.log")]
        return BuildSample(
            sample.seconds, sample.peak, times, manager_seconds(logs[0]), len(self._packages() - before)
        )  # fmt: skip

    def _packages(self) -> set[str]:
        return {path.name for path in (self.cache / "packages").rglob("*") if path.is_file()}


# With -I Python does not look into the current directory, whatever is there.
_CODE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.one_build import main; main()"


@contextlib.contextmanager
def place(parent: Path, os_name: str, mirror: str | None) -> Iterator[Place]:
    """Make a place to build a profile in, and remove it."""
    with private(parent) as root:
        made = Place(root, os_name, mirror)
        if (cache_root() / "packages").is_dir():
            shutil.copytree(cache_root() / "packages", made.cache / "packages", copy_function=_link)
        yield made


@contextlib.contextmanager
def private(parent: Path) -> Iterator[Path]:
    """Make the directory of a private place, with a copy of the overlays, and remove it."""
    root = Path(tempfile.mkdtemp(prefix="node-images-benchmark-", dir=parent))
    try:
        shutil.copytree(OVERLAYS, Private(root).overlays, symlinks=True)
        yield root
    finally:
        namespace.run_private(lambda: shutil.rmtree(root))  # an ordinary user's trees hold files of other ids


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def manager_seconds(log: str) -> float:
    """Return how long the package manager took, from a build's log; 0 if it did not run."""
    found = MANAGER.search(log)
    return float(found[1]) if found else 0.0


def cold(where: Place, count: int) -> list[BuildSample]:
    """Build with no cached step but with all packages; one build more if packages were missing."""
    samples: list[BuildSample] = []
    while len(samples) < count:
        namespace.run_private(where.forget)
        with progress.step("cold build"):
            sample = where.build()
            progress.remark(f"{sample.downloaded} packages fetched" if sample.downloaded else "all packages were there")
        if sample.downloaded == 0:
            samples.append(sample)
    return samples


def rebuilds(where: Place, count: int, what: str) -> list[BuildSample]:
    """Build again and again, each time with one script of an overlay changed.

    Args:
        where: a place with a finished build.
        count: how many times.
        what: a key of EDITS.
    """
    script = last_script(where)
    original = script.read_text()
    samples = []
    for number in range(count):
        script.write_text(edited(original, EDITS[what].format(number=number)))
        with progress.step(f"rebuild after an edit {what}"):
            samples.append(where.build())
    script.write_text(original)
    return samples


def edited(script: str, line: str) -> str:
    """Return a script with one more line at its end."""
    return f"{script.rstrip()}\n{line}\n"


def last_script(where: Place) -> Path:
    """Return the script that runs last in a build.

    Raises:
        InputError: the profile's overlays have none.
    """
    found = profile.find(where.os, PROFILES)
    release = profile.select(found, None, Architecture.host())
    scripts = [file for name in release.overlays for file in sorted((where.overlays / name / "scripts").glob("*.sh"))]
    if not scripts:
        raise InputError(f"no overlay of {where.os} has a script", hint="measure a profile whose overlays have one")
    return scripts[-1]


def cold_numbers(samples: Sequence[BuildSample]) -> list[Number]:
    """Return the numbers of cold builds."""
    remark = "no cached step, every package in the local cache; the process from start to end"
    outside = tuple(sample.seconds - sample.manager for sample in samples)
    return [
        Number("cold build", "s", tuple(sample.seconds for sample in samples), remark=remark),
        Number("cold build: inside the package manager", "s", tuple(sample.manager for sample in samples),
               remark="as mmdebstrap itself says"),
        Number("cold build: outside of it", "s", outside, TARGET_OUTSIDE, "all the rest, the start of Python included"),
    ]  # fmt: skip


def rebuild_numbers(samples: Sequence[BuildSample], what: str, cold_seconds: float) -> list[Number]:
    """Return the numbers of rebuilds after one kind of edit."""
    seconds = tuple(sample.seconds for sample in samples)
    cached = ", ".join(step.title for step in samples[0].times if step.remark == "cached")
    shares = tuple(one / cold_seconds for one in seconds)
    return [
        Number(f"rebuild after an edit {what}", "s", seconds, TARGET_REBUILD, f"cached: {cached or 'nothing'}"),
        Number("the same, as a share of a cold build", "share", shares, TARGET_REBUILD_SHARE),
    ]


def memory_number(samples: Sequence[BuildSample]) -> Number:
    """Return the peak memory of builds."""
    return Number(
        "peak memory of one process", "MB", (max(sample.peak for sample in samples) / MB,), TARGET_MEMORY,
        "largest resident set (VmHWM) of any process of our own in any build above; tools are not counted",
    )  # fmt: skip


def unchanged(os_name: str, mirror: str | None, count: int, output: Path) -> list[Number]:
    """Measure commands that have nothing to do, in the checkout itself; if its image is out of date, build it first."""
    front, direct = [str(ROOT / "invoke")], [sys.executable, "-I", "-m", "invoke", "--search-root", str(ROOT)]
    build = ["build", "--os", os_name, *(["--mirror", mirror] if mirror else [])]
    with progress.step("an image that is up to date"):
        measure.run([*front, *build], output=output)
    seconds: dict[str, list[float]] = {"build": [], "front": [], "direct": []}
    with progress.step("nothing changed"):
        for _ in range(count):  # in turns, so that a busy moment of the machine hits all of them
            seconds["build"].append(measure.run([*front, *build], output=output).seconds)
            seconds["front"].append(measure.run([*front, "--list"], output=output).seconds)
            seconds["direct"].append(measure.run([*direct, "--list"], output=output).seconds)
    added = tuple(front - direct for front, direct in zip(seconds["front"], seconds["direct"], strict=True))
    remark = f"`./invoke --list` ({measure.median(seconds['front']):.2f} s) less `invoke --list` in the environment"
    return [
        Number("nothing changed: `./invoke build`", "s", tuple(seconds["build"]), TARGET_UNCHANGED,
               "the whole process"),
        Number("what `./invoke` adds to invoke", "s", added, TARGET_FRONT_DOOR, remark),
    ]  # fmt: skip


def sizes(os_name: str) -> tuple[list[Number], dict[str, tuple[Package, ...]]]:
    """Return the size of every image of a profile's default release, and each one's largest packages."""
    found = profile.find(os_name, PROFILES)
    numbers, largest = [], {}
    for arch in found.releases[found.default_release].arch:
        name = f"{os_name}-{found.default_release}-{arch}"
        directory = BUILD / name
        if not (directory / "manifest.json").is_file():
            progress.note(f"{name} is not built, so its size is not in the report: ./invoke build --arch {arch}")
            continue
        manifest = json.loads((directory / "manifest.json").read_text())
        plan = image.resolve(found, None, arch, overlays=OVERLAYS)
        remark = "" if image.up_to_date(plan, directory) else "not of this code: what is there was built before"
        numbers.append(Number(f"size of {name}.qcow2", "MB", (manifest["image"]["size"] / MB,), TARGET_SIZE, remark))
        asked = profile.select(found, None, arch)
        reasons = _reasons(manifest["steps"]["base"], (*asked.packages, *asked.arch[arch].packages))
        rows = sorted(manifest["largest_packages"].items(), key=lambda item: (-item[1], item[0]))[:10]
        largest[name] = tuple(Package(name, size, reasons.get(name, "")) for name, size in rows)
    return numbers, largest


def _reasons(base_key: str, asked: Sequence[str]) -> dict[str, str]:
    status = cache_root() / "base" / base_key / "data/tree/var/lib/dpkg/status"
    if not status.is_file():
        return {}  # the tree is no longer in the cache
    return packages.reasons(packages.read_status(status.read_text()), asked)
