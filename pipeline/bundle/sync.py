"""Brings a bundle into the site's registry: blobs, manifests, what is attached, and the tags last."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.bundle import journal
from pipeline.bundle.sync_plan import make_plan
from pipeline.core import progress
from pipeline.core.errors import NetworkError, StorageError
from pipeline.core.parallel import each
from pipeline.oci.model import OCI_INDEX, Descriptor, canonical
from pipeline.oci.registry import fallback_tag

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.journal import Journal
    from pipeline.bundle.sync_plan import ImagePlan, SyncPlan, Target

MB = 1e6
CHUNK = 1024**2
TELL_SECONDS = 5.0
UPLOADED, MOUNTED = "uploaded", "mounted"
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
        manifests: how many manifests were written.
        seconds: how long it took.
    """

    images: int
    unchanged: int
    uploaded: int
    uploaded_bytes: int
    mounted: int
    manifests: int
    seconds: float

    def text(self) -> str:
        """Return it for the user."""
        if self.unchanged == self.images:
            return f"nothing to do: all {self.images} images are there ({self.seconds:.1f} s)"
        return (
            f"{self.images} images are there, {self.unchanged} of them already before; sent {self.uploaded} blobs of "
            f"{self.uploaded_bytes / MB:.1f} MB and {self.manifests} manifests, mounted {self.mounted} blobs "
            f"({self.seconds:.1f} s)"
        )


def sync(archive: Archive, target: Target, plan: SyncPlan | None = None) -> SyncSummary:
    """Bring everything of a bundle that is not there into the site's registry. Run again, it goes on.

    Args:
        archive: the bundle; of a patch made with ``lean``, opened with the registry as its base.
        target: where it goes.
        plan: what :func:`make_plan` found; it is asked if not given.

    Raises:
        VerificationError: the site lacks what the bundle builds on, or the bundle is damaged.
        NetworkError: the registry does not take it.
        StorageError: the journal cannot be written.
    """
    began = time.monotonic()
    with progress.step("ask the registry what it lacks"):
        plan = plan or make_plan(archive, target)
    with journal.opened(target.state, target.registry.host, archive.id) as notes:
        work = _Sync(archive, target, plan, notes)
        if plan.lacking:
            with progress.step(f"send {len(plan.lacking)} blobs"):
                each(target.registry.options.parallel, plan.lacking.items(), lambda one: work.blob(*one))
        waiting = [one for one in plan.images if not one.is_done]
        if waiting:
            with progress.step(f"write manifests and tags of {len(waiting)} images"):
                each(target.registry.options.parallel, waiting, work.image)
        _remember(archive, target.state)
    counts = work.meter.counts
    return SyncSummary(
        images=len(plan.images),
        unchanged=len(plan.images) - len(waiting),
        uploaded=counts[UPLOADED],
        uploaded_bytes=work.meter.sent,
        mounted=counts[MOUNTED],
        manifests=sum(len(one.manifests) for one in plan.images),
        seconds=time.monotonic() - began,
    )


class _Sync:
    def __init__(self, archive: Archive, target: Target, plan: SyncPlan, notes: Journal) -> None:
        self._archive, self._registry, self._plan, self._notes = archive, target.registry, plan, notes
        self.meter = _Meter(plan.uploads)

    # --- blobs

    def blob(self, blob: Descriptor, repositories: tuple[str, ...]) -> None:
        """Send a blob to the first repository, and have the registry mount it into the others."""
        source = self._plan.found.get(blob.digest)
        for repository in repositories:
            if source is not None and self._registry.mount_blob(repository, blob.digest, source):
                self.meter.add(MOUNTED, blob)
            else:
                self._send(blob, repository)
            source = source or repository

    def _send(self, blob: Descriptor, repository: str) -> None:
        if not self._archive.has(blob.digest):
            hint = "it is in the base of this bundle: allow mounting for these credentials, or sync a full bundle"
            raise NetworkError(f"{self._registry.host} does not mount {blob.digest} into {repository}", hint=hint)

        def open_at(offset: int) -> IO[bytes]:
            return io.BufferedReader(_Counted(self._archive.open_blob(blob.digest, offset), self.meter), CHUNK)

        def on_begun(location: str) -> None:
            self._notes.begin(repository, blob.digest, location)

        begun = self._notes.begun(repository, blob.digest)
        self._registry.put_blob(repository, blob, open_at, begun=begun, on_begun=on_begun)
        self.meter.add(UPLOADED, blob)

    # --- manifests

    def image(self, plan: ImagePlan) -> None:
        """Write an image's manifests, then the tags of what is attached, then its own."""
        image = plan.image
        for descriptor, data in plan.manifests:
            self._put(plan, descriptor.digest, data, descriptor.media_type)
        for attachment in image.attachments:
            if attachment.tag is not None:
                self._tag(plan, attachment.tag, attachment.root)
        self._list_referrers(plan)
        for tag in image.tags:
            self._tag(plan, tag, image.root)
        progress.log(f"{plan.repository}: {image.root.digest} is there")

    def _tag(self, plan: ImagePlan, tag: str, root: Descriptor) -> None:
        there = self._registry.head_manifest(plan.repository, tag)
        if there is None or there.digest != root.digest:
            self._put(plan, tag, self._archive.read(root.digest), root.media_type)

    def _put(self, plan: ImagePlan, ref: str, data: bytes, media_type: str) -> None:
        try:
            self._registry.put_manifest(plan.repository, ref, data, media_type)
        except NetworkError as error:
            names_others = any(digest.encode() in data for digest in plan.image.left_out)
            if not names_others:
                raise
            raise NetworkError(error.message, hint=_SPARSE) from error

    def _list_referrers(self, plan: ImagePlan) -> None:
        """List attachments under the fallback tag where the registry has no referrers API, as its clients must.

        Whatever the site has listed there stays (OCI distribution specification 1.1, "Pushing Manifests with
        Subject"). A bundle that carries such an index itself has it tagged as it is.
        """
        tagged = {attachment.tag for attachment in plan.image.attachments}
        subjects: dict[str, list[Descriptor]] = {}
        for attachment in plan.image.attachments:
            if attachment.tag is None:
                subjects.setdefault(attachment.subject, []).append(attachment.root)
        for subject, roots in subjects.items():
            tag = fallback_tag(subject)
            there = self._registry.referrers(plan.repository, subject)
            if there.has_api or tag in tagged:
                continue
            known = {descriptor.digest: descriptor.to_json() for descriptor in there.found}
            entries = dict(known)
            for root in roots:
                entries[root.digest] = _entry(root, self._archive.read(root.digest))
            if entries.keys() != known.keys():
                index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries.values())}
                self._registry.put_manifest(plan.repository, tag, canonical(index), OCI_INDEX)


def _entry(root: Descriptor, data: bytes) -> dict[str, Any]:
    """Return how an attachment stands in the index of a fallback tag: with its type and its annotations."""
    manifest = json.loads(data.decode())
    entry: dict[str, Any] = {"mediaType": root.media_type, "digest": root.digest, "size": root.size}
    kind = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType")
    if kind:
        entry["artifactType"] = kind
    if manifest.get("annotations"):
        entry["annotations"] = manifest["annotations"]
    return entry


class _Meter:
    """Counts what is done, and says so every few seconds."""

    def __init__(self, total: int) -> None:
        self.counts = {UPLOADED: 0, MOUNTED: 0}
        self.sent = 0
        self._total, self._read, self._lock = total, 0, threading.Lock()
        self._began = self._told = time.monotonic()

    def add(self, what: str, blob: Descriptor) -> None:
        """Note that a blob is there now."""
        with self._lock:
            self.counts[what] += 1
            self.sent += blob.size if what == UPLOADED else 0
        progress.log(f"{what} {blob.digest} ({blob.size} bytes)")

    def read(self, count: int) -> None:
        """Note that bytes are on their way."""
        with self._lock:
            self._read += count
            now = time.monotonic()
            if now - self._told < TELL_SECONDS:
                return
            self._told = now
        rate = self._read / MB / (now - self._began)
        progress.note(f"{self._read / MB:.1f} of {self._total / MB:.1f} MB are on their way, {rate:.1f} MB/s")


class _Counted(io.RawIOBase):
    """A stream whose bytes are counted while they are read."""

    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        super().__init__()
        self._stream, self._meter = stream, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self._meter.read(len(data))
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _remember(archive: Archive, state: Path) -> None:
    """Keep ``bundle.json``: what the site has is asked for when something is to be removed."""
    path = state / f"{archive.bundle.name}-{archive.id.partition(':')[2][:12]}.bundle.json"
    try:
        path.write_bytes(archive.bundle.to_bytes())
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", hint="name a directory with --state") from error
