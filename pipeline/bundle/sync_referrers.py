"""The fallback tag: how what refers to a manifest is listed in a registry that has no referrers API.

OCI distribution specification 1.1, "Referrers Tag Schema" and "Pushing Manifests with Subject": it names an index of
all that refers to the manifest, which whoever pushes such a thing has to keep. What the site has listed there stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError
from pipeline.oci import (
    OCI_INDEX,
    Descriptor,
    NotThereError,
    fallback_entries,
    fallback_entry,
    fallback_index,
    fallback_tag,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.bundle.archive import Archive
    from pipeline.bundle.model import Image
    from pipeline.oci import Registry


@dataclass(frozen=True)
class Listing:
    """What a bundle brings that refers to a manifest.

    Attributes:
        subject: the manifest's digest.
        index: the fallback tag's index that the bundle carries; None if it carries none.
        loose: what names its subject itself.
    """

    subject: str
    index: Descriptor | None
    loose: tuple[Descriptor, ...]

    @property
    def tag(self) -> str:
        """The fallback tag."""
        return fallback_tag(self.subject)


def listings(image: Image) -> tuple[Listing, ...]:
    """Return what an image brings that refers to manifests, for each of these."""
    indexes: dict[str, Descriptor] = {}
    loose: dict[str, list[Descriptor]] = {}
    for one in image.attachments:
        if one.tag is None:
            loose.setdefault(one.subject, []).append(one.root)
        elif one.tag == fallback_tag(one.subject):
            indexes[one.subject] = one.root
    subjects = sorted({*indexes, *loose})
    return tuple(Listing(subject, indexes.get(subject), tuple(loose.get(subject, ()))) for subject in subjects)


class Referrers:
    """Finds out what has to be written under fallback tags; threads may share it.

    Args:
        registry: the site's.
        archive: the bundle.
    """

    def __init__(self, registry: Registry, archive: Archive) -> None:
        self._registry, self._archive = registry, archive
        self._has_api = False  # once it is known; in a repository that is not there yet nobody can tell

    def outcome(self, repository: str, listing: Listing) -> tuple[bytes, str] | None:
        """Return what the fallback tag has to stand for: a manifest's bytes and media type.

        Args:
            repository: a repository of the site, which is there.
            listing: what the bundle brings.

        Returns:
            None if nothing has to be written.

        Raises:
            NetworkError: the registry cannot be asked.
            VerificationError: the bundle is damaged.
        """
        loose = () if self._lists_itself(repository, listing) else listing.loose
        if listing.index is None and not loose:
            return None
        own = self._own(listing)
        wanted = dict(own)
        for root in loose:
            wanted.setdefault(root.digest, fallback_entry(root, self._archive.read(root.digest)))
        there = self._there(repository, listing)
        if there is not None and wanted.keys() <= there.keys():
            return None
        kept = {digest: one for digest, one in (there or {}).items() if digest not in wanted}
        kept = {digest: one for digest, one in kept.items() if self._registry.head_manifest(repository, digest)}
        if listing.index is not None and not kept and wanted.keys() == own.keys():
            return self._archive.read(listing.index.digest), listing.index.media_type
        return fallback_index([*kept.values(), *wanted.values()]), OCI_INDEX

    def _lists_itself(self, repository: str, listing: Listing) -> bool:
        """Whether the registry knows itself what refers to what."""
        if listing.loose and not self._has_api:
            self._has_api = self._registry.referrers(repository, listing.subject).has_api
        return self._has_api

    def _own(self, listing: Listing) -> Mapping[str, Any]:
        return {} if listing.index is None else fallback_entries(self._archive.read(listing.index.digest))

    def _there(self, repository: str, listing: Listing) -> Mapping[str, Any] | None:
        if listing.index is not None and not listing.loose:
            found = self._registry.head_manifest(repository, listing.tag)
            if found is None:
                return None
            if found.digest == listing.index.digest:
                return self._own(listing)
        try:
            return fallback_entries(self._registry.get_manifest(repository, listing.tag)[1])
        except NotThereError:
            return None
        except InputError:  # whatever it is, it lists nothing
            return None
