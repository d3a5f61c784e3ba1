"""Words of the OCI image format: digests, platforms, descriptors, and what a manifest refers to."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"  # and the same with +json or +prettyjws
BLOCK = 1024**2
REF_NAME = "org.opencontainers.image.ref.name"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*")
_DAMAGED = "the file is damaged, or whoever wrote it did not keep to the OCI image format"


def is_digest(text: str) -> bool:
    """Return whether a text is a digest: ``sha256:`` or ``sha512:`` and its hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file's content, which is not read whole into memory."""
    hasher = hashlib.new(algorithm)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            hasher.update(block)
    return f"{algorithm}:{hasher.hexdigest()}"


def matches(data: bytes, digest: str) -> bool:
    """Return whether some bytes are those that a digest stands for."""
    algorithm, _, hexadecimal = digest.partition(":")
    return is_digest(digest) and hashlib.new(algorithm, data).hexdigest() == hexadecimal


def canonical(value: object) -> bytes:
    """Return a value as JSON that is the same each time: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


@dataclass(frozen=True)
class Platform:
    """What an image runs on.

    Attributes:
        os: as Go names it ("linux").
        architecture: as Go names it ("amd64").
        variant: of the architecture ("v8"); empty if it has none.
    """

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``linux/arm64`` or ``linux/arm64/v8``.

        Raises:
            InputError: it is no platform.
        """
        if not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?", text):
            raise InputError(f"{text!r} is not a platform", hint="write it as linux/amd64 or linux/arm64/v8")
        return cls(*text.split("/"))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """Read a platform object of an index, or the same keys of an image's configuration.

        Raises:
            InputError: a key is missing or is no text.
        """
        words = [value.get("os"), value.get("architecture"), value.get("variant", "")]
        if not all(isinstance(word, str) for word in words):
            raise InputError("a platform lacks its os or architecture", hint=_DAMAGED)
        return cls(*words)

    def to_json(self) -> dict[str, Any]:
        """Return the object for an index; keys without a value are left out."""
        words = {"os": self.os, "architecture": self.architecture, "variant": self.variant}
        return {key: word for key, word in words.items() if word}


@dataclass(frozen=True)
class Descriptor:
    """What is known of a blob or manifest: enough to fetch it and to check it.

    Attributes:
        media_type: what it is.
        digest: the hash that names it.
        size: its bytes.
        platform: what it runs on, if it stands in an index and says so.
        annotations: what its index says about it.

    Raises:
        InputError: digest, size or media type cannot be ones.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not is_digest(self.digest):
            raise InputError(f"{self.digest!r} is not a sha256 or sha512 digest", hint=_DAMAGED)
        if self.size < 0:
            raise InputError(f"{self.digest}: {self.size} is not a size", hint=_DAMAGED)
        if not _MEDIA_TYPE.fullmatch(self.media_type):
            raise InputError(f"{self.digest}: {self.media_type!r} is not a media type", hint=_DAMAGED)

    @property
    def is_index(self) -> bool:
        """Whether it is a list of images, rather than one."""
        return self.media_type in INDEXES

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that may not be passed on, and lies elsewhere."""
        return ".foreign." in self.media_type or ".nondistributable." in self.media_type

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Read a descriptor of a foreign manifest; what we have no use for is left out.

        Raises:
            InputError: it is none.
        """
        if not isinstance(value, dict):
            raise InputError("a descriptor is not an object", hint=_DAMAGED)
        media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
        if not isinstance(media_type, str) or not isinstance(digest, str) or type(size) is not int:
            raise InputError("a descriptor lacks its mediaType, digest or size", hint=_DAMAGED)
        platform, annotations = value.get("platform"), value.get("annotations") or {}
        if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
            raise InputError(f"{digest}: its annotations are not texts", hint=_DAMAGED)
        found = Platform.from_json(platform) if isinstance(platform, dict) else None
        return cls(media_type, digest, size, found, annotations)

    def to_json(self) -> dict[str, Any]:
        """Return the object for a manifest of ours; keys without a value are left out."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


@dataclass(frozen=True)
class Links:
    """What a manifest refers to.

    Attributes:
        manifests: the images of an index.
        blobs: configuration and layers of an image.
    """

    manifests: tuple[Descriptor, ...] = ()
    blobs: tuple[Descriptor, ...] = ()


def links(data: bytes, media_type: str) -> Links:
    """Return what a manifest refers to.

    Args:
        data: the manifest's bytes.
        media_type: what it was announced as.

    Raises:
        InputError: it is no manifest, or one of a kind that has no digests for its parts (schema 1).
    """
    value = parse_manifest(data)
    if media_type.startswith(SCHEMA_1) or value.get("schemaVersion") == 1:
        hint = "it is older than 2016: pull it with docker or podman, and push it again in a current format"
        raise InputError("the manifest is of schema 1, which is not supported", hint=hint)
    if isinstance(value.get("manifests"), list):
        return Links(manifests=tuple(map(Descriptor.from_json, value["manifests"])))
    layers = value.get("layers", value.get("blobs", []))
    if not isinstance(layers, list) or not ({"config", "layers", "blobs"} & value.keys()):
        raise InputError(f"a {media_type} refers to nothing that is known here", hint=_DAMAGED)
    config = [value["config"]] if "config" in value else []
    return Links(blobs=tuple(map(Descriptor.from_json, [*config, *layers])))


def parse_manifest(data: bytes) -> dict[str, Any]:
    """Return a manifest as an object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"a manifest is not JSON: {error}", hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise InputError("a manifest is not a JSON object", hint=_DAMAGED)
    return value
