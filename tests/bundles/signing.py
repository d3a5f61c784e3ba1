"""What hangs on images: signatures as cosign makes them with a key, and an artifact that refers to its subject."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import oci

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
EMPTY = "application/vnd.oci.empty.v1+json"
SBOM = "application/spdx+json"
NO_TIME = "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class Attached:
    """A manifest that hangs on an image or index.

    Attributes:
        tag: its tag; None if it is found by its subject only.
        root: the manifest.
        subject: digest of what it hangs on.
    """

    tag: str | None
    root: oci.Descriptor
    subject: str


def sign(layout: oci.Layout, digest: str, repository: str, key: ec.EllipticCurvePrivateKey) -> Attached:
    """Put a signature into a layout, tagged ``sha256-<hex>.sig`` (cosign's SIGNATURE_SPEC)."""
    critical = {
        "identity": {"docker-reference": f"registry.hq/{repository}"},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    payload = json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()
    text = base64.b64encode(key.sign(payload, ec.ECDSA(hashes.SHA256()))).decode()
    return _attach(layout, digest, "sig", payload, SIMPLE_SIGNING, {SIGNATURE: text})


def attest(layout: oci.Layout, digest: str, suffix: str) -> Attached:
    """Put what cosign keeps beside an image into a layout: ``att`` or ``sbom``."""
    kind = {"att": "application/vnd.dsse.envelope.v1+json", "sbom": SBOM}[suffix]
    return _attach(layout, digest, suffix, json.dumps({"of": digest, "kind": suffix}).encode(), kind, {})


def _attach(
    layout: oci.Layout, digest: str, suffix: str, payload: bytes, kind: str, annotations: dict[str, str]
) -> Attached:
    layer = layout.put_blob(payload, kind).to_json() | ({"annotations": annotations} if annotations else {})
    config = {
        "architecture": "",
        "config": {},
        "created": NO_TIME,
        "history": [{"created": NO_TIME}],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": [oci.digest_of(payload)]},
    }
    blob = layout.put_blob(oci.canonical(config), oci.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": blob.to_json(), "layers": [layer]}
    return Attached(f"{digest.replace(':', '-')}.{suffix}", layout.put_manifest(manifest, oci.OCI_MANIFEST), digest)


def refer(layout: oci.Layout, subject: oci.Descriptor) -> tuple[Attached, Attached]:
    """Put an artifact with a subject into a layout (OCI 1.1), and the index of the fallback tag that names it."""
    payload = json.dumps({"spdxVersion": "SPDX-2.3", "name": subject.digest}).encode()
    bare = oci.Descriptor(subject.media_type, subject.digest, subject.size)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "artifactType": SBOM,
        "config": layout.put_blob(b"{}", EMPTY).to_json(),
        "layers": [layout.put_blob(payload, SBOM).to_json()],
        "subject": bare.to_json(),
    }
    artifact = layout.put_manifest(manifest, oci.OCI_MANIFEST)
    listed = [artifact.to_json() | {"artifactType": SBOM}]
    index = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": listed}
    tag = subject.digest.replace(":", "-")
    fallback = layout.put_manifest(index, oci.OCI_INDEX)
    return Attached(None, artifact, subject.digest), Attached(tag, fallback, subject.digest)


def check(registry: oci.Registry, repository: str, tag: str, public_key: Path) -> None:
    """Check what lies under a tag ``sha256-<hex>.sig`` as cosign does: by key, over the payload, for that digest."""
    _, data = registry.get_manifest(repository, tag)
    (layer,) = json.loads(data)["layers"]
    payload = io.BytesIO()
    registry.get_blob(repository, layer["digest"], payload)
    key = serialization.load_pem_public_key(public_key.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(base64.b64decode(layer["annotations"][SIGNATURE]), payload.getvalue(), ec.ECDSA(hashes.SHA256()))
    signed = json.loads(payload.getvalue())["critical"]["image"]["docker-manifest-digest"]
    assert signed == tag.removesuffix(".sig").replace("-", ":", 1)
