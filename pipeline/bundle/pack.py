"""A full bundle: images from their registries, and everything that belongs to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import release
from pipeline.bundle.assemble import Contents, Options, assemble, created, everything
from pipeline.bundle.fetch import fetch
from pipeline.bundle.model import is_name
from pipeline.bundle.store import LayoutSource
from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.oci import Layout

if TYPE_CHECKING:
    from pipeline.bundle.archive import Archive
    from pipeline.bundle.images import ImageList
    from pipeline.oci import Registry

__all__ = ["LayoutSource", "pack"]


def pack(images: ImageList, name: str, registries: Callable[[str], Registry], work: Path, options: Options) -> Archive:
    """Make a full bundle.

    Args:
        images: what it shall hold.
        name: what it is called.
        registries: gives the registry of a host.
        work: directory of the store, which stays: the next bundle fetches only what is new.
        options: how it is written.

    Returns:
        The bundle.

    Raises:
        InputError: the name or an image is not usable.
        NetworkError: something that is listed cannot be had.
        StorageError: something cannot be written.
        VerificationError: the store is damaged; the next call fetches what is damaged again.
    """
    when = created()  # what is wrong with it is said before anything is fetched
    if not is_name(name):
        raise InputError(f"{name!r} is not a bundle's name", hint="write letters, digits, '.', '_' and '-'")
    store = Layout.create(work)
    with progress.step(f"fetch {len(images.images)} images"):
        found = fetch(images.images, registries, store)
        head_files = release.signatures(images, found)
    source = LayoutSource(store)
    contents = Contents("full", name, when, found, everything(found, source), head_files=head_files)
    return assemble(contents, source, replace(options, work=options.work or work))
