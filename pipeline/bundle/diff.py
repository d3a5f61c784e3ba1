"""What is different in two bundles."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.bundle.archive import Archive
from pipeline.bundle.listing import table
from pipeline.bundle.model import PATCH, Bundle, Image
from pipeline.core.errors import InputError

MB = 1e6
SHORT = 19  # characters of a digest that tell it from others for a person
ADDED, REMOVED, CHANGED = "added", "removed", "changed"
NONE = "-"


@dataclass(frozen=True)
class ImageChange:
    """An image that is not in both bundles as it is.

    Attributes:
        name: its repository and tag, or repository and digest.
        what: ``added``, ``removed`` or ``changed``.
        before: digest of its root in the first bundle; None if it is not there.
        after: the same of the second.
        platforms: what it runs on: in the second bundle, or in the first if it was removed.
        platforms_added: those that only the second bundle has.
        platforms_removed: those that only the first bundle has.
        attachments_added: digests of signatures and documents that only the second bundle has.
        attachments_removed: those that only the first bundle has.
    """

    name: str
    what: str
    before: str | None
    after: str | None
    platforms: tuple[str, ...]
    platforms_added: tuple[str, ...] = ()
    platforms_removed: tuple[str, ...] = ()
    attachments_added: tuple[str, ...] = ()
    attachments_removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blobs:
    """Some blobs.

    Attributes:
        count: how many.
        size: their bytes, as registries have them.
    """

    count: int
    size: int


@dataclass(frozen=True)
class Diff:
    """What is different.

    Attributes:
        names: of the bundles.
        ids: of the bundles.
        images: those that differ, by name.
        same: how many images are in both as they are.
        shared: blobs of both, whether carried or expected at the site.
        new: blobs of the second bundle only.
        gone: blobs of the first bundle only; a patch leaves them where they are.
    """

    names: tuple[str, str]
    ids: tuple[str, str]
    images: tuple[ImageChange, ...]
    same: int
    shared: Blobs
    new: Blobs
    gone: Blobs

    def text(self) -> str:
        """Return it for the user."""
        return "\n".join(self._lines())

    def to_json(self) -> str:
        """Return it as JSON; sizes are bytes."""
        return json.dumps(asdict(self), indent=2)

    def _lines(self) -> Iterator[str]:
        for name, identity in zip(self.names, self.ids, strict=True):
            yield f"{name}  {identity}"
        if self.images:
            yield ""
            yield from table([("", "image", "platforms", "before", "after", "attached"), *map(_row, self.images)])
        counts = {what: sum(1 for one in self.images if one.what == what) for what in (ADDED, REMOVED, CHANGED)}
        yield ""
        yield f"images: {', '.join(f'{count} {what}' for what, count in counts.items())}, {self.same} the same"
        for what, blobs in (("in both", self.shared), ("new", self.new), ("gone", self.gone)):
            yield f"blobs {what + ':':<8} {blobs.count:6d} {blobs.size / MB:12.1f} MB"


def diff(before: Bundle, after: Bundle) -> Diff:
    """Compare two bundles by what they say of themselves.

    Args:
        before: the first.
        after: the second; if it is a patch, images that it does not list are no difference.
    """
    old, new = _named(before), _named(after)
    changes = list(_changes(old, new, is_patch=after.kind == PATCH))
    held_before, held_after = _held(before), _held(after)
    return Diff(
        names=(before.name, after.name),
        ids=(before.id, after.id),
        images=tuple(sorted(changes, key=lambda one: one.name)),
        same=len(old.keys() & new.keys()) - sum(1 for one in changes if one.what == CHANGED),
        shared=_blobs(held_after, held_after.keys() & held_before.keys()),
        new=_blobs(held_after, held_after.keys() - held_before.keys()),
        gone=_blobs(held_before, held_before.keys() - held_after.keys()),
    )


def load(path: Path) -> Bundle:
    """Return what a bundle says of itself.

    Args:
        path: its directory, one of its volumes, or a ``bundle.json``.

    Raises:
        InputError: there is none.
        VerificationError: its head was altered.
    """
    if path.suffix != ".json":
        with Archive.open(path) as archive:
            return archive.bundle
    try:
        return Bundle.from_bytes(path.read_bytes())
    except OSError as error:
        hint = "name a bundle's directory, or a bundle.json"
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error


def _named(bundle: Bundle) -> dict[str, Image]:
    named: dict[str, Image] = {}
    for image in bundle.images:
        for name in [f"{image.repository}:{tag}" for tag in image.tags] or [f"{image.repository}@{image.root.digest}"]:
            named[name] = image
    return named


def _changes(old: Mapping[str, Image], new: Mapping[str, Image], *, is_patch: bool) -> Iterator[ImageChange]:
    for name, image in new.items():
        if name not in old:
            yield ImageChange(name, ADDED, None, image.root.digest, _platforms(image))
        elif _state(image) != _state(old[name]):
            yield _changed(name, old[name], image)
    for name, image in old.items() if not is_patch else ():
        if name not in new:
            yield ImageChange(name, REMOVED, image.root.digest, None, _platforms(image))


def _changed(name: str, old: Image, new: Image) -> ImageChange:
    gone, came = _platforms(old), _platforms(new)
    attached_before, attached = _attached(old), _attached(new)
    return ImageChange(
        name=name,
        what=CHANGED,
        before=old.root.digest,
        after=new.root.digest,
        platforms=came,
        platforms_added=tuple(one for one in came if one not in gone),
        platforms_removed=tuple(one for one in gone if one not in came),
        attachments_added=tuple(sorted(attached - attached_before)),
        attachments_removed=tuple(sorted(attached_before - attached)),
    )


def _state(image: Image) -> object:
    return image.root.digest, frozenset(image.manifests), _attached(image)


def _platforms(image: Image) -> tuple[str, ...]:
    return tuple(map(str, image.platforms))


def _attached(image: Image) -> frozenset[str]:
    return frozenset(one.root.digest for one in image.attachments)


def _held(bundle: Bundle) -> dict[str, int]:
    """Return the size of everything that is at the site after a bundle, as far as the bundle knows."""
    return {one.digest: one.size for one in bundle.base.digests} | {one.digest: one.size for one in bundle.blobs}


def _blobs(sizes: Mapping[str, int], digests: Collection[str]) -> Blobs:
    return Blobs(len(digests), sum(sizes[digest] for digest in digests))


def _row(change: ImageChange) -> Sequence[str]:
    platforms = [f"+{one}" if one in change.platforms_added else one for one in change.platforms]
    platforms += [f"-{one}" for one in change.platforms_removed]
    counts = (("+", change.attachments_added), ("-", change.attachments_removed))
    attached = " ".join(f"{sign}{len(some)}" for sign, some in counts if some)
    before, after = ((digest or NONE)[:SHORT] for digest in (change.before, change.after))
    return change.what, change.name, ", ".join(platforms), before, after, attached
