"""Layers as chunks and recipes: which of a bundle's layers are stored lean, and what their base has to provide."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import helper
from pipeline.bundle.codec import Codec
from pipeline.bundle.lean_write import LeanWriter
from pipeline.bundle.model import LEAN, LeanInfo, Needed
from pipeline.bundle.proofs import Proofs, is_gzip
from pipeline.bundle.store import STORE
from pipeline.core import progress
from pipeline.core.cache import cache_root
from pipeline.core.errors import DependencyError
from pipeline.oci import Descriptor, links

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive
    from pipeline.bundle.assemble import Contents, Options
    from pipeline.bundle.model import BlobSource

MB = 1e6


@dataclass(frozen=True)
class LeanLayers:
    """What layers became.

    Attributes:
        digests: the layers that are stored lean.
        recipes: how each is made again, by its digest.
        frames: files with the chunks, in their order.
        needed: everything that the site must have: what the contents' base says, and layers that chunks come from.
        info: how it was made.
    """

    digests: frozenset[str]
    recipes: Mapping[str, bytes]
    frames: tuple[Path, ...]
    needed: tuple[Needed, ...]
    info: LeanInfo


def make(
    contents: Contents,
    source: BlobSource,
    layers: Sequence[Descriptor],
    bases: Sequence[Archive],
    options: Options,
    scratch: Path,
) -> LeanLayers | None:
    """Turn the gzip layers that can be made again into chunks and recipes.

    Args:
        contents: the bundle's contents.
        source: where the layers are.
        layers: the layers, in the order in which they go in.
        bases: bundles whose layers provide chunks.
        options: how many layers are looked at at once, and where it is kept which encoder made one.
        scratch: directory for what is made.

    Returns:
        What they became; None if no layer can be stored so.

    Raises:
        ToolError: the helper failed.
        StorageError: the scratch directory cannot be written.
    """
    codec = _codec()
    if codec is None:
        return None
    proofs = Proofs((options.work or options.out / STORE) / "proofs", codec)
    gzipped = [layer for layer in layers if is_gzip(source, layer)]
    with progress.step("lean"):
        writer = LeanWriter(scratch, codec, threads=options.threads)
        for archive in bases:
            writer.seed(archive, _seeds(archive, contents, bases))
        added = _add(writer, source, gzipped, proofs, options.threads)
        result = writer.finish()
    if not added:
        return None
    needed = _needed(contents.base.digests, result.sources, bases)
    return LeanLayers(frozenset(added), result.recipes, tuple(result.frames), needed, result.info)


def _codec() -> Codec | None:
    """Return the helper, built if that is possible and was not done yet."""
    try:
        helper.build(cache_root())
    except DependencyError as error:
        progress.note(f"every layer is stored as it is: {error.message}; {error.hint}")
        return None
    return Codec.find()


def _add(
    writer: LeanWriter, source: BlobSource, layers: Sequence[Descriptor], proofs: Proofs, threads: int
) -> set[str]:
    added: set[str] = set()
    total, done = sum(layer.size for layer in layers), 0
    for number, (layer, encoder) in enumerate(zip(layers, proofs.each(source, layers, threads), strict=True), 1):
        open_blob = functools.partial(source.open_blob, layer.digest)
        if encoder is not None and writer.add(layer.digest, layer.size, encoder, open_blob):
            added.add(layer.digest)
        done += layer.size
        progress.log(f"layer {number} of {len(layers)}, {done / MB:.1f} of {total / MB:.1f} MB")
    progress.remark(f"{len(added)} of {len(layers)} gzip layers")
    return added


# --- what a base provides


def _seeds(archive: Archive, contents: Contents, bases: Sequence[Archive]) -> tuple[str, ...]:
    """Return the gzip layers of a base that may be like the new ones.

    They are those of the repositories that the new images have; of all repositories if an image has a new one.
    """
    known = {image.repository for base in bases for image in base.bundle.images}
    wanted = {image.repository for image in contents.images}
    layers: dict[str, Descriptor] = {}
    for image in archive.bundle.images:
        if image.repository in wanted or not wanted <= known:
            layers |= {layer.digest: layer for layer in _layers(archive, image.manifests)}
    stored = {blob.digest: blob.stored for blob in archive.bundle.blobs}
    return tuple(
        digest
        for digest, layer in layers.items()
        if digest in stored and (archive.can_restore(digest) if stored[digest] == LEAN else is_gzip(archive, layer))
    )


def _layers(archive: Archive, manifests: Sequence[str]) -> list[Descriptor]:
    found: list[Descriptor] = []
    for digest in manifests:
        found += links(archive.read(digest), "a manifest").blobs
    return found


def _needed(base: Sequence[Needed], sources: Sequence[str], bases: Sequence[Archive]) -> tuple[Needed, ...]:
    """Return what the site must have: what is needed anyway, and the layers that chunks come from."""
    if not sources:
        return tuple(base)
    from pipeline.bundle.delta import provides  # only a patch needs it

    provided = provides(bases)
    needed = {one.digest: one for one in base}
    for digest in sources:
        size, repositories = provided[digest]
        needed.setdefault(digest, Needed(digest, size, tuple(repositories)))
    return tuple(needed[digest] for digest in sorted(needed))
