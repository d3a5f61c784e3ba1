"""Which encoder made each layer of images or of a whole registry, and what ``lean`` would save there.

Only the beginning of each layer is read, and a sample of the contents. An image that cannot be read is listed, and the
others are looked at all the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import helper
from pipeline.bundle.codec import Codec
from pipeline.bundle.fetch import Hosts
from pipeline.bundle.identify import LONG, header_of, identify
from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.probe_read import Place, Sample
from pipeline.bundle.probe_report import Estimate, Gzip, Layer, Probe, Problem
from pipeline.bundle.proofs import GZIP
from pipeline.bundle.store import LayoutSource
from pipeline.bundle.trees import Choice, Manifests
from pipeline.core import progress
from pipeline.core.cache import cache_root
from pipeline.core.errors import DependencyError, InputError, NetworkError, VerificationError
from pipeline.oci import Descriptor, Layout, NotThereError, Reference

if TYPE_CHECKING:
    from pipeline.oci import Registry

SAMPLE = 128 * 1024**2  # compressed bytes of which it is tried what lean makes of them
PARTS, SMALLEST = 8, 1024**2  # of one layer no more than an eighth of the sample is taken, but 1 MiB
UNREADABLE = (InputError, NetworkError, VerificationError)  # of one image; a full disk, say, is of all
FIXED = 10  # bytes of a gzip header that is not longer; RFC 1952, 2.3
ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
ATTACHED = re.compile(r"sha(256|512)-[0-9a-f]{64,128}(\..*)?")  # tags of signatures and of the referrers' fallback
MB = 1e6


@dataclass
class _Found:
    """A layer, and the images that have it."""

    place: Place
    images: list[str] = field(default_factory=list)

    @property
    def blob(self) -> Descriptor:
        """What is said of it."""
        return self.place.blob


def probe_registry(host: str, registries: Callable[[str], Registry], work: Path, *, sample: int = SAMPLE) -> Probe:
    """Look at every tag of a registry; see :func:`probe`.

    Raises:
        NetworkError: the registry does not list what it has.
    """
    problems: list[Problem] = []
    found: list[Wanted] = []

    def tags(repo: str) -> tuple[str, ...] | Problem:
        try:
            return registry.tags(repo)
        except UNREADABLE as error:
            return Problem(f"{host}/{repo}", error.message)

    with Hosts(registries) as hosts, progress.step("repositories"):
        registry = hosts.registry(host)
        repositories = registry.catalog()
        listed = hosts.each(repositories, lambda _: host, tags, _teller("repositories", len(repositories)))
        for repo, names in zip(repositories, listed, strict=True):
            if isinstance(names, Problem):
                problems.append(names)
                continue
            images = [Reference(host, repo, tag) for tag in names if not ATTACHED.fullmatch(tag)]
            found += [Wanted(one, repo, (one.name,)) for one in images]
        progress.remark(f"{len(repositories)} repositories, {len(found)} images")
    return probe(ImageList(tuple(found)), registries, work, sample=sample, problems=problems)


def probe(
    images: ImageList,
    registries: Callable[[str], Registry],
    work: Path,
    *,
    sample: int = SAMPLE,
    problems: Iterable[Problem] = (),
) -> Probe:
    """Find out which encoder made each layer of images.

    Args:
        images: the images; of an index, the platforms that they name.
        registries: gives the registry of a host.
        work: directory of the store, where manifests are kept.
        sample: compressed bytes of which it is tried what lean makes of them; none if 0.
        problems: what could not be read so far.

    Raises:
        DependencyError: the helper cannot be built, without which encoders are not told apart.
        StorageError: the store cannot be written.
        ToolError: the helper failed.
    """
    codec = _codec()
    source = LayoutSource(Layout.create(work))
    faults = list(problems)
    with Hosts(registries) as hosts:
        with progress.step(f"{len(images.images)} images"):
            found, count = _find(hosts, images.images, source, faults)
        with progress.step(f"{len(found)} layers"):
            layers = _look(hosts, list(found.values()), codec, faults)
        with progress.step("sample"):
            estimate = _estimate(layers, found, sample, faults)
    return Probe(count, tuple(layers), tuple(faults), estimate)


def _codec() -> Codec:
    helper.build(cache_root())
    codec = Codec.find()
    if codec is None:
        raise DependencyError("the helper cannot be run here", hint="probe on amd64 or arm64")
    return codec


# --- which layers there are


def _find(
    hosts: Hosts, wanted: Sequence[Wanted], source: LayoutSource, faults: list[Problem]
) -> tuple[dict[str, _Found], int]:
    """Return every layer once, by its digest, and how many images could be read."""

    def read(one: Wanted) -> list[Place] | Problem:
        try:
            return _layers(one, Manifests(hosts.registry(one.place.host), one.place.repository, source), source)
        except UNREADABLE as error:
            return Problem(str(one.reference), error.message)

    found: dict[str, _Found] = {}
    count = 0
    listed = hosts.each(wanted, lambda one: one.place.host, read, _teller("images", len(wanted)))
    for one, layers in zip(wanted, listed, strict=True):
        if isinstance(layers, Problem):
            faults.append(layers)
            continue
        count += 1
        for layer in layers:
            found.setdefault(layer.blob.digest, _Found(layer)).images.append(str(one.reference))
    return found, count


def _layers(wanted: Wanted, manifests: Manifests, source: LayoutSource) -> list[Place]:
    top = manifests.find(wanted.place.name)
    if top is None:
        raise NotThereError("is not in the registry", hint="check the name")
    root = Descriptor(top.media_type, top.digest, top.size)
    layers: dict[str, Descriptor] = {}
    for manifest in manifests.tree(root, Choice(wanted.platforms)).manifests:
        blobs = manifests.links(manifest).blobs
        has_config = bool(blobs) and "config" in json.loads(manifests.read(manifest))
        layers |= {blob.digest: blob for blob in (blobs[1:] if has_config else blobs)}
    return [Place(manifests.registry, manifests.repo, layer, source) for layer in layers.values()]


# --- what made them


def _look(hosts: Hosts, found: Sequence[_Found], codec: Codec, faults: list[Problem]) -> list[Layer]:
    def look(one: _Found) -> Layer | Problem:
        try:
            return _layer(one, codec)
        except UNREADABLE as error:
            return Problem(f"{one.images[0]}: {one.blob.digest}", error.message)

    layers: list[Layer] = []
    for one in hosts.each(found, lambda one: one.place.registry.host, look, _teller("layers", len(found))):
        if isinstance(one, Problem):
            faults.append(one)
        else:
            layers.append(one)
    progress.remark(f"{sum(layer.size for layer in layers) / MB:.1f} MB")
    return layers


def _layer(found: _Found, codec: Codec) -> Layer:
    one, images = found.blob, tuple(found.images)
    if one.is_foreign:
        return Layer(one.digest, one.size, "not to be passed on", images)
    data = found.place.beginning(LONG)
    if not data.startswith(GZIP):
        kind = "zstd" if data.startswith(ZSTD) else "neither gzip nor zstd" if data else "empty"
        return Layer(one.digest, one.size, kind, images)
    encoder = identify(lambda: io.BytesIO(data), one.size, codec)
    if encoder is not None:
        return Layer(one.digest, one.size, str(encoder), images, encoder)
    fixed = data[:FIXED].ljust(FIXED, b"\0")
    header = (header_of(data) or data[:FIXED]).hex()
    unknown = Gzip(fixed[9], fixed[8], int.from_bytes(fixed[4:8], "little"), header)
    return Layer(one.digest, one.size, "gzip of an unknown encoder", images, unknown=unknown)


def _estimate(layers: Sequence[Layer], found: Mapping[str, _Found], limit: int, faults: list[Problem]) -> Estimate:
    """Try what lean makes of some layers: of whole repositories, as versions of an image have much in common."""
    able = [layer for layer in layers if layer.can_be_lean]
    sample = Sample()
    for layer in sorted(able, key=_spread):
        if sample.taken >= limit:
            break
        try:
            sample.add(found[layer.digest].place, min(limit - sample.taken, max(limit // PARTS, SMALLEST)))
        except UNREADABLE as error:
            faults.append(Problem(f"{layer.images[0]}: {layer.digest}", error.message))
        progress.log(f"sample: {sample.taken / MB:.1f} of at most {limit / MB:.1f} MB")
    sample.finish()
    all_able, everything = (sum(layer.size for layer in some) for some in (able, layers))
    return Estimate(sample.layers, sample.taken, sample.became, all_able, everything - all_able)


def _spread(layer: Layer) -> bytes:
    """Return a key that puts repositories in an order which has nothing to do with their names."""
    return hashlib.sha256(Reference.parse(layer.images[0]).repository.encode()).digest()


def _teller(what: str, count: int) -> Callable[[int], None]:
    return lambda done: progress.log(f"{done} of {count} {what}")
