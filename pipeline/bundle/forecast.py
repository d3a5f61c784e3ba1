"""How large a bundle will be and how long it will take, from manifests alone: no layer is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import tar
from pipeline.bundle.assemble import created, everything
from pipeline.bundle.delta import choose, sort_out
from pipeline.bundle.fetch import fetch
from pipeline.bundle.forecast_report import Delta, Forecast, Row, Sizes
from pipeline.bundle.model import FULL, PATCH, PLAIN, UPGRADE, Base, Blob, Bundle, Volume
from pipeline.bundle.rates import Rates
from pipeline.bundle.store import LayoutSource
from pipeline.bundle.write import index
from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.oci import Layout, canonical, links

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive
    from pipeline.bundle.images import ImageList
    from pipeline.bundle.model import Image
    from pipeline.oci import Descriptor, Registry

ATTACHED = "attached"  # in place of a platform: signatures and documents
ANY = "any"
GZIP = "gzip"
NO_BASE = Base()
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})


@dataclass(frozen=True)
class Question:
    """What a forecast is asked for.

    Attributes:
        rates: how fast things go.
        volume_size: bytes of a volume; None for one volume.
        bases: bundles that the site has.
    """

    rates: Rates = field(default_factory=Rates)
    volume_size: int | None = None
    bases: tuple[Archive, ...] = ()


def forecast(
    images: ImageList, registries: Callable[[str], Registry], work: Path, question: Question | None = None
) -> Forecast:
    """Say how large a bundle of some images will be, and how long it takes.

    Args:
        images: the images.
        registries: gives the registry of a host.
        work: directory of the store, where manifests are kept for packing.
        question: how fast things go, and what the site has.

    Raises:
        InputError: an image is not usable.
        NetworkError: a manifest cannot be had.
        StorageError: the store cannot be written.
    """
    asked = question or Question()
    source = LayoutSource(Layout.create(work))
    with progress.step(f"manifests of {len(images.images)} images"):
        found = fetch(images.images, registries, source.layout, skip=lambda _: True)
    blobs = everything(found, source)
    manifests = {digest for image in found for digest in image.manifests}
    missing = [
        one for one in blobs if one.digest not in manifests and not source.layout.blob_path(one.digest).is_file()
    ]
    return Forecast(
        rows=_rows(found, source),
        full=_sizes(FULL, found, blobs, asked),
        to_fetch=sum(one.size for one in missing),
        volume_size=asked.volume_size,
        deltas=tuple(_delta(kind, found, source, asked) for kind in (PATCH, UPGRADE) if asked.bases),
        rates=asked.rates,
    )


# --- images


def _rows(images: Sequence[Image], source: LayoutSource) -> tuple[Row, ...]:
    """Return a row for each image and platform; what was counted in an earlier one is not new."""
    rows: list[Row] = []
    counted: set[str] = set()
    for image in images:
        attached = [one.root for one in image.attachments]
        parts = [*_parts(image, source), *([(ATTACHED, attached)] if attached else [])]
        for number, (platform, roots) in enumerate(parts):
            blobs = _below(roots, image, source)
            if number == 0:
                blobs[image.root.digest] = image.root
            fresh = {digest: one for digest, one in blobs.items() if digest not in counted}
            counted |= fresh.keys()
            sizes = [sum(one.size for one in some.values()) for some in (blobs, fresh)]
            rows.append(Row(image.source, platform, len(blobs), *sizes))
    return tuple(rows)


def _parts(image: Image, source: LayoutSource) -> list[tuple[str, list[Descriptor]]]:
    """Return the platforms of an image with what makes them up; the index itself counts with the first."""
    children = links(source.layout.read(image.root.digest), image.root.media_type).manifests
    if not children:
        return [(", ".join(map(str, image.platforms)) or ANY, [image.root])]
    parts: dict[str, list[Descriptor]] = {}
    for child in children:
        if child.digest in image.manifests:
            parts.setdefault(str(child.platform or ANY), []).append(child)
    return list(parts.items())


def _below(roots: Sequence[Descriptor], image: Image, source: LayoutSource) -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if one.digest in found or one.digest not in image.manifests:
            continue
        found[one.digest] = one
        inner = links(source.layout.read(one.digest), one.media_type)
        waiting += inner.manifests
        found |= {blob.digest: blob for blob in inner.blobs if not blob.is_foreign}
    return found


# --- sizes


def _sizes(
    kind: str, images: Sequence[Image], carried: Sequence[Descriptor], asked: Question, base: Base = NO_BASE
) -> Sizes:
    gzip = sum(one.size for one in carried if GZIP in one.media_type)
    total = sum(one.size for one in carried)
    body = tar_size(carried)
    volumes = 1 + _volumes(body, asked.volume_size)
    return Sizes(len(carried), total, gzip, _head(kind, images, carried, volumes, base), body, volumes)


def tar_size(carried: Sequence[Descriptor]) -> int:
    """Return the bytes of the volumes after the head of a plain bundle: contents, headers, padding, the end."""
    members = sum(
        len(tar.header(tar.blob_path(one.digest), one.size)) + one.size + len(tar.padding(one.size)) for one in carried
    )
    return members + len(tar.TRAILER)


def _volumes(size: int, volume_size: int | None) -> int:
    return -(-size // volume_size) if volume_size else 1


def _head(kind: str, images: Sequence[Image], carried: Sequence[Descriptor], volumes: int, base: Base) -> int:
    """Return the bytes of the head: it is made with names as long as the real ones; signatures are not counted."""
    blobs = tuple(Blob(one.digest, one.size, PLAIN) for one in carried)
    bundle = Bundle(kind, "v1.0.0", created(), PLAIN, tuple(images), blobs, base)
    named = [Volume(f"v1.0.0.bundle.{number:03d}", 1, "0" * 64) for number in range(1, volumes)]
    files = (bundle.with_volumes(named, ()).to_bytes(), LAYOUT, index(bundle))
    return sum(tar.BLOCK + len(data) + len(tar.padding(len(data))) for data in files)


def _delta(kind: str, images: Sequence[Image], source: LayoutSource, asked: Question) -> Delta:
    bundles = [base.bundle for base in asked.bases]
    compared = sort_out(images, bundles)
    counts = len(compared.new), len(compared.changed), len(compared.unchanged)
    try:
        chosen = choose(kind, images, source, asked.bases)
    except InputError:
        if len(compared.unchanged) != len(images):
            raise
        return Delta(kind, None, 0, counts)
    needed = sum(one.size for one in chosen.base.digests)
    return Delta(kind, _sizes(kind, chosen.images, chosen.carried, asked, chosen.base), needed, counts)
