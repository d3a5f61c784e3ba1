"""Whole images between a layout and a registry: only what is missing, children before what lists them, the tag last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core import progress as session
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.core.parallel import each
from pipeline.oci.model import REF_NAME, Descriptor, links
from pipeline.oci.reference import is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.oci.layout import Layout
    from pipeline.oci.registry import Registry

    Progress = Callable[[str, Descriptor], None]

UPLOADED, MOUNTED, SKIPPED, DOWNLOADED = "uploaded", "mounted", "skipped", "downloaded"


@dataclass(frozen=True)
class PushSummary:
    """What a push did; blobs and manifests are counted.

    Attributes:
        digest: what was pushed.
        uploaded: how many were sent.
        uploaded_bytes: their size.
        mounted: how many the registry took from another of its repositories.
        mounted_bytes: their size.
        skipped: how many were there already.
        skipped_bytes: their size.
    """

    digest: str
    uploaded: int
    uploaded_bytes: int
    mounted: int
    mounted_bytes: int
    skipped: int
    skipped_bytes: int


@dataclass(frozen=True)
class PullSummary:
    """What a pull did; blobs and manifests are counted.

    Attributes:
        descriptor: what was pulled, as it stands in ``index.json``.
        downloaded: how many were fetched.
        downloaded_bytes: their size.
        skipped: how many were there already.
        skipped_bytes: their size.
    """

    descriptor: Descriptor
    downloaded: int
    downloaded_bytes: int
    skipped: int
    skipped_bytes: int


class _Tally:
    def __init__(self, where: str, tell: Progress | None) -> None:
        self._done: list[tuple[str, Descriptor]] = []
        self._where, self._tell = where, tell

    def add(self, what: str, descriptor: Descriptor) -> None:
        self._done.append((what, descriptor))  # atomic: threads share it
        session.log(f"{self._where}: {what} {descriptor.digest} ({descriptor.size} bytes)")
        if self._tell is not None:
            self._tell(what, descriptor)

    def of(self, what: str) -> tuple[int, int]:
        sizes = [descriptor.size for word, descriptor in self._done if word == what]
        return len(sizes), sum(sizes)


def push(
    layout: Layout,
    registry: Registry,
    repo: str,
    tag: str | None,
    progress: Progress | None = None,
    *,
    root: Descriptor | None = None,
    mount_from: Sequence[str] = (),
) -> PushSummary:
    """Push an image or an index with all its images; every byte stays what it is.

    Args:
        layout: where it is.
        registry: where it goes.
        repo: the repository there.
        tag: its name; None if only its digest shall name it.
        progress: called, from several threads, with ``uploaded``, ``mounted`` or ``skipped`` and what it was.
        root: which one of the layout; if not given, the layout must have just one.
        mount_from: repositories of this registry that may have blobs already.

    Raises:
        InputError: the layout has several images and none is chosen, or the tag is none.
        VerificationError: the layout is not whole.
        NetworkError: the registry does not take it. Pushing again goes on from there.
    """
    if tag is not None and not is_tag(tag):
        raise InputError(f"{tag!r} is not a tag", hint="write letters, digits, '.', '_' and '-', at most 128")
    top = root or _only(layout)
    tally = _Tally(f"{registry.host}/{repo}", progress)
    everything = list(layout.walk(top))
    blobs = [found for found, data in everything if data is None and not _is_absent(layout, found)]
    each(registry.options.parallel, blobs, lambda blob: _push_blob(layout, registry, repo, blob, mount_from, tally))
    for descriptor, data in everything:
        if data is not None:
            _push_manifest(registry, repo, descriptor, data, tally)
    if tag is not None:
        found = registry.head_manifest(repo, tag)
        if found is None or found.digest != top.digest:
            registry.put_manifest(repo, tag, layout.read(top.digest), top.media_type)
    return PushSummary(top.digest, *tally.of(UPLOADED), *tally.of(MOUNTED), *tally.of(SKIPPED))


def _only(layout: Layout) -> Descriptor:
    roots = layout.index()
    if len({found.digest for found in roots}) != 1:
        raise InputError(f"{layout.path} holds {len(roots)} images, not one", hint="say which of them is meant")
    return roots[0]


def _is_absent(layout: Layout, blob: Descriptor) -> bool:
    """Whether a blob is a layer that may not be passed on, and is not here; any other that is not is a fault."""
    if layout.blob_path(blob.digest).exists():
        return False
    if not blob.is_foreign:
        raise VerificationError(f"{layout.path}: {blob.digest}: missing", hint="copy or fetch the layout again")
    return True


def _push_blob(
    layout: Layout, registry: Registry, repo: str, blob: Descriptor, mount_from: Sequence[str], tally: _Tally
) -> None:
    if registry.has_blob(repo, blob.digest):
        tally.add(SKIPPED, blob)
    elif any(registry.mount_blob(repo, blob.digest, other) for other in mount_from if other != repo):
        tally.add(MOUNTED, blob)
    else:
        registry.put_blob(repo, blob, layout.blob_path(blob.digest))
        tally.add(UPLOADED, blob)


def _push_manifest(registry: Registry, repo: str, descriptor: Descriptor, data: bytes, tally: _Tally) -> None:
    if registry.head_manifest(repo, descriptor.digest) is not None:
        tally.add(SKIPPED, descriptor)
        return
    registry.put_manifest(repo, descriptor.digest, data, descriptor.media_type)
    tally.add(UPLOADED, descriptor)


def pull(
    registry: Registry,
    repo: str,
    ref: str,
    layout: Layout,
    progress: Progress | None = None,
    *,
    name: str | None = None,
) -> PullSummary:
    """Pull an image, or an index with all its images, into a layout and list it in ``index.json``.

    Args:
        registry: where it is.
        repo: the repository there.
        ref: its tag or digest.
        layout: where it goes.
        progress: called, from several threads, with ``downloaded`` or ``skipped`` and what it was.
        name: what it is called in ``index.json``, where it replaces another one of that name; the tag if not given.

    Raises:
        NotThereError: there is no such image.
        NetworkError: something of it cannot be had, or is not what it should be. Pulling again goes on from there.
        StorageError: it cannot be written.
        InputError: it is of a kind that is not known here.
    """
    tally = _Tally(f"{registry.host}/{repo}", progress)
    top, data = registry.get_manifest(repo, ref)
    manifests = list(_manifests(registry, repo, layout, top, data, tally))
    blobs = {blob.digest: blob for found, text in manifests for blob in links(text, found.media_type).blobs}
    wanted = [blob for blob in blobs.values() if not blob.is_foreign]
    each(registry.options.parallel, wanted, lambda blob: _pull_blob(registry, repo, layout, blob, tally))
    for found, text in reversed(manifests):
        layout.put_bytes(found.digest, text)
    name = name or (ref if is_tag(ref) else None)
    listed = Descriptor(top.media_type, top.digest, top.size, annotations={REF_NAME: name} if name else {})
    others = [old for old in layout.index() if old.annotations.get(REF_NAME) != name or (not name and old != listed)]
    layout.set_index([*others, listed])
    return PullSummary(listed, *tally.of(DOWNLOADED), *tally.of(SKIPPED))


def _manifests(
    registry: Registry, repo: str, layout: Layout, top: Descriptor, data: bytes, tally: _Tally
) -> Iterator[tuple[Descriptor, bytes]]:
    """Yield every manifest with its bytes, each once."""
    waiting = [(top, data)]
    seen = {top.digest}
    while waiting:
        descriptor, text = waiting.pop()
        tally.add(SKIPPED if layout.has(descriptor) else DOWNLOADED, descriptor)
        yield descriptor, text
        for child in links(text, descriptor.media_type).manifests:
            if child.digest not in seen:
                seen.add(child.digest)
                waiting.append((child, _child(registry, repo, layout, child)))


def _child(registry: Registry, repo: str, layout: Layout, child: Descriptor) -> bytes:
    if layout.has(child):
        return layout.read(child.digest)
    _, data = registry.get_manifest(repo, child.digest)
    if len(data) != child.size:
        raise NetworkError(
            f"{registry.host}/{repo}: {child.digest} has {len(data)} bytes, its index says {child.size}",
            hint="whoever made the index did it wrongly: ask for another one",
        )
    return data


def _pull_blob(registry: Registry, repo: str, layout: Layout, blob: Descriptor, tally: _Tally) -> None:
    if layout.has(blob):
        tally.add(SKIPPED, blob)
        return
    registry.get_blob(repo, blob.digest, layout.blob_path(blob.digest), size=blob.size)
    tally.add(DOWNLOADED, blob)
