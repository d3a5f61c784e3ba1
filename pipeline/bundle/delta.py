"""What the site has already, and what a patch or an upgrade therefore leaves out. Nothing is asked: bundles tell it.

A base may be a patch itself: it provides what it carries, and what it needs is there too, or it could not be synced.
Several bases provide together what each provides; the order in which they are given does not matter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.bundle.assemble import everything
from pipeline.bundle.model import PATCH, Base, Bundle, BundleName, Image, Needed
from pipeline.core.errors import InputError, VerificationError
from pipeline.oci import links

if TYPE_CHECKING:
    from pipeline.bundle.model import BlobSource
    from pipeline.oci import Descriptor

Provided = Mapping[str, tuple[int, tuple[str, ...]]]


class Known(Protocol):
    """A bundle whose manifests can be read, such as an :class:`Archive`."""

    @property
    def bundle(self) -> Bundle:
        """What ``bundle.json`` says."""

    def read(self, digest: str) -> bytes:
        """Return a manifest that it carries, checked."""


@dataclass(frozen=True)
class Sorted:
    """Images, compared with bases.

    Attributes:
        new: those that no base has under any of their names.
        changed: those of which a name means something else, or to which something was added.
        unchanged: those that the site has whole.
    """

    new: tuple[Image, ...]
    changed: tuple[Image, ...]
    unchanged: tuple[Image, ...]


@dataclass(frozen=True)
class Chosen:
    """What a patch or an upgrade is made of.

    Attributes:
        images: the images that it lists.
        carried: every manifest, configuration and layer that it carries.
        base: what the site must have.
    """

    images: tuple[Image, ...]
    carried: tuple[Descriptor, ...]
    base: Base


def provides(bases: Iterable[Known]) -> Provided:
    """Return what bundles have brought to a site.

    Args:
        bases: the bundles.

    Returns:
        Size in bytes and repositories, sorted, of every blob, by its digest.

    Raises:
        VerificationError: a manifest is damaged.
    """
    sizes: dict[str, int] = {}
    places: dict[str, set[str]] = defaultdict(set)
    for base in bases:
        bundle = base.bundle
        own = {blob.digest: blob.size for blob in bundle.blobs} | {one.digest: one.size for one in bundle.base.digests}
        sizes |= own
        for needed in bundle.base.digests:
            places[needed.digest].update(needed.repositories)
        for image in bundle.images:
            for digest in image.manifests:
                named = [digest, *(blob.digest for blob in links(base.read(digest), "manifest").blobs)]
                for one in named:
                    if one in own:  # a layer that may not be passed on is in nobody's keeping
                        places[one].add(image.repository)
    return {digest: (size, tuple(sorted(places[digest]))) for digest, size in sizes.items() if places[digest]}


@dataclass
class _Place:
    """What bundles have put into a repository of the site.

    Attributes:
        tags: what each tag stands for, by the identity of the bundle that says so.
        manifests: digests of the manifests there.
    """

    tags: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    manifests: set[str] = field(default_factory=set)

    def digests(self, tag: str, under: Mapping[str, frozenset[str]]) -> set[str]:
        """Return what a tag may stand for: a bundle tells it better than those that it was put on.

        Args:
            tag: the tag.
            under: the identities of the bundles that each bundle was put on.
        """
        said = self.tags.get(tag, {})
        outdated = {identity for bundle in said for identity in under[bundle]}
        return {digest for bundle, digest in said.items() if bundle not in outdated}


def sort_out(images: Iterable[Image], bases: Sequence[Bundle]) -> Sorted:
    """Compare images with what bundles have brought.

    A tag may be either of what two bases say, if none of them was put on the other: an image with it is changed.

    Args:
        images: the images.
        bases: the bundles.
    """
    under = {base.id: frozenset(one.id for one in base.base.bundles) for base in bases}
    site: dict[str, _Place] = defaultdict(_Place)
    for base in bases:
        identity = base.id
        for image in base.images:
            place = site[image.repository]
            place.manifests.update(image.manifests)
            place.tags.update({tag: place.tags[tag] | {identity: digest} for tag, digest in names_of(image)})
    new, changed, unchanged = [], [], []
    for image in images:
        place = site[image.repository]
        is_whole = place.manifests.issuperset((image.root.digest, *image.manifests))
        if is_whole and all(place.digests(tag, under) == {digest} for tag, digest in names_of(image)):
            unchanged.append(image)
        elif image.root.digest in place.manifests or any(tag in place.tags for tag in image.tags):
            changed.append(image)
        else:
            new.append(image)
    return Sorted(tuple(new), tuple(changed), tuple(unchanged))


def names_of(image: Image) -> tuple[tuple[str, str], ...]:
    """Return an image's tags, and those of its attachments, with the digests that they stand for."""
    own = [(tag, image.root.digest) for tag in image.tags]
    return (*own, *((one.tag, one.root.digest) for one in image.attachments if one.tag is not None))


def changed(images: Sequence[Image], bases: Sequence[Bundle]) -> tuple[Image, ...]:
    """Return the images that a site with some bundles does not have whole, in their order."""
    unchanged = sort_out(images, bases).unchanged
    return tuple(image for image in images if image not in unchanged)


def choose(kind: str, images: Sequence[Image], source: BlobSource, bases: Sequence[Known]) -> Chosen:
    """Say what a patch or an upgrade lists, carries and needs.

    All manifests of what it lists are carried; of the rest, what no base provides.

    Args:
        kind: ``patch`` lists images that are new or changed, ``upgrade`` all.
        images: the images that the site shall have.
        source: where their manifests are.
        bases: the bundles that it has.

    Raises:
        InputError: there is no base, or nothing to patch.
        VerificationError: a manifest is missing or damaged.
    """
    names = base_names([base.bundle for base in bases])
    listed = changed(images, [base.bundle for base in bases]) if kind == PATCH else tuple(images)
    if not listed:
        raise InputError(
            f"nothing to patch: {', '.join(one.name for one in names)} brought all {len(images)} images as they are",
            hint="check the list of images, and that what changed was pushed to the registry",
        )
    provided = provides(bases)
    manifests = {digest for image in listed for digest in image.manifests}
    all_of_it = everything(listed, source)
    needed = {one.digest for one in all_of_it if one.digest in provided and one.digest not in manifests}
    return Chosen(
        images=listed,
        carried=tuple(one for one in all_of_it if one.digest not in needed),
        base=Base(names, tuple(Needed(digest, *provided[digest]) for digest in sorted(needed))),
    )


def base_names(bundles: Sequence[Bundle]) -> tuple[BundleName, ...]:
    """Return the names of bases, after those that they need themselves: in the order in which they are synced.

    Raises:
        InputError: there is none.
    """
    if not bundles:
        raise InputError("a patch needs a base", hint="name the bundle that the site has: --base v1.2.0")
    given = {bundle.id: BundleName(bundle.id, bundle.name) for bundle in bundles}
    under = {one.id: one for bundle in bundles for one in bundle.base.bundles}
    return tuple(one for one in (under | given).values() if one.id not in given) + tuple(given.values())


def lacking(archives: Sequence[Known]) -> tuple[Needed, ...]:
    """Return what bundles need and none before them carries: what has to be there before the first is synced.

    Args:
        archives: the bundles, in the order in which they are synced.
    """
    carried: set[str] = set()
    missing: dict[str, Needed] = {}
    for archive in archives:
        missing |= {one.digest: one for one in archive.bundle.base.digests if one.digest not in carried}
        carried.update(blob.digest for blob in archive.bundle.blobs)
    return tuple(missing[digest] for digest in sorted(missing))


def check_order(archives: Sequence[Known]) -> None:
    """Refuse a row of bundles of which one needs what none before it brings.

    Raises:
        VerificationError: something is missing; it is named, and what brought it.
    """
    missing = lacking(archives)
    if missing:
        given = {archive.bundle.id for archive in archives}
        names = {one.name: None for archive in archives for one in archive.bundle.base.bundles if one.id not in given}
        size = sum(one.size for one in missing) / 1e6
        raise VerificationError(
            f"{len(missing)} blobs of {size:.1f} MB are in none of these bundles before they are needed:\n  "
            + "\n  ".join(one.digest for one in missing),
            hint=f"name their bases too, the full bundle first, then in the order in which they were made: "
            f"{', '.join(names) or 'all were given'}",
        )
