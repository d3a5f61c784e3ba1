"""A full bundle and its patches become one full bundle: for a new site, or as one base instead of several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Contents, Options, assemble, created, everything
from pipeline.bundle.delta import check_order, names_of
from pipeline.bundle.model import FULL, UPGRADE, BlobSource, Bundle, Image
from pipeline.bundle.patch import check_name
from pipeline.bundle.trees import says_platform
from pipeline.core import progress
from pipeline.core.errors import InputError, VerificationError
from pipeline.oci import links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.oci import Descriptor

SIGNATURES = "signatures/"


class Union(BlobSource):
    """Several bundles as one source of blobs: each comes from the first that carries it.

    A lean layer is made from layers of bundles before its own, so looking for these ends.

    Args:
        archives: the bundles, bases first; may be filled later.
    """

    def __init__(self, archives: Iterable[Archive] = ()) -> None:
        self.archives = list(archives)

    def has(self, digest: str) -> bool:
        """Return whether one of them carries a blob."""
        return any(archive.has(digest) for archive in self.archives)

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a blob at an offset in bytes.

        Raises:
            VerificationError: none carries it.
        """
        for archive in self.archives:
            if archive.has(digest):
                return archive.open_blob(digest, offset)
        names = ", ".join(archive.bundle.name for archive in self.archives)
        raise VerificationError(f"{digest}: is in none of {names}", hint="name their bases too")


def compose(archives: Sequence[Archive], name: str, options: Options) -> Archive:
    """Make one full bundle of a full one and what builds on it.

    Args:
        archives: the full bundle, then patches and upgrades in the order in which a site syncs them.
        name: what the new one is called.
        options: how it is written.

    Returns:
        The new bundle, with the images that a site has after all of them: an upgrade replaces the set, a patch what
        has the same repository and tag.

    Raises:
        InputError: the first one is not full, or the name is not usable.
        VerificationError: something of them is missing or damaged.
        StorageError: something cannot be written.
    """
    when = created()
    check_name(name, archives, options)
    if not archives or archives[0].bundle.kind != FULL:
        first = f"{archives[0].bundle.name} is of kind {archives[0].bundle.kind}" if archives else "there is none"
        raise InputError(f"the first bundle has to be a full one; {first}", hint="name the full bundle first")
    check_order(archives)
    with _together(archives) as source:
        images = settled(merged([archive.bundle for archive in archives]), source)
        carried = everything(images, source)
        _check_complete(images, [one.digest for one in carried], source)
        contents = Contents(FULL, name, when, images, carried, head_files=_signatures(archives))
        progress.log(f"{len(images)} images, {len(carried)} blobs of {sum(one.size for one in carried) / 1e6:.1f} MB")
        return assemble(contents, source, options)


@contextlib.contextmanager
def _together(archives: Sequence[Archive]) -> Iterator[Union]:
    """Open bundles once more, so that each finds in the others what its lean layers are made from."""
    union = Union()
    with contextlib.ExitStack() as undo:
        for archive in archives:
            again = undo.enter_context(contextlib.closing(Archive.open(archive.path, base=union)))
            if again.id != archive.id:
                raise VerificationError(f"{archive.path} has just been replaced", hint="run the same command again")
            union.archives.append(again)
        yield union


# --- which images


def merged(bundles: Sequence[Bundle]) -> tuple[Image, ...]:
    """Return the images that a site has after some bundles: an upgrade leaves only its own.

    Args:
        bundles: in the order in which they are synced.
    """
    images: list[Image] = []
    for bundle in bundles:
        if bundle.kind in (FULL, UPGRADE):
            images = list(bundle.images)
        else:
            for image in bundle.images:
                images = _with(images, image)
    return tuple(images)


def _with(images: Sequence[Image], new: Image) -> list[Image]:
    """Return images with another one, in the place of the one that it replaces; else at the end."""
    found: list[Image] = []
    is_placed = False
    for old in images:
        left = _without_names(old, new)
        if left is None and not is_placed:
            found.append(new)
            is_placed = True
        elif left is not None:
            found.append(left)
    return found if is_placed else [*found, new]


def _without_names(old: Image, new: Image) -> Image | None:
    """Return an older image without the tags that are a newer one's; None if it has none of its own left."""
    if old.repository != new.repository:
        return old
    tags = tuple(tag for tag in old.tags if tag not in new.tags)
    if not tags and (old.tags or old.root.digest == new.root.digest):
        return None
    taken = dict(names_of(new))
    kept = tuple(one for one in old.attachments if one.tag is None or taken.get(one.tag) in (None, one.root.digest))
    return replace(old, tags=tags, attachments=kept)


def settled(images: Sequence[Image], source: BlobSource) -> tuple[Image, ...]:
    """Return images whose lists of manifests are right for a bundle that has all of them.

    Attachments may have been replaced; and what one image has left out another one may bring: then it has it too.

    Args:
        images: as :func:`merged` returns them.
        source: where their manifests are.
    """
    brought = frozenset(digest for image in images for digest in image.manifests)
    return tuple(_settled(image, brought, source) for image in images)


def _settled(image: Image, brought: frozenset[str], source: BlobSource) -> Image:
    more = brought.intersection(image.left_out)
    found: dict[str, Descriptor] = {}
    waiting = list(image.roots)
    while waiting:
        one = waiting.pop(0)
        if one.digest not in found and (one.digest in image.manifests or one.digest in more):
            found[one.digest] = one
            with source.open_blob(one.digest) as file:
                waiting += links(file.read(), one.media_type).manifests
    children = [found[digest] for digest in image.left_out if digest in found]
    platforms = dict.fromkeys((*image.platforms, *(one.platform for one in children if says_platform(one))))
    return replace(
        image,
        manifests=tuple(digest for digest in (*image.manifests, *sorted(more)) if digest in found),
        left_out=tuple(digest for digest in image.left_out if digest not in more),
        platforms=tuple(one for one in platforms if one is not None),
    )


def _check_complete(images: Sequence[Image], carried: Sequence[str], source: Union) -> None:
    """Refuse what would not be whole: every manifest is reached, every blob is there."""
    missing = {digest for image in images for digest in image.manifests} - set(carried)
    missing |= {digest for digest in carried if not source.has(digest)}
    if missing:
        raise VerificationError(
            f"{len(missing)} blobs of the images are in none of the bundles:\n  " + "\n  ".join(sorted(missing)),
            hint="a bundle is damaged, or a patch between them was left out",
        )


def _signatures(archives: Sequence[Archive]) -> dict[str, bytes]:
    """Return the GPG signatures that are kept beside the images of all bundles."""
    return {path: data for archive in archives for path, data in archive.head.items() if path.startswith(SIGNATURES)}
