"""The manifests of an image: which of an index are taken, and which signatures and documents are attached to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.model import Attachment
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import Descriptor, Links, Platform, links

if TYPE_CHECKING:
    from pipeline.bundle.store import LayoutSource
    from pipeline.oci import Registry

SUBJECT = "vnd.docker.reference.digest"  # annotation of BuildKit's attestations: the image that one is about
UNKNOWN = "unknown"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
COSIGN_SUFFIXES = (".sig", ".att", ".sbom")  # cosign's specification of signatures in registries
DEEPEST = 3  # a signature of an SBOM's signature
_WRONG = "whoever made the index did it wrongly: ask for another one"


@dataclass(frozen=True)
class Choice:
    """Which images of an index are taken.

    Attributes:
        platforms: those for these; None for all.
        also: digests of others.
    """

    platforms: tuple[Platform, ...] | None = None
    also: frozenset[str] = frozenset()


EVERYTHING = Choice()


@dataclass(frozen=True)
class Tree:
    """An image's manifests, or an index's with those of its images that are taken.

    Attributes:
        manifests: all of them, the root first, each once.
        platforms: what the taken images run on.
        offered: what all of them run on.
        left_out: digests of the images that are not taken.
    """

    manifests: tuple[Descriptor, ...]
    platforms: tuple[Platform, ...]
    offered: tuple[Platform, ...]
    left_out: tuple[str, ...]


def fits(platform: Platform, wanted: Platform) -> bool:
    """Return whether an image's platform is a wanted one; one without a variant takes every variant."""
    same = (platform.os, platform.architecture) == (wanted.os, wanted.architecture)
    return same and (not wanted.variant or _variant(platform) == _variant(wanted))


def _variant(platform: Platform) -> str:
    """Return the variant; arm64 without one is v8 (containerd's platforms package)."""
    return platform.variant or ("v8" if platform.architecture == "arm64" else "")


def choose(children: Sequence[Descriptor], choice: Choice) -> tuple[Descriptor, ...]:
    """Return which children of an index are taken.

    An attestation goes with the image that it is about; what says nothing of its platform is taken.
    """
    if choice.platforms is None:
        return tuple(children)
    subjects = {child.digest: child.annotations.get(SUBJECT) for child in children}
    taken = {child.digest for child in children if subjects[child.digest] not in subjects and _is_taken(child, choice)}
    return tuple(child for child in children if child.digest in taken or subjects[child.digest] in taken)


def _is_taken(child: Descriptor, choice: Choice) -> bool:
    if child.digest in choice.also or not says_platform(child):
        return True
    return any(fits(child.platform, wanted) for wanted in choice.platforms or () if child.platform is not None)


def says_platform(child: Descriptor) -> bool:
    """Return whether an index says what an image runs on."""
    return child.platform is not None and UNKNOWN not in (child.platform.os, child.platform.architecture)


class Manifests:
    """The manifests of one repository, which go into the store as they are read.

    Args:
        registry: where they are.
        repo: the repository there.
        source: the store.
    """

    def __init__(self, registry: Registry, repo: str, source: LayoutSource) -> None:
        self.registry, self.repo, self._source = registry, repo, source

    def find(self, ref: str) -> Descriptor | None:
        """Return what a tag or digest stands for; None if it is not there.

        Raises:
            NetworkError: the registry cannot be asked.
            InputError: it is of schema 1.
        """
        found = self.registry.head_manifest(self.repo, ref)
        if found is not None and found.media_type.startswith(SCHEMA_1):  # its digest is not that of its bytes
            self._links(b'{"schemaVersion":1}', found)
        return found

    def read(self, descriptor: Descriptor) -> bytes:
        """Return a manifest's bytes.

        Raises:
            NetworkError: it cannot be had, or is not what it should be.
            StorageError: the store cannot be written.
        """
        if self._source.layout.has(descriptor):
            return self._source.layout.read(descriptor.digest)
        _, data = self.registry.get_manifest(self.repo, descriptor.digest)
        if len(data) != descriptor.size:
            raise NetworkError(
                f"{self._what(descriptor)} has {len(data)} bytes, not the {descriptor.size} that are said of it",
                hint=_WRONG,
            )
        self._source.layout.put_bytes(descriptor.digest, data)
        return data

    def links(self, descriptor: Descriptor) -> Links:
        """Return what a manifest refers to.

        Raises:
            NetworkError: it cannot be had.
            InputError: it is of a kind that is not known here, such as schema 1.
        """
        return self._links(self.read(descriptor), descriptor)

    def tree(self, root: Descriptor, choice: Choice = EVERYTHING) -> Tree:
        """Read an image, or an index with those of its images that are taken.

        Raises:
            NetworkError: a manifest cannot be had.
            InputError: one is of a kind that is not known here.
        """
        manifests: dict[str, Descriptor] = {}
        platforms: dict[Platform, None] = {}
        offered: dict[Platform, None] = {}
        left_out: dict[str, None] = {}
        waiting = [root]
        while waiting:
            one = waiting.pop(0)
            if one.digest in manifests:
                continue
            manifests[one.digest] = Descriptor(one.media_type, one.digest, one.size)
            children = self.links(one).manifests
            taken = choose(children, choice)
            offered |= {child.platform: None for child in children if child.platform and says_platform(child)}
            platforms |= {child.platform: None for child in taken if child.platform and says_platform(child)}
            left_out |= {child.digest: None for child in children if child not in taken}
            waiting += taken
        rest = tuple(digest for digest in left_out if digest not in manifests)
        return Tree(tuple(manifests.values()), tuple(platforms), tuple(offered), rest)

    # --- what is attached

    def attachments(self, subjects: Sequence[Descriptor]) -> tuple[tuple[Attachment, ...], tuple[Descriptor, ...]]:
        """Find what is attached to manifests, and what is attached to that.

        Args:
            subjects: the manifests.

        Returns:
            The attachments, sorted, and all their manifests.

        Raises:
            NetworkError: something that is listed cannot be had.
            InputError: a manifest is of a kind that is not known here.
        """
        found: dict[tuple[str, str | None], Attachment] = {}
        manifests: dict[str, Descriptor] = {}
        seen = {subject.digest for subject in subjects}
        level = [subject.digest for subject in subjects]
        for _ in range(DEEPEST):
            fresh = [one for subject in level for one in self._attached(subject)]
            found |= {(one.root.digest, one.tag): one for one in fresh}
            trees = [one for attachment in fresh for one in self.tree(attachment.root).manifests]
            manifests |= {one.digest: one for one in trees}
            level = sorted({one.digest for one in trees} - seen)
            seen |= set(level)
        order = sorted(found.values(), key=lambda one: (one.subject, one.tag or "", one.root.digest))
        return tuple(order), tuple(manifests.values())

    def _attached(self, subject: str) -> Iterator[Attachment]:
        """Ask for cosign's tags, the fallback tag and the referrers API, by the distribution specification."""
        name = subject.replace(":", "-")
        for tag in (*(name + suffix for suffix in COSIGN_SUFFIXES), name):
            found = self.find(tag)
            if found is not None:
                yield Attachment(subject, Descriptor(found.media_type, found.digest, found.size), tag)
        listed = self.registry.referrers(self.repo, subject)
        for found in listed.found if listed.has_api else ():
            yield Attachment(subject, Descriptor(found.media_type, found.digest, found.size), None)

    # --- words

    def _what(self, descriptor: Descriptor) -> str:
        return f"{self.registry.host}/{self.repo}: {descriptor.digest}"

    def _links(self, data: bytes, descriptor: Descriptor) -> Links:
        try:
            return links(data, descriptor.media_type)
        except InputError as error:
            raise InputError(f"{self._what(descriptor)}: {error.message}", hint=error.hint) from error
