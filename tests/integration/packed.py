"""Small images for the tests of packing, with everything that may belong to one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import oci
from pipeline.bundle import helper
from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Options
from pipeline.bundle.codec import Codec, Encoder
from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.pack import pack
from pipeline.core.cache import cache_root
from pipeline.oci import Descriptor, LayerEntry, Layout, Platform, Reference, Registry, RegistryOptions

SUBJECT = "vnd.docker.reference.digest"
SIGNATURE_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
KIB = 1024
QUICK = {"retries": 2, "timeout": 20.0, "backoff": 0.01}
PGZIP = Encoder("pgzip", -1, 1024**2, bytes.fromhex("1f8b080000096e8800ff"))  # as buildah and podman have it
EPOCH = "1795575600"  # 2026-11-25T03:00:00Z


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

    def pgzip_layer(self, name: str, content: bytes) -> Descriptor:
        """Make a layer of one file as buildah and podman compress it."""
        helper.build(cache_root())
        codec = Codec.find()
        assert codec is not None
        oci.write_layer([LayerEntry(name, content)], self.folder / "layer.tar.gz")
        raw = io.BytesIO(gzip.decompress((self.folder / "layer.tar.gz").read_bytes()))
        with codec.encode(PGZIP, raw) as stream:
            return self.layout.put_blob(stream.read(), oci.OCI_LAYER)

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


@dataclass(frozen=True)
class App:
    """An image for two architectures with everything that may be attached to it.

    Attributes:
        maker: has it in its layout.
        index: its top.
        images: its children: amd64, arm64, and an attestation of each.
        attached: what hangs on them, by tag.
    """

    maker: Maker
    index: Descriptor
    images: tuple[Descriptor, ...]
    attached: dict[str, Descriptor]

    def blobs(self) -> dict[str, bytes]:
        paths = (self.maker.layout.path / "blobs/sha256").iterdir()
        return {path.name: path.read_bytes() for path in paths}


def make_app(folder: Path, registry: Registry) -> App:
    """Make an image for two architectures and push it with what is attached to it."""
    maker = Maker(folder)
    shared = maker.layer("opt/shared", noise(1, 300 * KIB))
    amd64 = maker.image("amd64", shared, maker.pgzip_layer("opt/amd64", noise(1, 300 * KIB) + noise(2, 100 * KIB)))
    arm64 = maker.image("arm64", shared, maker.pgzip_layer("opt/arm64", noise(1, 300 * KIB) + noise(3, 100 * KIB)))
    children = (amd64, arm64, maker.attestation(amd64, b"of amd64"), maker.attestation(arm64, b"of arm64"))
    index = maker.index(*children)
    signature = maker.signature(index)
    attached = {
        cosign_tag(index, ".sig"): signature,
        cosign_tag(amd64, ".sig"): maker.signature(amd64),
        cosign_tag(arm64, ".att"): maker.signature(arm64),
        cosign_tag(signature, ".sbom"): maker.signature(signature),
        cosign_tag(index): maker.index(maker.artifact(index, b"found by the fallback tag")),
    }
    maker.push(registry, "platform/app", index, "v1")
    for tag, root in attached.items():
        maker.push(registry, "platform/app", root, tag)
    return App(maker, index, children, attached)


# --- packing


def client(host: str, **changes: object) -> Registry:
    return Registry(host, RegistryOptions(**(QUICK | {"plain_http": True} | changes)))  # type: ignore[arg-type]


def wanted(host: str, name: str, **more: object) -> ImageList:
    reference = Reference.parse(f"{host}/{name}")
    tags = (reference.tag,) if reference.tag else ()
    return ImageList((Wanted(reference, reference.repository, tags, **more),))  # type: ignore[arg-type]


def packed(images: ImageList, out: Path, name: str = "v1", **options: object) -> Archive:
    return pack(images, name, client, out / ".store", Options(out, **options))  # type: ignore[arg-type]


def sums(path: Path) -> dict[str, str]:
    """Return the bundle's own checksums, after they were compared with its files."""
    lines = [line.split("  ", 1) for line in (path / "SHA256SUMS").read_text().splitlines()]
    found = {name: word for word, name in lines}
    assert found == {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != "SHA256SUMS"
    }
    return found


def joined(path: Path, target: Path) -> Path:
    """Put the volumes together, as cat does."""
    with target.open("wb") as tar:
        for volume in sorted(path.glob("*.bundle.*")):
            tar.write(volume.read_bytes())
    return target


def unpacked(tar: Path, target: Path) -> dict[str, bytes]:
    """Return the blobs of a joined bundle, unpacked by tar."""
    target.mkdir()
    subprocess.run(["tar", "-xf", tar, "-C", target], check=True)
    return {path.name: path.read_bytes() for path in (target / "blobs/sha256").iterdir()}
