"""Bundles for the tests of syncing, written straight from a layout: what is in them is said image by image."""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.synchronize
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import IO

from pipeline import oci
from pipeline.bundle.archive import Archive
from pipeline.bundle.model import FULL, PATCH, PLAIN, Attachment, Base, Blob, Bundle, BundleName, Image, Needed
from pipeline.bundle.sync import sync
from pipeline.bundle.sync_plan import Target, make_plan
from pipeline.bundle.write import Writer
from pipeline.oci import Descriptor, Layout, RegistryOptions
from tests.integration.packed import AMD64, ARM64, KIB, QUICK, Maker, noise
from tests.integration.registries import Served

CREATED = "2026-11-25T03:00:00Z"
HEADQUARTERS = "registry.hq.example:5000"
MIB = 1024**2


def target(served: Served, state: Path, prefix: str = "", host: str = "", **changes: object) -> Target:
    """Return a site's registry as syncs are told of it."""
    options = {"ca": served.ca, "auth_file": served.auth_file, "plain_http": served.ca is None} | QUICK | changes
    text = f"{host or served.host}/{prefix}" if prefix else host or served.host
    return Target.parse(text, RegistryOptions(**options), state)  # type: ignore[arg-type]


def image(
    maker: Maker,
    repository: str,
    root: Descriptor,
    *tags: str,
    attachments: Sequence[Attachment] = (),
    left_out: Collection[str] = (),
) -> Image:
    """Return an image of a layout as a bundle lists it."""
    manifests = dict.fromkeys(
        one.digest
        for top in (root, *(attachment.root for attachment in attachments))
        for one in _manifests(maker.layout, top, left_out)
    )
    ref = f":{tags[0]}" if tags else f"@{root.digest}"
    return Image(
        source=f"{HEADQUARTERS}/{repository}{ref}",
        repository=repository,
        tags=tags,
        root=Descriptor(root.media_type, root.digest, root.size),
        platforms=(AMD64, ARM64),
        manifests=tuple(manifests),
        left_out=tuple(left_out),
        attachments=tuple(
            Attachment(one.subject, Descriptor(one.root.media_type, one.root.digest, one.root.size), one.tag)
            for one in attachments
        ),
    )


def _manifests(layout: Layout, root: Descriptor, left_out: Collection[str]) -> Iterable[Descriptor]:
    if root.digest in left_out:
        return
    yield root
    for child in oci.links(layout.read(root.digest), root.media_type).manifests:
        yield from _manifests(layout, child, left_out)


def everything(maker: Maker, images: Iterable[Image]) -> dict[str, Descriptor]:
    """Return what images consist of, by digest."""
    found: dict[str, Descriptor] = {}
    for one in images:
        for root in one.roots:
            for manifest in _manifests(maker.layout, root, one.left_out):
                found[manifest.digest] = manifest
                blobs = oci.links(maker.layout.read(manifest.digest), manifest.media_type).blobs
                found |= {blob.digest: blob for blob in blobs if not blob.is_foreign}
    return found


def bundle(
    maker: Maker, out: Path, name: str, images: Sequence[Image], *, base: Archive | None = None, volume: int = 0
) -> Archive:
    """Write a bundle, full or a patch on another one, and open it."""
    contents = everything(maker, images)
    needed: list[Needed] = []
    if base is not None:
        manifests = {digest for one in images for digest in one.manifests}
        for digest in sorted(contents.keys() - manifests):
            if base.has(digest):
                needed.append(Needed(digest, contents.pop(digest).size, _repositories(maker, base, digest)))
    with Writer(out / name, name, volume or None) as writer:
        for digest, one in sorted(contents.items()):
            path = maker.layout.blob_path(digest)
            with path.open("rb") as stream:
                writer.add(f"blobs/{digest.replace(':', '/')}", one.size, stream, digest=digest)
        writer.finish(
            Bundle(
                kind=PATCH if base else FULL,
                name=name,
                created=CREATED,
                store=PLAIN,
                images=tuple(images),
                blobs=tuple(Blob(digest, one.size, PLAIN) for digest, one in sorted(contents.items())),
                base=Base((BundleName(base.id, base.bundle.name),), tuple(needed)) if base else Base(),
            ),
            head_files={},
        )
    return Archive.open(out / name)


def _repositories(maker: Maker, base: Archive, digest: str) -> tuple[str, ...]:
    holding = (one.repository for one in base.bundle.images if digest in everything(maker, [one]))
    return tuple(dict.fromkeys(holding))


def two_images(maker: Maker) -> tuple[Image, Image]:
    """Return two images for both architectures that share a layer; the first one is signed, and has an SBOM."""
    shared = maker.layer("opt/shared", noise(11, 300 * KIB))
    amd64 = maker.image("amd64", shared, maker.layer("opt/amd64", noise(12, 100 * KIB)))
    arm64 = maker.image("arm64", shared, maker.layer("opt/arm64", noise(13, 100 * KIB)))
    app = maker.index(amd64, arm64)
    attachments = [
        Attachment(app.digest, maker.signature(app), f"{app.digest.replace(':', '-')}.sig"),
        Attachment(app.digest, maker.artifact(app, b"what is in it"), None),
    ]
    web = maker.index(maker.image("amd64", shared, maker.layer("opt/web", noise(14, 50 * KIB))))
    return (
        image(maker, "platform/app", app, "v1", "latest", attachments=attachments),
        image(maker, "platform/web", web, "v1"),
    )


def assert_whole(where: Target, maker: Maker, images: tuple[Image, ...]) -> None:
    """Everything of some images is there, byte for byte, under all its names."""
    for one in images:
        repo = where.repository(one.repository)
        for ref in (*one.tags, *(attachment.tag for attachment in one.attachments if attachment.tag)):
            found, data = where.registry.get_manifest(repo, ref)
            assert data == maker.layout.read(found.digest)
        for digest in everything(maker, [one]):
            if digest in one.manifests:
                assert where.registry.get_manifest(repo, digest)[1] == maker.layout.read(digest)
            else:
                assert where.registry.has_blob(repo, digest)
        for tag in one.tags:
            there = where.registry.head_manifest(repo, tag)
            assert there is not None
            assert there.digest == one.root.digest


# ------------------------------------------------------------------------------------------ kill -9


class Stalling(io.RawIOBase):
    """A stream that comes to a halt when all streams together have given so many bytes."""

    left = 0

    def __init__(self, stream: IO[bytes], has_stalled: multiprocessing.synchronize.Event) -> None:
        super().__init__()
        self._stream, self._has_stalled = stream, has_stalled

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        Stalling.left -= len(data)
        if Stalling.left <= 0:
            self._has_stalled.set()
            time.sleep(600)
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _sync_and_stall(
    path: Path, words: tuple[str, Path, Path, Path, str], limit: int, has_stalled: multiprocessing.synchronize.Event
) -> None:
    host, ca, auth_file, state, prefix = words
    where = target(Served(host, ca, auth_file, state), state, prefix, parallel=1)
    with Archive.open(path) as archive:
        plan = make_plan(archive, where)
        opened = Archive.open_blob

        def open_blob(self: Archive, digest: str, offset: int = 0) -> IO[bytes]:
            return io.BufferedReader(Stalling(opened(self, digest, offset), has_stalled), 64 * KIB)

        Archive.open_blob, Stalling.left = open_blob, limit  # type: ignore[method-assign]
        sync(archive, where, plan, images=1)


def kill_a_sync(archive: Archive, served: Served, state: Path, prefix: str, limit: int) -> None:
    """Kill a sync in another process while it sends, when it has read so many bytes of blobs."""
    context = multiprocessing.get_context("spawn")
    has_stalled = context.Event()
    words = (served.host, served.ca, served.auth_file, state, prefix)
    child = context.Process(target=_sync_and_stall, args=(archive.path, words, limit, has_stalled))
    child.start()
    while not has_stalled.wait(0.1):
        assert child.is_alive()
    child.kill()
    child.join()
