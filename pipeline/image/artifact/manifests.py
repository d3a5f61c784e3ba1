"""The JSON of a published image: the same for the same build, whoever pushes it and when."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from pipeline import oci
from pipeline.core.errors import InputError
from pipeline.image.artifact.source import MANIFEST, SUMS, Facts
from pipeline.oci import Descriptor

PREFIX = "org.opencontainers.image"
TITLE = f"{PREFIX}.title"
CHECKSUMS = "node-images.sha256sums"  # annotation: sha256 of SHA256SUMS, which binds every file to the image's digest
EMPTY, EMPTY_TYPE = b"{}", "application/vnd.oci.empty.v1+json"  # OCI image specification 1.1, "Guidance for an Empty
# Descriptor"
FILE_TYPE = "application/vnd.node-images.file"
TYPES = {
    MANIFEST: "application/vnd.node-images.manifest+json",
    "packages.json": "application/vnd.node-images.packages+json",
    "plan.json": "application/vnd.node-images.plan+json",
    "sbom.cdx.json": "application/vnd.cyclonedx+json",
    SUMS: "application/vnd.node-images.sha256sums",
}


def repository(text: str, option: str) -> oci.Reference:
    """Read the name of a repository: the tags of what is in it follow from what the images are.

    Args:
        text: ``host[:port]/path``.
        option: how a user gives it, for the error if there is none.

    Raises:
        InputError: it is none.
    """
    if not text:
        raise InputError("it is not said which repository", hint=f"add {option} HOST[:PORT]/PATH")
    found = oci.Reference.parse(text)
    if found.tag or found.digest:
        hint = "write host[:port]/path: the tags follow from what the images are"
        raise InputError(f"{text!r} says more than which repository", hint=hint)
    return found


def type_of(name: str) -> str:
    """Return the media type of a file that belongs to an image."""
    return TYPES.get(name, FILE_TYPE)


def descriptor(data: bytes, media_type: str) -> Descriptor:
    """Return what some bytes are known by."""
    return Descriptor(media_type, oci.digest_of(data), len(data))


def config(facts: Facts, layer: str) -> bytes:
    """Return an image's configuration: the same for the same disk, wherever it was built.

    Args:
        facts: what the image is.
        layer: digest of its layer, which is that of the tar, as this is not compressed.
    """
    created = _time(facts)
    return oci.canonical(
        {
            "architecture": facts.arch.oci,
            "os": "linux",
            "created": created,
            "config": {"Labels": _labels(facts)},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created": created, "created_by": "./invoke publish"}],
        }
    )


def image(facts: Facts, config: Descriptor, layer: Descriptor, checksums: str) -> bytes:
    """Return an image's manifest.

    Args:
        facts: what the image is.
        config: its configuration.
        layer: its layer.
        checksums: sha256 of its SHA256SUMS.
    """
    revision = facts.provenance.revision
    known = {f"{PREFIX}.revision": revision} if revision not in ("", "unknown") else {}
    titled = Descriptor(layer.media_type, layer.digest, layer.size, annotations={TITLE: f"{facts.name}.tar"})
    return oci.canonical(
        {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [titled.to_json()],  # the title is what oras calls the file that it writes
            "annotations": _labels(facts) | known | {CHECKSUMS: checksums},
        }
    )


def index(facts: Facts, images: Sequence[Descriptor]) -> bytes:
    """Return the index of an image's architectures: the same for the same images, whichever was pushed last.

    Args:
        facts: what one of them is.
        images: their manifests, with their platforms.
    """
    return oci.canonical(
        {
            "schemaVersion": 2,
            "mediaType": oci.OCI_INDEX,
            "manifests": [one.to_json() for one in images],
            "annotations": {TITLE: facts.tag, f"{PREFIX}.version": facts.release},
        }
    )


def referrer(facts: Facts, subject: Descriptor, name: str, data: bytes) -> bytes:
    """Return the manifest by which a file refers to an image.

    Args:
        facts: what the image is.
        subject: its manifest.
        name: the file.
        data: its content.
    """
    file = descriptor(data, type_of(name))
    titled = Descriptor(file.media_type, file.digest, file.size, annotations={TITLE: name})
    return oci.canonical(
        {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "artifactType": file.media_type,
            "config": descriptor(EMPTY, EMPTY_TYPE).to_json(),
            "layers": [titled.to_json()],
            "subject": subject.to_json(),
            "annotations": {TITLE: name, f"{PREFIX}.created": _time(facts)},
        }
    )


def _labels(facts: Facts) -> dict[str, str]:
    described = f"{facts.title} {facts.release}: node image for {facts.arch}"
    values = {"title": facts.name, "version": facts.release, "description": described, "created": _time(facts)}
    return {f"{PREFIX}.{key}": value for key, value in values.items()}


def _time(facts: Facts) -> str:
    return datetime.datetime.fromtimestamp(facts.epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
