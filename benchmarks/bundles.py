"""What is measured of bundles: sizes, packing, expanding, and syncing side by side with skopeo.

The images are those of the tests: real ones of two architectures, cut from Debian packages, compressed by buildah,
podman, skopeo, umoci and by Go's gzip as docker has it. Registries are docker-registry on this machine's loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.measure import Sample
from benchmarks.report import Number, Report, numbers_table, table
from pipeline.core import progress
from pipeline.oci import Registry, RegistryOptions
from tests.bundles import images
from tests.bundles.checkouts import Checkout
from tests.bundles.images import Made
from tests.integration import registries
from tests.integration.registries import Served

MB = 1_000_000
EPOCH = {"SOURCE_DATE_EPOCH": "1795575600"}
PACKED_MB, EXPANDED_MB = 15, 25  # megabytes of layers that one core is to pack or expand in a second
MEMORY_MB = 700
COMPRESSIBLE = "gzip"


@dataclass(frozen=True)
class Run:
    """A command that was run.

    Attributes:
        sample: its time and memory.
        cpu: seconds of processor time, of it and of the programs that it started.
    """

    sample: Sample
    cpu: float


@dataclass(frozen=True)
class Place:
    """Where it is measured.

    Attributes:
        root: a directory.
        made: the images.
        source: the registry that they are in.
        checkout: where bundles are made.
    """

    root: Path
    made: Made
    source: Served
    checkout: Checkout

    def invoke(self, command: str, *words: str | Path) -> Run:
        """Run a command and measure it."""
        return run(self.checkout.words(command, *words), self.root / "output")

    def listed(self, names: Sequence[str]) -> Path:
        """Write an ``images.yaml``."""
        path = self.root / "images.yaml"
        path.write_text(json.dumps({"images": [f"{self.source.host}/{name}" for name in names]}))
        return path

    def size(self, name: str) -> int:
        """Return the bytes of a bundle's volumes."""
        return sum(path.stat().st_size for path in self.checkout.bundle(name).glob("*.bundle.*"))

    def layers(self, names: Sequence[str]) -> int:
        """Return the bytes of the gzip layers of some images, each once."""
        sizes = {}
        for name in names:
            for blob, data in self.made.layout.walk(self.made.image(name).root):
                if data is None and COMPRESSIBLE in blob.media_type:
                    sizes[blob.digest] = blob.size
        return sum(sizes.values())


def run(words: Sequence[str], output: Path) -> Run:
    """Run a program to its end, and measure it.

    Raises:
        ToolError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    sample = measure.run(words, output=output, env=EPOCH, watch=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(sample, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measured(root: Path, count: int) -> tuple[Number, ...]:
    """Measure everything; it takes some minutes.

    Args:
        root: an empty directory, which takes 5 GB.
        count: how often each is measured.
    """
    with progress.step("images"):
        made = images.make(root / "images")
    with registries.registry(root / "source", tls=False) as source:
        images.push_all(made, Registry(source.host, RegistryOptions(plain_http=True)))
        place = Place(root, made, source, Checkout.make(root / "checkout"))
        old = [one.name for one in made.images if one.spec.tag == "v1"]
        new = [*(name for name in old if not _is_replaced(made, name)), *_second(made)]
        every = [one.name for one in made.images]
        return (*_sizes(place, old, new, count), *_syncs(place, every, count))


def _second(made: Made) -> list[str]:
    return [one.name for one in made.images if one.spec.tag == "v2"]


def _is_replaced(made: Made, name: str) -> bool:
    return name.replace(":v1", ":v2") in _second(made)


# --- sizes, packing, expanding


def _sizes(place: Place, old: Sequence[str], new: Sequence[str], count: int) -> tuple[Number, ...]:
    words: list[str | Path] = ["--plain-http", "--images", place.listed(old)]
    with progress.step("pack plain"):
        place.invoke("bundle.pack", *words, "--name", "plain")
    lean, expanded = [], []
    for _ in range(count):
        with progress.step("pack lean"):
            shutil.rmtree(place.checkout.root / "build/bundles/.store/proofs", ignore_errors=True)
            lean.append(place.invoke("bundle.pack", *words, "--name", "lean", "--store", "lean"))
        with progress.step("expand lean"):
            shutil.rmtree(place.root / "expanded", ignore_errors=True)
            expanded.append(place.invoke("bundle.expand", "lean", "--to", place.root / "expanded"))
    sizes: dict[str, int] = {}
    for store, base in (("plain", "plain"), ("lean", "lean")):
        with progress.step(f"patch {store}"):
            words = ["--plain-http", "--images", place.listed(new), "--base", base, "--store", store]
            place.invoke("bundle.patch", *words, "--name", f"patch-{store}")
        sizes[store] = place.size(f"patch-{store}")
    layers = place.layers(old)
    blobs = sum(path.stat().st_size for path in (place.root / "expanded/blobs/sha256").iterdir())
    share = place.size("lean") / layers
    return (
        Number("gzip layers", "MB", (layers / MB,), remark=f"{len(old)} images of two architectures, each layer once"),
        Number("plain: volumes, by the sum of the blobs", "share", (place.size("plain") / blobs,), 1.01),
        Number("lean: volumes, by the gzip layers", "share", (share,), 0.60, f"{place.size('lean') / MB:.1f} MB"),
        Number("patch, plain", "MB", (sizes["plain"] / MB,), remark="all blobs that the base lacks"),
        Number("patch, lean, by the plain one", "share", (sizes["lean"] / sizes["plain"],), 0.30),
        *_rates("pack lean", lean, layers, PACKED_MB),
        *_rates("expand lean", expanded, layers, EXPANDED_MB),
    )


def _rates(what: str, runs: Sequence[Run], layers: int, wanted: int) -> tuple[Number, ...]:
    each = tuple(one.cpu / (layers / MB) * wanted for one in runs)
    peaks = tuple(one.sample.peak / MB for one in runs)
    return (
        Number(what, "s", tuple(one.sample.seconds for one in runs), remark=f"on {os.cpu_count()} cores"),
        Number(f"{what}: processor time for {wanted} MB of layers", "s", each, 1.0, "whole process, helper included"),
        Number(f"{what}: memory at its peak", "MB", peaks, MEMORY_MB, "the Python process"),
    )


# --- syncing, side by side


def _syncs(place: Place, names: Sequence[str], count: int) -> tuple[Number, ...]:
    with progress.step("pack plain, all versions"):
        place.invoke("bundle.pack", "--plain-http", "--images", place.listed(names), "--name", "all")
    with progress.step("skopeo: copy to files"):
        _skopeo(place, names, since=place.source.host)
    ours: list[list[float]] = [[], []]
    theirs: list[list[float]] = [[], []]
    for number in range(count):
        with progress.step("sync"), _empty(place, f"ours-{number}") as site:
            for seconds in ours:
                state = place.root / "state" / str(number)
                words: list[str | Path] = ["--to", site.host, "--plain-http", "--state", state]
                seconds.append(place.invoke("bundle.sync", "all", *words).sample.seconds)
        with progress.step("skopeo"), _empty(place, f"theirs-{number}") as site:
            for seconds in theirs:
                seconds.append(_skopeo(place, names, to=site.host))
    pairs = [[a / b for a, b in zip(mine, other, strict=True)] for mine, other in zip(ours, theirs, strict=True)]
    what = f"{len(names)} images of two architectures"
    return (
        Number("sync to an empty registry", "s", tuple(ours[0]), remark=f"{what}; the process from start to end"),
        Number(
            "skopeo copy --all, the same",
            "s",
            tuple(theirs[0]),
            remark="from its dir: on disk; no attachments",
        ),
        Number("sync by skopeo", "share", tuple(pairs[0]), 0.5),
        Number("sync with nothing to do", "s", tuple(ours[1])),
        Number("skopeo with nothing to do", "s", tuple(theirs[1])),
        Number("nothing to do, by skopeo", "share", tuple(pairs[1]), 0.1),
    )


@contextlib.contextmanager
def _empty(place: Place, name: str) -> Iterator[Served]:
    """Run a registry that nothing is in; what it took is removed at the end."""
    with registries.registry(place.root / name, tls=False) as served:
        yield served
    shutil.rmtree(place.root / name)


def _skopeo(place: Place, names: Sequence[str], *, to: str = "", since: str = "") -> float:
    """Copy every image with skopeo, and return the seconds: from the source to files, or from these to a registry."""
    copy = "skopeo --insecure-policy copy --quiet --all --preserve-digests"
    copy += " --src-tls-verify=false" if since else " --dest-tls-verify=false"
    lines = []
    for name in names:
        folder = place.root / "skopeo" / name.replace("/", "_").replace(":", "_")
        folder.mkdir(parents=True, exist_ok=True)
        here = f"dir:{folder}"
        lines.append(f"{copy} docker://{since}/{name} {here}" if since else f"{copy} {here} docker://{to}/{name}")
    script = place.root / "skopeo.sh"
    script.write_text("set -e\n" + "\n".join(lines) + "\n")
    return run(["bash", str(script)], place.root / "output").sample.seconds


def as_markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [
        "# Benchmark of bundles",
        f"Measured {report.date} by `{report.command}`; nothing below is asserted by a test.",
        "Images: real ones, cut from Debian packages for amd64 and arm64, with layers by buildah, podman, skopeo, umoci"
        " and Go's gzip (as docker has it). Registries: docker-registry 2.8.2 on loopback. Runs alternate.",
        numbers_table(report.numbers),
        "## Machine",
        table(("", ""), report.machine.items()),
    ]
    return "\n\n".join(parts) + "\n"
