"""How large a bundle will be and how long it will take, from manifests alone: no layer is fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import tar
from pipeline.bundle.assemble import created, everything
from pipeline.bundle.delta import choose, sort_out
from pipeline.bundle.fetch import fetch
from pipeline.bundle.forecast_report import Delta, Forecast, Row, Sizes
from pipeline.bundle.model import FULL, PATCH, PLAIN, UPGRADE, Blob, Bundle, Volume
from pipeline.bundle.rates import Rates
from pipeline.bundle.store import LayoutSource
from pipeline.bundle.write import index
from pipeline.core import progress
from pipeline.oci import Layout, canonical, links

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive
    from pipeline.bundle.images import ImageList
    from pipeline.bundle.model import Image
    from pipeline.oci import Descriptor, Registry

ATTACHED = "attached"  # in place of a platform: signatures and documents
ANY = "any"
GZIP = "gzip"
NAME = "v1.0.0"  # stands for one that is not known yet
LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})


def forecast(
    images: ImageList,
    registries: Callable[[str], Registry],
    work: Path,
    bases: Sequence[Archive] = (),
    *,
    volume_size: int | None = None,
    rates: Rates | None = None,
) -> Forecast:
    """Say how large a bundle of some images will be, and how long it takes.

    Args:
        images: the images.
        registries: gives the registry of a host.
        work: directory of the store, where manifests are kept for packing.
        bases: bundles that the site has: patch and upgrade are forecast too.
        volume_size: bytes of a volume; None for one volume.
        rates: how fast things go.

    Raises:
        InputError: an image is not usable.
        NetworkError: a manifest cannot be had.
        StorageError: the store cannot be written.
    """
    source = LayoutSource(Layout.create(work))
    with progress.step(f"manifests of {len(images.images)} images"):
        found = fetch(images.images, registries, source.layout, skip=lambda _: True)
    blobs = everything(found, source)
    missing = [one for one in blobs if not source.layout.blob_path(one.digest).is_file()]
    return Forecast(
        rows=_rows(found, source),
        full=_sizes(Bundle(FULL, NAME, created(), PLAIN, found, ()), blobs, volume_size),
        to_fetch=sum(one.size for one in missing),
        volume_size=volume_size,
        deltas=tuple(_delta(kind, found, source, bases, volume_size) for kind in (PATCH, UPGRADE) if bases),
        rates=rates or Rates(),
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


def _sizes(bundle: Bundle, carried: Sequence[Descriptor], volume_size: int | None) -> Sizes:
    """Return the sizes of a bundle of which the blobs and volumes are not listed yet."""
    body = tar_size(carried)
    count = -(-body // volume_size) if volume_size else 1
    volumes = tuple(Volume(f"{NAME}.bundle.{number:03d}", body // count, "0" * 64) for number in range(1, count + 1))
    blobs = tuple(Blob(one.digest, one.size, PLAIN) for one in carried)
    return Sizes(
        blobs=len(carried),
        total=sum(one.size for one in carried),
        gzip=sum(one.size for one in carried if GZIP in one.media_type),
        head=_head(replace(bundle, blobs=blobs, volumes=volumes)),
        body=body,
        volumes=count + 1,
    )


def tar_size(carried: Sequence[Descriptor]) -> int:
    """Return the bytes of the volumes after the head of a plain bundle: contents, headers, padding, the end."""
    members = sum(
        len(tar.header(tar.blob_path(one.digest), one.size)) + one.size + len(tar.padding(one.size)) for one in carried
    )
    return members + len(tar.TRAILER)


def _head(bundle: Bundle) -> int:
    """Return the bytes of the head; signatures, and the list of its own files, are not counted."""
    files = (bundle.to_bytes(), LAYOUT, index(bundle))
    return sum(tar.BLOCK + len(data) + len(tar.padding(len(data))) for data in files)


def _delta(
    kind: str, images: Sequence[Image], source: LayoutSource, bases: Sequence[Archive], volume_size: int | None
) -> Delta:
    compared = sort_out(images, [base.bundle for base in bases])
    counts = len(compared.new), len(compared.changed), len(compared.unchanged)
    if kind == PATCH and len(compared.unchanged) == len(images):
        return Delta(kind, None, 0, counts)
    chosen = choose(kind, images, source, bases)
    bundle = Bundle(kind, NAME, created(), PLAIN, chosen.images, (), chosen.base)
    needed = sum(one.size for one in chosen.base.digests)
    return Delta(kind, _sizes(bundle, chosen.carried, volume_size), needed, counts)
