"""Small plain bundles for tests of the format, made without a network."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import oci
from pipeline.bundle.model import Attachment, Base, Blob, Bundle, BundleName, Image, Needed
from pipeline.bundle.tar import blob_path
from pipeline.bundle.write import Writer
from pipeline.oci import Descriptor, Platform

KIB = 1024
SMALL = 64 * KIB
CREATED = "2026-11-25T03:00:00Z"
HOST = "registry.hq:5000"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def noise(seed: int, size: int) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - just bytes


@dataclass
class Made:
    """An image for two architectures, with a signature; its blobs by digest.

    Attributes:
        blobs: what there is.
        image: what ``bundle.json`` says of it.
    """

    seed: int
    repository: str = "platform/app"
    size: int = 100 * KIB
    blobs: dict[str, bytes] = field(default_factory=dict)
    image: Image = field(init=False)

    def __post_init__(self) -> None:
        children = [self._child(platform, number) for number, platform in enumerate((AMD64, ARM64))]
        value = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [one.to_json() for one in children]}
        root = self.put(oci.canonical(value), oci.OCI_INDEX)
        signature = self._manifest(self.put(b"{}", oci.OCI_CONFIG), self.put(b"signed", "application/vnd.signed"))
        name = root.digest.replace(":", "-") + ".sig"
        self.image = Image(
            source=f"{HOST}/{self.repository}:v1",
            repository=self.repository,
            tags=("v1",),
            root=root,
            platforms=(AMD64, ARM64),
            manifests=(root.digest, *(one.digest for one in children), signature.digest),
            attachments=(Attachment(root.digest, signature, name),),
        )

    def put(self, data: bytes, media_type: str, platform: Platform | None = None) -> Descriptor:
        """Keep a blob."""
        digest = oci.digest_of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data), platform)

    def _child(self, platform: Platform, number: int) -> Descriptor:
        config = self.put(oci.canonical(platform.to_json() | {"n": self.seed}), oci.OCI_CONFIG)
        layer = self.put(noise(self.seed * 10 + number, self.size), oci.OCI_LAYER)
        return self._manifest(config, layer, platform)

    def _manifest(self, config: Descriptor, layer: Descriptor, platform: Platform | None = None) -> Descriptor:
        value = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": config.to_json()}
        return self.put(oci.canonical(value | {"layers": [layer.to_json()]}), oci.OCI_MANIFEST, platform)

    @property
    def layers(self) -> list[str]:
        """Digests of the two layers."""
        return sorted(digest for digest, data in self.blobs.items() if len(data) == self.size)


def described(made: Made, name: str = "v1", left: tuple[str, ...] = (), **more: object) -> Bundle:
    """Return the bundle of an image; blobs that are left are the base's."""
    blobs = tuple(Blob(digest, len(data), "plain") for digest, data in sorted(made.blobs.items()) if digest not in left)
    needed = tuple(Needed(digest, len(made.blobs[digest]), (made.repository,)) for digest in sorted(left))
    base = Base((BundleName("sha256:" + "0" * 64, "v0"),), needed) if left else Base()
    bundle = Bundle("patch" if left else "full", name, CREATED, "plain", (made.image,), blobs, base)
    return replace(bundle, **more)  # type: ignore[arg-type]


def write(
    folder: Path,
    made: Made,
    bundle: Bundle | None = None,
    *,
    volume_size: int | None = SMALL,
    key: Path | None = None,
    chunk_size: int | None = None,
    instead: dict[str, bytes] | None = None,
    extra: dict[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle.

    Args:
        folder: takes its volumes.
        made: what is in it.
        bundle: what it says of itself.
        volume_size: bytes of a volume.
        key: signs it.
        chunk_size: bytes of the parts in ``chunks.json``.
        instead: content that is written in place of a blob's own.
        extra: further members.
    """
    bundle = bundle or described(made)
    with Writer(folder, bundle.name, volume_size) as writer:
        for blob in bundle.blobs:
            data = {**made.blobs, **(instead or {})}[blob.digest]
            writer.add(blob_path(blob.digest), len(data), data)
        for path, data in (extra or {}).items():
            writer.add(path, len(data), data)
        return writer.finish(bundle, head_files={}, key=key, chunk_size=chunk_size)
