"""Small images for the tests of packing, with everything that may belong to one."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import oci
from pipeline.oci import Descriptor, LayerEntry, Layout, Platform, Registry

SUBJECT = "vnd.docker.reference.digest"
SIGNATURE_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"


def noise(seed: int, size: int) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - just bytes


@dataclass
class Maker:
    """Puts images into a layout.

    Attributes:
        folder: where it works.
        layout: takes them.
    """

    folder: Path
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.layout = Layout.create(self.folder / "layout")

    def layer(self, name: str, content: bytes) -> Descriptor:
        """Make a gzip layer of one file."""
        oci.write_layer([LayerEntry(name, content)], self.folder / "layer.tar.gz")
        return self.layout.put_blob((self.folder / "layer.tar.gz").read_bytes(), oci.OCI_LAYER)

    def manifest(
        self,
        config: Descriptor,
        layers: Sequence[Descriptor],
        platform: Platform | None = None,
        annotations: Mapping[str, str] | None = None,
        **more: object,
    ) -> Descriptor:
        value = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": config.to_json()} | more
        value["layers"] = [layer.to_json() for layer in layers]
        return self.layout.put_manifest(value, oci.OCI_MANIFEST, platform, annotations)

    def image(self, arch: str, *layers: Descriptor, os: str = "linux") -> Descriptor:
        """Make an image of some layers."""
        config = {"os": os, "architecture": arch, "rootfs": {"type": "layers", "diff_ids": []}}
        return self.manifest(self.layout.put_blob(oci.canonical(config), oci.OCI_CONFIG), layers, Platform(os, arch))

    def attestation(self, subject: Descriptor, text: bytes) -> Descriptor:
        """Make an attestation as BuildKit does: a child of the index beside its subject."""
        statement = self.layout.put_blob(text, "application/vnd.in-toto+json")
        config = self.layout.put_blob(b'{"architecture":"unknown","os":"unknown"}', oci.OCI_CONFIG)
        platform = Platform("unknown", "unknown")
        return self.manifest(config, [statement], platform, {SUBJECT: subject.digest})

    def index(self, *children: Descriptor) -> Descriptor:
        value = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [child.to_json() for child in children]}
        return self.layout.put_manifest(value, oci.OCI_INDEX)

    def signature(self, subject: Descriptor) -> Descriptor:
        """Make a signature's manifest as cosign does; what is signed is not looked at here."""
        payload = self.layout.put_blob(f"signed {subject.digest}".encode(), SIGNATURE_LAYER)
        signed = Descriptor(
            payload.media_type,
            payload.digest,
            payload.size,
            annotations={"dev.cosignproject.cosign/signature": base64.b64encode(b"signature").decode()},
        )
        config = self.layout.put_blob(b'{"architecture":"","os":""}', oci.OCI_CONFIG)
        return self.manifest(config, [signed])

    def artifact(self, subject: Descriptor, text: bytes, kind: str = "application/vnd.example.sbom") -> Descriptor:
        """Make what the referrers API finds: a manifest that names its subject."""
        empty = self.layout.put_blob(b"{}", EMPTY)
        about = Descriptor(subject.media_type, subject.digest, subject.size).to_json()
        return self.manifest(empty, [self.layout.put_blob(text, kind)], subject=about, artifactType=kind)

    def push(self, registry: Registry, repo: str, root: Descriptor, tag: str | None = None) -> None:
        oci.push(self.layout, registry, repo, tag, root=root)


def cosign_tag(subject: Descriptor, suffix: str = "") -> str:
    """Return the tag of what is attached to a manifest."""
    return subject.digest.replace(":", "-") + suffix
