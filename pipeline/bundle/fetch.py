"""Images from registries into the store: byte for byte, with everything that is attached to them.

Manifests come first, then every blob that they name, each once, several at once for each registry. What is in the
store is not fetched again, so a fetch that was interrupted goes on where it was.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from pipeline.bundle import images as lists
from pipeline.bundle.model import Attachment, Image
from pipeline.bundle.store import LayoutSource, check_space
from pipeline.bundle.trees import Choice, Manifests, Tree, fits
from pipeline.core import progress
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import OCI_CONFIG, Descriptor, Layout, NotThereError, Platform

if TYPE_CHECKING:
    from pipeline.bundle.images import Wanted
    from pipeline.oci import Registry

T = TypeVar("T")
R = TypeVar("R")
Resolved = tuple["Wanted", Manifests, Descriptor]
CONFIGS = (OCI_CONFIG, "application/vnd.docker.container.image.v1+json")
MB = 1e6
TELL_EVERY = 2.0  # seconds between two lines about work that goes on
_GONE = "check the name; or it has been deleted from the registry: push it again, or take it out of the list"


class Hosts:
    """The registries that are asked, each by as many threads as its options allow; a context manager."""

    def __init__(self, registries: Callable[[str], Registry]) -> None:
        self._registries = registries
        self._known: dict[str, Registry] = {}
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def registry(self, host: str) -> Registry:
        """Return a registry, the same one each time."""
        if host not in self._known:
            self._known[host] = self._registries(host)
            self._pools[host] = ThreadPoolExecutor(max(1, self._known[host].options.parallel))
        return self._known[host]

    def each(
        self, items: Sequence[T], host: Callable[[T], str], do: Callable[[T], R], tell: Callable[[int], None]
    ) -> list[R]:
        """Do something with each item, several at once; the first failure is raised when those that run have ended.

        Args:
            items: what to do it with.
            host: which registry an item asks.
            do: what to do.
            tell: called now and then with the number of items that are done.

        Returns:
            What came of each item, in their order.
        """
        hosts = [host(item) for item in items]
        for name in hosts:
            self.registry(name)
        running: list[Future[R]] = [
            self._pools[name].submit(contextvars.copy_context().run, do, item)
            for name, item in zip(hosts, items, strict=True)
        ]
        try:
            left = set(running)
            while left:
                done, left = wait(left, TELL_EVERY, FIRST_EXCEPTION)
                for one in done:
                    one.result()
                tell(len(running) - len(left))
        except BaseException:
            for one in running:
                one.cancel()
            wait(running)
            raise
        return [one.result() for one in running]


@dataclass(frozen=True)
class _Found:
    """What an image's name stands for, what of it is taken, what that runs on, and what all of it runs on."""

    wanted: Wanted
    manifests: Manifests
    root: Descriptor
    tree: Tree
    platforms: tuple[Platform, ...]
    offered: tuple[Platform, ...]


@dataclass(frozen=True)
class _Blob:
    """A blob, and where it is."""

    registry: Registry
    repo: str
    descriptor: Descriptor


def fetch(
    wanted: Sequence[Wanted],
    registries: Callable[[str], Registry],
    store: Layout,
    *,
    skip: Callable[[Descriptor], bool] = lambda _: False,
) -> tuple[Image, ...]:
    """Fetch images with everything that is attached to them.

    Args:
        wanted: the images.
        registries: gives the registry of a host.
        store: where they go; what is there already is not fetched again.
        skip: says which configurations and layers are not needed here; manifests are fetched all.

    Returns:
        What they are, in the order in which they were listed.

    Raises:
        InputError: two of them would have one name at the site, one has none of the wanted platforms, or one is of a
            kind that is not supported, such as schema 1.
        NetworkError: something that is listed cannot be had; it is named.
        StorageError: the store cannot be written. A later fetch goes on from there.
    """
    if problems := [what for _, what in lists.clashes(enumerate(wanted))]:
        raise InputError("\n".join(problems), hint="give one of them another repository or other tags")
    source = LayoutSource(store)
    with Hosts(registries) as hosts:
        with progress.step("manifests"):
            found = _take(hosts, _resolve(hosts, wanted, source), source)
            attached = _attached(hosts, found)
        images, blobs = _listed(found, attached)
        with progress.step("blobs"):
            _fetch_blobs(hosts, [blob for blob in blobs if not skip(blob.descriptor)], source)
    return tuple(_image(one, *more) for one, more in zip(found, images, strict=True))


def _image(found: _Found, manifests: tuple[str, ...], attachments: tuple[Attachment, ...]) -> Image:
    return Image(
        source=str(found.wanted.reference),
        repository=found.wanted.repository,
        tags=found.wanted.tags,
        root=found.root,
        platforms=found.platforms,
        manifests=manifests,
        left_out=found.tree.left_out,
        attachments=attachments,
    )


# --- manifests


def _resolve(hosts: Hosts, wanted: Sequence[Wanted], source: LayoutSource) -> list[Resolved]:
    """Ask what each name stands for, once."""

    def find(one: Wanted) -> tuple[Wanted, Manifests, Descriptor | None]:
        manifests = Manifests(hosts.registry(one.place.host), one.place.repository, source)
        top = manifests.find(one.place.name)
        return one, manifests, Descriptor(top.media_type, top.digest, top.size) if top else None

    asked = hosts.each(wanted, lambda one: one.place.host, find, _teller("names", len(wanted)))
    if gone := [str(one.place) for one, _, top in asked if top is None]:
        raise NotThereError("not in the registry:\n  " + "\n  ".join(gone), hint=_GONE)
    return [(one, manifests, top) for one, manifests, top in asked if top is not None]


def _take(hosts: Hosts, resolved: Sequence[Resolved], source: LayoutSource) -> list[_Found]:
    """Read the manifests of every image that is taken."""

    def read(one: Resolved, also: frozenset[str] = frozenset()) -> _Found:
        wanted, manifests, top = one
        tree = manifests.tree(top, Choice(wanted.platforms, also))
        if tree.offered:
            return _Found(wanted, manifests, top, tree, tree.platforms, tree.offered)
        platform = _configured(manifests, top, source)
        offered = (platform,) if platform else ()
        fitting = tuple(one for one in offered if any(fits(one, other) for other in wanted.platforms or (one,)))
        return _Found(wanted, manifests, top, tree, fitting, offered)

    tell = _teller("images' manifests", len(resolved))
    found = hosts.each(resolved, lambda one: one[0].place.host, read, tell)
    for one in found:
        _check_platforms(one)
    # An image that is carried for one index is not left out of another one.
    carried = frozenset(manifest.digest for one in found for manifest in one.tree.manifests)
    return [
        read((one.wanted, one.manifests, one.root), carried) if carried & set(one.tree.left_out) else one
        for one in found
    ]


def _check_platforms(found: _Found) -> None:
    wanted = found.wanted
    if not found.offered:  # it is no image that runs, or does not say what it runs on
        return
    lacking = [one for one in wanted.platforms or () if not any(fits(there, one) for there in found.platforms)]
    if lacking and (wanted.is_exact or not found.platforms):
        raise InputError(
            f"{wanted.reference}: there is no image for {', '.join(map(str, lacking))}",
            hint=f"it has {', '.join(map(str, found.offered))}: name one of these in its platforms",
        )
    for one in lacking:
        progress.note(f"{wanted.reference}: there is no image for {one}; the others are carried")


def _configured(manifests: Manifests, root: Descriptor, source: LayoutSource) -> Platform | None:
    """Return what a single image says in its configuration that it runs on."""
    config = next(iter(manifests.links(root).blobs), None)
    if config is None or config.media_type not in CONFIGS:
        return None
    if not source.holds(config):
        _fetch_blob(_Blob(manifests.registry, manifests.repo, config), source)
    with contextlib.suppress(ValueError, AttributeError, InputError):  # it may hold anything
        return Platform.from_json(json.loads(source.layout.read(config.digest)))
    return None


def _attached(hosts: Hosts, found: Sequence[_Found]) -> list[tuple[tuple[Attachment, ...], tuple[Descriptor, ...]]]:
    return hosts.each(
        found,
        lambda one: one.wanted.place.host,
        lambda one: one.manifests.attachments(one.tree.manifests),
        _teller("images' signatures", len(found)),
    )


def _listed(
    found: Sequence[_Found], attached: Sequence[tuple[tuple[Attachment, ...], tuple[Descriptor, ...]]]
) -> tuple[list[tuple[tuple[str, ...], tuple[Attachment, ...]]], list[_Blob]]:
    """Return each image's manifests and attachments, and every blob that they name, each once."""
    images, blobs, foreign = [], dict[str, _Blob](), dict[str, Descriptor]()
    for one, (attachments, more) in zip(found, attached, strict=True):
        manifests = {manifest.digest: manifest for manifest in (*one.tree.manifests, *more)}
        images.append((tuple(manifests), attachments))
        for manifest in manifests.values():
            for blob in one.manifests.links(manifest).blobs:
                if blob.is_foreign:
                    foreign[blob.digest] = blob
                else:
                    blobs.setdefault(blob.digest, _Blob(one.manifests.registry, one.manifests.repo, blob))
    for digest in sorted(foreign.keys() - blobs.keys()):
        progress.note(f"{digest}: a layer that may not be passed on; the site has to get it from its maker")
    return images, list(blobs.values())


# --- blobs


def _fetch_blobs(hosts: Hosts, blobs: Sequence[_Blob], source: LayoutSource) -> None:
    missing = [blob for blob in blobs if not source.holds(blob.descriptor)]
    total, there = (sum(blob.descriptor.size for blob in some) for some in (blobs, missing))
    progress.log(f"{len(blobs)} blobs, {total / MB:.1f} MB; {len(missing)} of them, {there / MB:.1f} MB, to fetch")
    check_space(source.layout.path, there - sum(source.arrived(one.descriptor.digest) for one in missing), "to fetch")
    begun = time.monotonic()

    def get(blob: _Blob) -> None:
        _fetch_blob(blob, source)

    def tell(done: int) -> None:
        arrived = sum(source.arrived(blob.descriptor.digest) for blob in missing)
        rate = arrived / MB / max(time.monotonic() - begun, 0.001)
        progress.log(f"{done} of {len(missing)} blobs, {arrived / MB:.1f} of {there / MB:.1f} MB, {rate:.1f} MB/s")

    hosts.each(missing, lambda blob: blob.registry.host, get, tell)
    progress.remark(f"{len(missing)} fetched, {there / MB:.1f} MB; {len(blobs) - len(missing)} were there")


def _fetch_blob(blob: _Blob, source: LayoutSource) -> None:
    """Fetch a blob, checked; what was there under its name was damaged."""
    digest = blob.descriptor.digest
    source.discard(digest)
    try:
        blob.registry.get_blob(blob.repo, digest, source.layout.blob_path(digest), size=blob.descriptor.size)
    except NotThereError as error:
        raise NetworkError(
            f"{blob.registry.host}/{blob.repo}: {digest}: a manifest names this blob, the registry lacks it",
            hint="the image is damaged in the registry: push it again",
        ) from error
    source.mark(digest)


def _teller(what: str, count: int) -> Callable[[int], None]:
    return lambda done: progress.log(f"{done} of {count} {what}")
