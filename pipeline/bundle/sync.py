"""Brings a bundle into the site's registry: blobs, manifests, what is attached, and the tags last.

Each blob is sent once and mounted into the other repositories. Images are begun in their order, a few at a time, so
that some are finished while others are not begun. All requests together keep to the registry's limit.
"""

from __future__ import annotations

import collections
import functools
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle import journal
from pipeline.bundle.meter import Meter
from pipeline.bundle.sources import RegistrySource
from pipeline.bundle.sync_plan import make_plan
from pipeline.bundle.sync_referrers import Referrers
from pipeline.core import progress
from pipeline.core.errors import NetworkError
from pipeline.core.parallel import Crew
from pipeline.oci import links

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.journal import Journal
    from pipeline.bundle.model import BlobSource
    from pipeline.bundle.sync_plan import ImagePlan, SyncPlan, Target
    from pipeline.oci import Descriptor

MB = 1e6
IMAGES = 4
UPLOADED, MOUNTED = "uploaded", "mounted"
_REFUSED = re.compile(r"HTTP status 4(?!01|03|08|29)\d\d")
_SPARSE = (
    "this registry refuses an index whose images are not all there: pack the bundle without 'platforms', "
    "or use a registry that takes such an index"
)


@dataclass(frozen=True)
class SyncSummary:
    """What a sync did.

    Attributes:
        images: how many images there are now.
        unchanged: how many of them were there already.
        uploaded: how many blobs were sent.
        uploaded_bytes: their size.
        mounted: how many blobs the registry took from another of its repositories.
        mounted_bytes: their size.
        manifests: how many manifests were written.
        tags: how many tags were written.
        seconds: how long it took.
    """

    images: int
    unchanged: int
    uploaded: int
    uploaded_bytes: int
    mounted: int
    mounted_bytes: int
    manifests: int
    tags: int
    seconds: float

    def text(self) -> str:
        """Return it for the user."""
        if self.unchanged == self.images:
            return f"nothing to do: all {self.images} images are there ({self.seconds:.1f} s)"
        return (
            f"{self.images} images are there, {self.unchanged} of them already before; {self.uploaded} blobs of "
            f"{self.uploaded_bytes / MB:.1f} MB sent, {self.mounted} of {self.mounted_bytes / MB:.1f} MB mounted, "
            f"{self.manifests} manifests and {self.tags} tags written ({self.seconds:.1f} s)"
        )


def sync(archive: Archive, target: Target, plan: SyncPlan | None = None, *, images: int = IMAGES) -> SyncSummary:
    """Bring everything of a bundle that is not there into the site's registry. Run again, it goes on.

    Args:
        archive: the bundle; what a lean patch is made from is read back from the registry.
        target: where it goes.
        plan: what :func:`make_plan` found; it is asked if not given.
        images: how many images are worked on at once.

    Raises:
        VerificationError: the site lacks what the bundle builds on, or the bundle is damaged.
        NetworkError: the registry does not take it.
        StorageError: the journal cannot be written.
    """
    began = time.monotonic()
    with journal.opened(target.state, target.registry.host, archive.bundle) as notes:
        if plan is None or notes.has_waited:
            with progress.step("ask the registry what it lacks"):
                plan = make_plan(archive, target)
        waiting = [one for one in plan.images if not one.is_done]
        with archive.based_on(RegistrySource(target.registry, plan.found)) as opened:
            work = _Sync(opened, target, plan, notes)
            if waiting:
                with progress.step(f"sync {len(waiting)} images"):
                    work.run(waiting, images)
                    progress.remark(f"{work.meter.sent / MB:.1f} MB sent")
    uploaded, mounted = work.moved(UPLOADED), work.moved(MOUNTED)
    return SyncSummary(
        images=len(plan.images),
        unchanged=len(plan.images) - len(waiting),
        uploaded=len(uploaded),
        uploaded_bytes=sum(uploaded),
        mounted=len(mounted),
        mounted_bytes=sum(mounted),
        manifests=work.manifests,
        tags=work.tags,
        seconds=time.monotonic() - began,
    )


class _Sync:
    """Who brings what: blobs are given out here, in one thread; the threads of the crew do one thing after another."""

    def __init__(self, archive: Archive, target: Target, plan: SyncPlan, notes: Journal) -> None:
        self._archive, self._registry, self._notes = archive, target.registry, notes
        self._referrers, self._listing = Referrers(target.registry, archive), threading.Lock()
        self._places: dict[str, list[str]] = {digest: list(found) for digest, found in plan.found.items()}
        self._base = RegistrySource(target.registry, plan.found)  # where mounting is refused
        self._empty = plan.empty  # an earlier sync may have left blobs there: mounted from itself, one tells
        self._crew = Crew(target.registry.options.parallel)
        self._moving: dict[tuple[str, str], list[int]] = {}  # on its way into a repository, and which images wait
        self._asking: dict[str, list[tuple[Descriptor, str]]] = {}  # a blob that is sent, and who wants it mounted
        self._lacking: dict[int, int] = {}  # an image that is worked on, and how many blobs it lacks
        self._moved: list[tuple[str, int]] = []
        self.manifests = self.tags = 0
        self.meter = Meter("sent", plan.uploads)

    def moved(self, how: str) -> list[int]:
        """Return the sizes of the blobs that were brought in one way."""
        return [size for word, size in self._moved if word == how]

    def run(self, plans: list[ImagePlan], images: int) -> None:
        """Bring some images, a few at a time."""
        self._plans = plans
        self._waiting = collections.deque(range(len(plans)))
        with self._crew:
            for _ in range(max(1, images)):
                self._begin_next()
            self._crew.run(self.meter.tick)

    def _begin_next(self) -> None:
        if not self._waiting:
            return
        number = self._waiting.popleft()
        plan = self._plans[number]
        blobs = [blob for blob in plan.blobs if plan.repository not in self._places.get(blob.digest, ())]
        self._lacking[number] = len(blobs)
        for blob in blobs:
            key = (plan.repository, blob.digest)
            if key in self._moving:
                self._moving[key].append(number)
            else:
                self._moving[key] = [number]
                self._give_out(blob, plan.repository)
        if not blobs:
            self._write(number)

    # --- blobs

    def _give_out(self, blob: Descriptor, repository: str) -> None:
        """Have a blob mounted, or sent; or wait, if it is being sent to another repository."""
        places = self._places.get(blob.digest, ())
        if not places and blob.digest in self._asking:
            self._asking[blob.digest].append((blob, repository))
            return
        if not places:
            self._asking[blob.digest] = []
        place = places[0] if places else repository if repository in self._empty else None
        self._crew.submit(
            functools.partial(self._move, blob, repository, place),
            functools.partial(self._is_moved, blob, repository),
        )

    def _move(self, blob: Descriptor, repository: str, place: str | None) -> str:
        if place is not None and self._registry.mount_blob(repository, blob.digest, place):
            how = MOUNTED
        else:
            self._send(blob, repository)
            how = UPLOADED
        self._notes.finish_blob(repository, blob.digest)
        progress.log(f"{repository}: {how} {blob.digest} ({blob.size} bytes)")
        return how

    def _send(self, blob: Descriptor, repository: str) -> None:
        source: BlobSource = self._archive if self._archive.has(blob.digest) else self._base
        key = f"{repository}@{blob.digest}"

        def open_at(offset: int) -> IO[bytes]:
            return self.meter.watch(source.open_blob(blob.digest, offset), key, offset, self._crew.is_stopped)

        def on_begun(location: str) -> None:
            self._notes.begin(repository, blob.digest, location)

        begun = self._notes.begun(repository, blob.digest)
        self._registry.put_blob(repository, blob, open_at, begun=begun, on_begun=on_begun)
        self.meter.finish(key, blob.size)

    def _is_moved(self, blob: Descriptor, repository: str, how: str) -> None:
        self._moved.append((how, blob.size))
        self._places.setdefault(blob.digest, []).append(repository)
        for other, place in self._asking.pop(blob.digest, ()):
            self._give_out(other, place)
        for number in self._moving.pop((repository, blob.digest)):
            self._lacking[number] -= 1
            if not self._lacking[number]:
                self._write(number)

    # --- manifests

    def _write(self, number: int) -> None:
        plan = self._plans[number]
        self._crew.submit(functools.partial(self._write_image, plan), functools.partial(self._is_written, number))

    def _is_written(self, number: int, counts: tuple[int, int]) -> None:
        plan = self._plans[number]
        del self._lacking[number]
        self.manifests += counts[0]
        self.tags += counts[1]
        progress.log(f"{plan.name}: {plan.image.root.digest} is there")
        self._begin_next()

    def _write_image(self, plan: ImagePlan) -> tuple[int, int]:
        """Write an image's manifests, then what is listed and tagged, its own tags last; return how many."""
        own = [(tag, root) for tag, root in plan.tags if tag in plan.image.tags]
        attached = [one for one in plan.tags if one not in own]
        once = {root.digest for _, root in attached} - _children(plan.manifests)  # their tag is enough
        for descriptor, data in plan.manifests:
            if descriptor.digest not in once:
                self._put(plan, descriptor.digest, data, descriptor)
        for tag, root in attached:
            self._put(plan, tag, self._archive.read(root.digest), root)
        listed = sum(self._list(plan, number) for number in range(len(plan.listings)))
        for tag, root in own:
            self._put(plan, tag, self._archive.read(root.digest), root)
        self._notes.finish_image(plan.repository, plan.image.root.digest)
        return len(plan.manifests), len(plan.tags) + listed

    def _list(self, plan: ImagePlan, number: int) -> int:
        """Bring a fallback tag up to date; one at a time, as what is there is read first."""
        listing = plan.listings[number]
        with self._listing:
            outcome = self._referrers.outcome(plan.repository, listing)
            if outcome is None:
                return 0
            self._registry.put_manifest(plan.repository, listing.tag, *outcome)
        return 1

    def _put(self, plan: ImagePlan, ref: str, data: bytes, root: Descriptor) -> None:
        try:
            self._registry.put_manifest(plan.repository, ref, data, root.media_type)
        except NetworkError as error:
            children = {child.digest for child in links(data, root.media_type).manifests}
            if children.isdisjoint(plan.image.left_out) or not _REFUSED.search(error.message):
                raise
            raise NetworkError(error.message, hint=_SPARSE) from error


def _children(manifests: Iterable[tuple[Descriptor, bytes]]) -> set[str]:
    """Return the digests of the manifests that others list."""
    return {child.digest for one, data in manifests for child in links(data, one.media_type).manifests}
