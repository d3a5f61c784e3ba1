"""What a sync has to do: what the site's registry lacks of a bundle, found out before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.listing import table
from pipeline.core.errors import InputError, VerificationError
from pipeline.core.parallel import each
from pipeline.oci.model import Descriptor, links
from pipeline.oci.reference import is_host, is_repository
from pipeline.oci.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.model import Image
    from pipeline.oci.options import RegistryOptions

MB = 1e6
SHOWN = 20


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
        is_done: whether nothing is to be done.
    """

    image: Image
    repository: str
    manifests: tuple[tuple[Descriptor, bytes], ...]
    blobs: tuple[Descriptor, ...]
    is_done: bool


@dataclass(frozen=True)
class SyncPlan:
    """What is to be done.

    Attributes:
        images: for each image.
        lacking: repositories that lack a blob, by the blob; in the order in which blobs are best sent.
        found: a repository that has a blob which others lack, by the blob's digest.
    """

    images: tuple[ImagePlan, ...]
    lacking: dict[Descriptor, tuple[str, ...]]
    found: dict[str, str]

    @property
    def uploads(self) -> int:
        """Bytes of blobs that no repository is known to have."""
        return sum(blob.size for blob in self.lacking if blob.digest not in self.found)

    def text(self) -> str:
        """Return it for the user."""
        rows = [("image", "to do", "manifests", "blobs", "MB")]
        for plan in self.images:
            size = f"{sum(blob.size for blob in plan.blobs) / MB:.1f}"
            counts = ("", "", "") if plan.is_done else (str(len(plan.manifests)), str(len(plan.blobs)), size)
            name = ", ".join([f"{plan.repository}:{tag}" for tag in plan.image.tags] or [plan.repository])
            rows.append((name, "nothing" if plan.is_done else "send", *counts))
        mounts = sum(len(repositories) for repositories in self.lacking.values()) - len(self.lacking)
        sent = sum(1 for blob in self.lacking if blob.digest not in self.found)
        last = f"{sent} blobs of {self.uploads / MB:.1f} MB to send, {mounts + len(self.lacking) - sent} to mount"
        return "\n".join([*table(rows), "", last])


def make_plan(archive: Archive, target: Target) -> SyncPlan:
    """Ask the site's registry what it lacks; nothing is written.

    Args:
        archive: the bundle.
        target: where it goes.

    Raises:
        VerificationError: the site lacks what the bundle builds on, or the bundle is not whole.
        NetworkError: the registry cannot be asked.
    """
    found = _check_base(archive, target)
    images = each(
        target.registry.options.parallel, archive.bundle.images, lambda one: _plan_image(archive, target, one)
    )
    return SyncPlan(tuple(images), _lacking(images), found)


def _lacking(images: Sequence[ImagePlan]) -> dict[Descriptor, tuple[str, ...]]:
    """Join the images' blobs: each once, as it may have several media types, with all repositories that lack it."""
    first: dict[str, Descriptor] = {}
    lacking: dict[Descriptor, tuple[str, ...]] = {}
    for plan in images:
        for blob in plan.blobs:
            one = first.setdefault(blob.digest, Descriptor(blob.media_type, blob.digest, blob.size))
            if plan.repository not in lacking.get(one, ()):
                lacking[one] = (*lacking.get(one, ()), plan.repository)
    return lacking


def _check_base(archive: Archive, target: Target) -> dict[str, str]:
    """Look for exactly what the bundle builds on; returns where each digest was found."""
    needed = archive.bundle.base.digests

    def find(number: int) -> str | None:
        one = needed[number]
        for path in one.repositories:
            if target.registry.has_blob(target.repository(path), one.digest):
                return target.repository(path)
        return None

    places = each(target.registry.options.parallel, range(len(needed)), find)
    missing = [one.digest for one, place in zip(needed, places) if place is None]  # noqa: B905 - not in 3.6
    if missing:
        names = ", ".join(one.name for one in archive.bundle.base.bundles)
        more = [f"... and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        listed = "\n  ".join([*missing[:SHOWN], *more])
        what = f"{len(missing)} of {len(needed)} blobs that {archive.bundle.name} builds on"
        raise VerificationError(
            f"{target.registry.host} lacks {what}:\n  {listed}",
            hint=f"sync its base first ({names}), to the same registry and prefix; nothing was written",
        )
    return {one.digest: place for one, place in zip(needed, places) if place is not None}  # noqa: B905


def _plan_image(archive: Archive, target: Target, image: Image) -> ImagePlan:
    repository = target.repository(image.repository)
    if _is_done(target.registry, repository, image):
        return ImagePlan(image, repository, (), (), is_done=True)
    manifests: list[tuple[Descriptor, bytes]] = []
    blobs: dict[str, Descriptor] = {}
    seen: set[str] = set()
    for root in image.roots:
        for descriptor, data in archive.walk(root):
            if data is None or descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            # A registry takes a manifest only after its blobs, so one that is there has them.
            if target.registry.head_manifest(repository, descriptor.digest) is not None:
                continue
            manifests.append((descriptor, data))
            for blob in links(data, descriptor.media_type).blobs:
                if _is_sent(archive, blob):
                    blobs.setdefault(blob.digest, blob)
    lacking = [blob for blob in blobs.values() if not target.registry.has_blob(repository, blob.digest)]
    return ImagePlan(image, repository, tuple(manifests), tuple(lacking), is_done=False)


def _is_sent(archive: Archive, blob: Descriptor) -> bool:
    """Whether a blob goes to the registry: all do but layers that may not be passed on, and are not here."""
    return archive.has(blob.digest) or not blob.is_foreign


def _is_done(registry: Registry, repository: str, image: Image) -> bool:
    """Ask for each name only: who tagged an image last did so after everything else was there."""
    names = [(tag, image.root.digest) for tag in image.tags] or [(image.root.digest, image.root.digest)]
    for attachment in image.attachments:
        names.append((attachment.tag or attachment.root.digest, attachment.root.digest))
    for name, digest in names:
        there = registry.head_manifest(repository, name)
        if there is None or there.digest != digest:
            return False
    return True
