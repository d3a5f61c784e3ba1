"""Patches and upgrades: bundles that carry only what the site lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import delta, release
from pipeline.bundle.assemble import Contents, Options, assemble, created
from pipeline.bundle.fetch import fetch
from pipeline.bundle.model import PATCH, UPGRADE, is_name
from pipeline.bundle.store import LayoutSource
from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.oci import Layout

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive
    from pipeline.bundle.images import ImageList
    from pipeline.oci import Registry

MB = 1e6


def patch(
    images: ImageList,
    name: str,
    bases: Sequence[Archive],
    registries: Callable[[str], Registry],
    work: Path,
    options: Options,
) -> Archive:
    """Make a bundle of the images that are new or changed.

    Args:
        images: what the site shall have; what it has already is not listed again.
        name: what the patch is called.
        bases: bundles that the site has. What one of them needs itself is taken to be there.
        registries: gives the registry of a host.
        work: directory of the store.
        options: how it is written; a lean one also uses content that layers of the bases have.

    Returns:
        The patch.

    Raises:
        InputError: nothing is new or changed, or the name or an image is not usable.
        NetworkError: something that is listed cannot be had.
        StorageError: something cannot be written.
        VerificationError: a base or the store is damaged.
    """
    return _make(PATCH, images, name, bases, registries, work, options)


def upgrade(
    images: ImageList,
    name: str,
    bases: Sequence[Archive],
    registries: Callable[[str], Registry],
    work: Path,
    options: Options,
) -> Archive:
    """Make a bundle that lists all the images of a new version, and carries what the bases lack.

    Arguments, result and errors are those of :func:`patch`; that nothing is new is no error.
    """
    return _make(UPGRADE, images, name, bases, registries, work, options)


def _make(
    kind: str,
    images: ImageList,
    name: str,
    bases: Sequence[Archive],
    registries: Callable[[str], Registry],
    work: Path,
    options: Options,
) -> Archive:
    when = created()
    check_name(name, bases, options)
    delta.base_names([base.bundle for base in bases])  # before anything is fetched
    store = Layout.create(work)
    provided = delta.provides(bases)
    with progress.step(f"fetch {len(images.images)} images"):
        found = fetch(images.images, registries, store, skip=lambda blob: blob.digest in provided)
    source = LayoutSource(store)
    chosen = delta.choose(kind, found, source, bases)
    head_files = release.signatures(images, chosen.images)  # of a payload only if it is listed here
    new, needed = (sum(one.size for one in some) / MB for some in (chosen.carried, chosen.base.digests))
    progress.log(f"{len(chosen.images)} of {len(found)} images, {new:.1f} MB; {needed:.1f} MB are at the site")
    contents = Contents(kind, name, when, chosen.images, chosen.carried, chosen.base, head_files)
    return assemble(contents, source, replace(options, work=options.work or work), bases=bases)


def check_name(name: str, others: Sequence[Archive], options: Options) -> None:
    """Refuse a name that is none, or that is the place of a bundle that this one is made from.

    Raises:
        InputError: it is so.
    """
    if not is_name(name):
        raise InputError(f"{name!r} is not a bundle's name", hint="write letters, digits, '.', '_' and '-'")
    for other in others:
        if name == other.bundle.name or (options.out / name).resolve() == other.path.resolve():
            raise InputError(f"{name} is the name of a bundle that it is made from", hint="give the new one another")
