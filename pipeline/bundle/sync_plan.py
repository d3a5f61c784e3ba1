"""What a sync has to do: what the site's registry lacks of a bundle, found out before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from pipeline.bundle.listing import table
from pipeline.bundle.sync_referrers import Listing, Referrers, listings
from pipeline.core.errors import InputError, VerificationError
from pipeline.core.parallel import each
from pipeline.oci import Descriptor, Registry, fallback_tag, is_digest, is_host, is_repository, links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.model import Image, Needed
    from pipeline.oci import RegistryOptions

    Place = tuple[str, str]  # a repository of the site, and a tag or digest there

T = TypeVar("T")
MB = 1e6
TITLES = ("image", "to do", "manifests", "tags", "MB to send", "blobs to mount")


@dataclass(frozen=True)
class Target:
    """The site's registry.

    Attributes:
        registry: a client of it.
        prefix: path below which everything goes; empty for none.
        state: directory for what is to be remembered.
    """

    registry: Registry
    prefix: str
    state: Path

    @classmethod
    def parse(cls, text: str, options: RegistryOptions, state: Path) -> Target:
        """Read ``host[:port][/prefix]``.

        Args:
            text: what the user wrote.
            options: how the registry is reached.
            state: directory for what is to be remembered, of all registries.

        Raises:
            InputError: it is none.
        """
        host, slash, prefix = text.partition("/")
        if not is_host(host) or (slash and not is_repository(prefix)):
            hint = "write HOST[:PORT][/PREFIX], such as registry.site.example:5000"
            raise InputError(f"{text!r} is not a registry", hint=hint)
        return cls(Registry(host, options), prefix, state / host.replace(":", "_"))

    def repository(self, path: str) -> str:
        """Return what a bundle's repository is called there."""
        return f"{self.prefix}/{path}" if self.prefix else path


@dataclass(frozen=True)
class ImagePlan:
    """What is to be done for one image.

    Attributes:
        image: the image.
        repository: its repository at the site.
        manifests: manifests that the repository lacks, children before what lists them, with their bytes.
        blobs: what it lacks of these.
        sent: those of them that no repository has, nor any image before this one brings.
        mounted: those of them that the registry takes from another repository.
        tags: what is to be tagged, in this order; the image's own tags are the last.
        listings: what has to be looked after under fallback tags.
    """

    image: Image
    repository: str
    manifests: tuple[tuple[Descriptor, bytes], ...] = ()
    blobs: tuple[Descriptor, ...] = ()
    sent: tuple[Descriptor, ...] = ()
    mounted: tuple[Descriptor, ...] = ()
    tags: tuple[tuple[str, Descriptor], ...] = ()
    listings: tuple[Listing, ...] = ()

    @property
    def is_done(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.manifests or self.blobs or self.tags or self.listings)

    @property
    def name(self) -> str:
        """What it is called at the site."""
        return ", ".join([f"{self.repository}:{tag}" for tag in self.image.tags] or [self.repository])


@dataclass(frozen=True)
class SyncPlan:
    """What is to be done.

    Attributes:
        images: for each image.
        found: repositories that have a blob which others lack, by the blob's digest.
        empty: repositories without a manifest, which were not asked for blobs.
    """

    images: tuple[ImagePlan, ...]
    found: Mapping[str, tuple[str, ...]]
    empty: frozenset[str] = frozenset()

    @property
    def uploads(self) -> int:
        """Bytes of blobs that have to be sent."""
        return sum(blob.size for plan in self.images for blob in plan.sent)

    @property
    def is_done(self) -> bool:
        """Whether nothing is to be done."""
        return all(plan.is_done for plan in self.images)

    def text(self) -> str:
        """Return it for the user."""
        open_ = [plan for plan in self.images if not plan.is_done]
        if not open_:
            return f"nothing to do: all {len(self.images)} images are there"
        sent = sum(len(plan.sent) for plan in open_)
        mounts = sum(len(plan.mounted) for plan in open_)
        last = f"{len(open_)} of {len(self.images)} images: {sent} blobs of {self.uploads / MB:.1f} MB to send"
        return "\n".join([*table([TITLES, *map(_row, self.images)]), "", f"{last}, {mounts} to mount"])


def _row(plan: ImagePlan) -> tuple[str, ...]:
    if plan.is_done:
        return plan.name, "nothing", "", "", "", ""
    todo = "send" if plan.sent else "mount" if plan.blobs else "write" if plan.manifests else "tag"
    size = f"{sum(blob.size for blob in plan.sent) / MB:.1f}"
    counts = (len(plan.manifests), len(plan.tags), size, len(plan.mounted))
    return (plan.name, todo, *map(str, counts))


def make_plan(archive: Archive, target: Target) -> SyncPlan:
    """Ask the site's registry what it lacks; nothing is written.

    An image whose tags stand for what they should is not looked at any further, and with it what is attached: a
    request each. For all others every manifest is asked for, and the blobs of those that are not there.

    Args:
        archive: the bundle.
        target: where it goes.

    Raises:
        VerificationError: the site lacks what the bundle builds on, or the bundle is not whole.
        NetworkError: the registry cannot be asked.
    """
    return _Planner(archive, target).plan()


@dataclass(frozen=True)
class _Draft:
    """An image, and those of its names that do not stand for what they should: tags, and digests of what has none."""

    image: Image
    repository: str
    lacking: tuple[tuple[str, Descriptor], ...]
    listings: tuple[Listing, ...]

    def plan(self, manifests: Sequence[tuple[Descriptor, bytes]] = (), blobs: Sequence[Descriptor] = ()) -> ImagePlan:
        tags = tuple((name, root) for name, root in self.lacking if not is_digest(name))
        return ImagePlan(self.image, self.repository, tuple(manifests), tuple(blobs), tags=tags, listings=self.listings)


class _Planner:
    def __init__(self, archive: Archive, target: Target) -> None:
        self._archive, self._target, self._registry = archive, target, target.registry
        self._parallel = target.registry.options.parallel
        self._empty: frozenset[str] = frozenset()

    def plan(self) -> SyncPlan:
        drafts = self._drafts()
        if not any(draft.lacking or draft.listings for draft in drafts):
            return SyncPlan(tuple(draft.plan() for draft in drafts), {})
        found = self._base()
        self._empty = self._unknown(drafts)
        manifests = self._manifests(drafts)
        wanted = [list(self._blobs(draft, own)) for draft, own in zip(drafts, manifests)]  # noqa: B905 - not in 3.6
        places = {(draft.repository, one.digest) for draft, own in zip(drafts, wanted) for one in own}  # noqa: B905
        there = self._ask(places, self._has_blob)
        plans = []
        for draft, own, blobs in zip(drafts, manifests, wanted):  # noqa: B905
            plans.append(draft.plan(own, [one for one in blobs if not there[draft.repository, one.digest]]))
        for repository, digest in sorted(place for place, is_there in there.items() if is_there):
            if repository not in found.get(digest, ()):
                found[digest] = (*found.get(digest, ()), repository)
        return SyncPlan(tuple(_shared_out(plans, found)), found, self._empty)

    def _ask(self, places: Iterable[Place], question: Callable[[Place], T]) -> dict[Place, T]:
        """Ask the same of many places, each once, several at once."""
        asked = sorted(set(places))
        return dict(zip(asked, each(self._parallel, asked, question)))  # noqa: B905

    def _unknown(self, drafts: Sequence[_Draft]) -> frozenset[str]:
        """Return the repositories that the registry does not know: one question in place of many.

        docker-registry knows one from its first manifest on, so blobs may be there all the same.
        """
        some = {draft.repository for draft in drafts if len(draft.lacking) < len(list(_names(draft.image)))}
        asked = sorted({draft.repository for draft in drafts} - some)
        known = each(self._parallel, asked, self._registry.has_repository)
        return frozenset(one for one, is_known in zip(asked, known) if not is_known)  # noqa: B905

    def _has_blob(self, place: Place) -> bool:
        return place[0] not in self._empty and self._registry.has_blob(*place)

    def _digest(self, place: Place) -> str | None:
        if place[0] in self._empty:
            return None
        found = self._registry.head_manifest(*place)
        return None if found is None else found.digest

    def _drafts(self) -> list[_Draft]:
        """Ask for each name only: who tagged an image last did so after everything else was there."""
        images = [(image, self._target.repository(image.repository)) for image in self._archive.bundle.images]
        there = self._ask(((repo, name) for image, repo in images for name, _ in _names(image)), self._digest)
        drafts = []
        for image, repo in images:
            lacking = tuple((name, root) for name, root in _names(image) if there[repo, name] != root.digest)
            drafts.append(_Draft(image, repo, lacking, listings(image)))
        return self._without_done_listings(drafts)

    def _without_done_listings(self, drafts: Sequence[_Draft]) -> list[_Draft]:
        """Look into the fallback tags of images that have everything else."""
        referrers = Referrers(self._registry, self._archive)
        open_ = [(draft, one) for draft in drafts if not draft.lacking for one in draft.listings]
        outcomes = each(self._parallel, open_, lambda one: referrers.outcome(one[0].repository, one[1]))
        done = {id(one) for (_, one), outcome in zip(open_, outcomes) if outcome is None}  # noqa: B905
        return [
            replace(draft, listings=tuple(one for one in draft.listings if id(one) not in done)) for draft in drafts
        ]

    def _base(self) -> dict[str, tuple[str, ...]]:
        """Look for exactly what the bundle builds on; returns where each digest was found."""
        needed = self._archive.bundle.base.digests
        found = each(self._parallel, needed, self._place_of)
        missing = [one.digest for one, place in zip(needed, found) if place is None]  # noqa: B905
        if missing:
            names = ", ".join(one.name for one in self._archive.bundle.base.bundles)
            what = f"{len(missing)} of {len(needed)} blobs that {self._archive.bundle.name} builds on"
            raise VerificationError(
                f"{self._registry.host} lacks {what}:\n  " + "\n  ".join(missing),
                hint=f"sync its base first ({names}), to the same registry and prefix; nothing was written",
            )
        return {one.digest: (place,) for one, place in zip(needed, found) if place is not None}  # noqa: B905

    def _place_of(self, needed: Needed) -> str | None:
        places = map(self._target.repository, needed.repositories)
        return next((place for place in places if self._registry.has_blob(place, needed.digest)), None)

    def _manifests(self, drafts: Sequence[_Draft]) -> list[list[tuple[Descriptor, bytes]]]:
        """Return the manifests that each image's repository lacks, children first."""
        walked = [list(self._walk(draft)) for draft in drafts]
        places = [(draft.repository, one.digest) for draft, own in zip(drafts, walked) for one, _ in own]  # noqa: B905
        there = self._ask(places, self._digest)
        return [
            [(one, data) for one, data in own if there[draft.repository, one.digest] is None]
            for draft, own in zip(drafts, walked)  # noqa: B905
        ]

    def _walk(self, draft: _Draft) -> Iterator[tuple[Descriptor, bytes]]:
        """Yield the manifests below every root that is not known to be there."""
        seen: set[str] = set()
        lacking = {root.digest for _, root in draft.lacking}
        lacking.update(one.index.digest for one in draft.listings if one.index is not None)
        for root in draft.image.roots:
            for one, data in self._archive.walk(root) if root.digest in lacking else ():
                if data is not None and one.digest not in seen:
                    seen.add(one.digest)
                    yield one, data

    def _blobs(self, draft: _Draft, manifests: Sequence[tuple[Descriptor, bytes]]) -> Iterator[Descriptor]:
        """Yield the blobs of manifests that are lacking: a registry takes these only after their blobs."""
        seen: set[str] = set()
        base = {one.digest for one in self._archive.bundle.base.digests}
        for manifest, data in manifests:
            for blob in links(data, manifest.media_type).blobs:
                is_carried = self._archive.has(blob.digest)
                if blob.digest in seen or (blob.is_foreign and not is_carried):
                    continue
                if not is_carried and blob.digest not in base:
                    what = f"{draft.image.source}: {blob.digest} is neither carried nor in the base"
                    raise VerificationError(f"{self._archive.path}: {what}", hint="the bundle is not whole: verify it")
                seen.add(blob.digest)
                yield Descriptor(blob.media_type, blob.digest, blob.size)


def _names(image: Image) -> Iterator[tuple[str, Descriptor]]:
    """Yield what has to stand for what: tags, the image's own last; digests of what has no tag. No fallback tags."""
    for one in image.attachments:
        if one.tag is None:
            yield one.root.digest, one.root
        elif one.tag != fallback_tag(one.subject):
            yield one.tag, one.root
    for tag in image.tags:
        yield tag, image.root
    if not image.tags:
        yield image.root.digest, image.root


def _shared_out(plans: Iterable[ImagePlan], found: Mapping[str, Sequence[str]]) -> Iterator[ImagePlan]:
    """Say which image's blobs are sent, and which are mounted: each is sent once."""
    known = set(found)
    coming: set[tuple[str, str]] = set()
    for plan in plans:
        fresh = [one for one in plan.blobs if (plan.repository, one.digest) not in coming]
        sent = tuple(one for one in fresh if one.digest not in known)
        mounted = tuple(one for one in fresh if one.digest in known)
        known.update(one.digest for one in sent)
        coming.update((plan.repository, one.digest) for one in fresh)
        yield replace(plan, sent=sent, mounted=mounted)
