"""What a bundle says of itself: ``bundle.json``, read and written. Its sha256 is the bundle's identity."""

from __future__ import annotations

import abc
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.oci import Descriptor, Platform, canonical, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

VERSION = 1
FULL, PATCH, UPGRADE = "full", "patch", "upgrade"
KINDS = (FULL, PATCH, UPGRADE)
PLAIN, LEAN = "plain", "lean"
STORES = (PLAIN, LEAN)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Return whether a text can be a bundle's name: it is part of file names."""
    return _NAME.fullmatch(text) is not None


class BlobSource(abc.ABC):
    """Where blobs come from: a bundle, a layout, a registry."""

    @abc.abstractmethod
    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a blob.

        Args:
            digest: which one.
            offset: bytes to leave out at its beginning.

        Returns:
            Its exact bytes; the caller closes it.

        Raises:
            VerificationError: it is not there.
        """


@dataclass(frozen=True)
class Attachment:
    """What belongs to an image: a signature, an attestation, an SBOM.

    Attributes:
        subject: digest of the manifest that it is about.
        root: its own manifest or index.
        tag: the tag that it is found by; None if it names its subject itself (the referrers API).
    """

    subject: str
    root: Descriptor
    tag: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the object for ``bundle.json``."""
        return {"subject": self.subject, "tag": self.tag, "root": self.root.to_json()}


@dataclass(frozen=True)
class Image:
    """An image of a bundle, of one or of several platforms.

    Attributes:
        source: where it was read, as ``host/path:tag`` or ``host/path@digest``.
        repository: its path in the site's registry.
        tags: its names there; none if only its digest names it.
        root: its manifest, or its index.
        platforms: what it runs on.
        manifests: digests of its index, its images, and of every manifest of its attachments.
        left_out: digests of images of its index that are not carried, as their platforms were not asked for.
        attachments: what belongs to it.
    """

    source: str
    repository: str
    tags: tuple[str, ...]
    root: Descriptor
    platforms: tuple[Platform, ...]
    manifests: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()

    @property
    def roots(self) -> tuple[Descriptor, ...]:
        """Its own root and those of its attachments."""
        return (self.root, *(attachment.root for attachment in self.attachments))

    def to_json(self) -> dict[str, Any]:
        """Return the object for ``bundle.json``."""
        return {
            "source": self.source,
            "repository": self.repository,
            "tags": list(self.tags),
            "root": self.root.to_json(),
            "platforms": [str(platform) for platform in self.platforms],
            "manifests": list(self.manifests),
            "left_out": list(self.left_out),
            "attachments": [attachment.to_json() for attachment in self.attachments],
        }


@dataclass(frozen=True)
class Blob:
    """A manifest, configuration or layer that is carried.

    Attributes:
        digest: what it is.
        size: its bytes, as a registry has them.
        stored: ``plain`` or ``lean``.
    """

    digest: str
    size: int
    stored: str


@dataclass(frozen=True)
class Needed:
    """What the site must have already.

    Attributes:
        digest: a configuration or layer.
        size: its bytes.
        repositories: paths where the base put it.
    """

    digest: str
    size: int
    repositories: tuple[str, ...]


@dataclass(frozen=True)
class BundleName:
    """Another bundle.

    Attributes:
        id: sha256 of its ``bundle.json``, as a digest.
        name: what it is called.
    """

    id: str
    name: str


@dataclass(frozen=True)
class Base:
    """What a patch or upgrade is put on.

    Attributes:
        bundles: which bundles.
        digests: exactly what of them is needed.
    """

    bundles: tuple[BundleName, ...] = ()
    digests: tuple[Needed, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume after the head.

    Attributes:
        name: its file's name.
        size: its bytes.
        sha256: of its content, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class HeadFile:
    """A file in the head.

    Attributes:
        path: its path in the tar.
        size: its bytes.
        sha256: of its content, in hexadecimal.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class LeanInfo:
    """How the lean part was made.

    Attributes:
        helper: sha256 of the program that makes gzip streams again.
        encoders: those that occur, with their parameters.
        chunker: how layers were cut.
        frame: how chunks were compressed.
    """

    helper: str
    encoders: tuple[Mapping[str, Any], ...]
    chunker: Mapping[str, Any]
    frame: Mapping[str, int]


@dataclass(frozen=True)
class Bundle:
    """What ``bundle.json`` says.

    Attributes:
        kind: ``full``, ``patch`` or ``upgrade``.
        name: what it is called.
        created: when, in UTC, as ``2026-11-25T03:00:00Z``.
        store: ``plain`` or ``lean``.
        images: the images that it lists.
        blobs: what it carries, by digest.
        base: what the site must have.
        volumes: the volumes after the head.
        files: the files of the head but ``bundle.json`` and its signature.
        lean: how the lean part was made; None for a plain bundle.
    """

    kind: str
    name: str
    created: str
    store: str
    images: tuple[Image, ...]
    blobs: tuple[Blob, ...]
    base: Base = field(default_factory=Base)
    volumes: tuple[Volume, ...] = ()
    files: tuple[HeadFile, ...] = ()
    lean: LeanInfo | None = None

    @property
    def id(self) -> str:
        """Its identity."""
        return digest_of(self.to_bytes())

    @property
    def total(self) -> int:
        """Bytes of everything that it carries, as registries have it."""
        return sum(blob.size for blob in self.blobs)

    def carries(self, digest: str) -> bool:
        """Return whether something is carried."""
        return digest in self._carried

    @property
    def _carried(self) -> frozenset[str]:
        known: frozenset[str] | None = self.__dict__.get("_digests")
        if known is None:  # computed once: it is asked for each blob
            known = frozenset(blob.digest for blob in self.blobs)
            object.__setattr__(self, "_digests", known)
        return known

    def with_volumes(self, volumes: Sequence[Volume], files: Sequence[HeadFile]) -> Bundle:
        """Return the same bundle with its volumes and the files of its head."""
        return replace(self, volumes=tuple(volumes), files=tuple(files))

    def to_bytes(self) -> bytes:
        """Return ``bundle.json``: canonical, so that the same bundle has the same identity."""
        lean = self.lean
        value = {
            "version": VERSION,
            "kind": self.kind,
            "name": self.name,
            "created": self.created,
            "store": self.store,
            "images": [image.to_json() for image in self.images],
            "blobs": [{"digest": one.digest, "size": one.size, "stored": one.stored} for one in self.blobs],
            "base": {
                "bundles": [{"id": one.id, "name": one.name} for one in self.base.bundles],
                "digests": [
                    {"digest": one.digest, "size": one.size, "repositories": list(one.repositories)}
                    for one in self.base.digests
                ],
            },
            "volumes": [{"name": one.name, "size": one.size, "sha256": one.sha256} for one in self.volumes],
            "files": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in self.files],
            "lean": lean
            and {
                "helper": lean.helper,
                "encoders": [dict(encoder) for encoder in lean.encoders],
                "chunker": dict(lean.chunker),
                "frame": dict(lean.frame),
            },
        }
        return canonical(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Read ``bundle.json``.

        Raises:
            InputError: it is none, or of a version that is not known; the key is named.
        """
        from pipeline.bundle.model_json import read  # which needs what is defined here

        return read(data)
