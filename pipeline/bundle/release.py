"""Release payloads as OpenShift makes them: an image that names every component by digest, and its GPG signatures.

The payload's file ``release-manifests/image-references`` is an ImageStream; each of its tags is a component, and its
``from.name`` is the component's name with its digest.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.store import LayoutSource
from pipeline.bundle.trees import Manifests
from pipeline.core import download, progress
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import Descriptor, Layout, NotThereError, Reference

if TYPE_CHECKING:
    from pipeline.bundle.model import Image
    from pipeline.oci import Registry

REFERENCES = "release-manifests/image-references"
LARGEST = 16 * 1024**2  # bytes; a release of 200 components has under 0.2 MB
LARGEST_SIGNATURE = 1024**2
ZSTD = b"\x28\xb5\x2f\xfd"
_NO_PAYLOAD = "name a release payload, such as registry.hq:5000/openshift/release-images:4.14.1-x86_64"
_SIGNATURE = "fetch it from where the release's maker publishes signatures, as sha256=<hex>/signature-1"


def read(
    reference: Reference, registries: Callable[[str], Registry], store: Layout, *, mirror: str | None = None
) -> ImageList:
    """Return the payload and every component that it names.

    Args:
        reference: the payload image. Several architectures may be in it.
        registries: gives the registry of a host.
        store: takes what is fetched for it.
        mirror: the repository, with its registry, where the components are, if that is not where the payload says.

    Raises:
        NetworkError: it cannot be had.
        InputError: it is no payload, or a component has no digest.
        StorageError: the store cannot be written.
    """
    source = LayoutSource(store)
    registry = registries(reference.host)
    manifests = Manifests(registry, reference.repository, source)
    top = manifests.find(reference.name)
    if top is None:
        raise NotThereError(f"{reference}: is not in the registry", hint=_NO_PAYLOAD)
    components: dict[Reference, None] = {}
    with progress.step(f"release {reference}"):
        for manifest in manifests.tree(top).manifests:
            if not manifest.is_index:
                text = _references(manifests, manifest, source, str(reference))
                components |= dict.fromkeys(_components(text, str(reference)))
        progress.remark(f"{len(components)} components")
    own = (reference.tag,) if reference.tag else ()
    payload = Wanted(reference, reference.repository, own)
    found = [_wanted(one, mirror) for one in components if one.digest != top.digest]
    return ImageList((payload, *found), payload=reference)


def _wanted(component: Reference, mirror: str | None) -> Wanted:
    there = Reference.parse(f"{mirror}@{component.digest}") if mirror else None
    return Wanted(component, component.repository, fetched_from=there)


def _references(manifests: Manifests, manifest: Descriptor, source: LayoutSource, what: str) -> bytes:
    """Return the file that names the components; the last layer that has it decides."""
    layers = [blob for blob in manifests.links(manifest).blobs[1:] if not blob.is_foreign]
    for layer in reversed(layers):
        if not source.holds(layer):
            path = source.layout.blob_path(layer.digest)
            manifests.registry.get_blob(manifests.repo, layer.digest, path, size=layer.size)
            source.mark(layer.digest)
        with source.open_blob(layer.digest) as file:
            try:
                found = _find(file)
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise InputError(f"{what}: its layer {layer.digest} is no tar: {error}", hint=_NO_PAYLOAD) from error
        if found is not None:
            return found
    raise InputError(f"{what}: {manifest.digest} has no {REFERENCES}: it is no release payload", hint=_NO_PAYLOAD)


def _find(file: IO[bytes]) -> bytes | None:
    """Return a layer's list of components, if it has one."""
    magic = file.read(len(ZSTD))
    file.seek(0)
    if magic == ZSTD:
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(file) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
            return _member(archive)
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        return _member(archive)


def _member(archive: tarfile.TarFile) -> bytes | None:
    for member in archive:
        if member.name.removeprefix("./").lstrip("/") == REFERENCES and member.isreg():
            content = archive.extractfile(member)
            assert content is not None
            return content.read(LARGEST)
    return None


def _components(text: bytes, what: str) -> Iterator[Reference]:
    try:
        value = json.loads(text)
        tags = value["spec"]["tags"]
        names = [(tag["name"], _pulled(tag)) for tag in tags]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{what}: its {REFERENCES} is no ImageStream: {error!r}", hint=_NO_PAYLOAD) from error
    if not names:
        raise InputError(f"{what}: its {REFERENCES} names no component", hint=_NO_PAYLOAD)
    for component, name in names:
        reference = Reference.parse(name)
        if reference.digest is None:
            raise InputError(f"{what}: its component {component} is {name}, without a digest", hint=_NO_PAYLOAD)
        yield reference


def _pulled(tag: dict[str, Any]) -> str:
    source = tag["from"]
    if source["kind"] != "DockerImage":
        raise ValueError(f"{tag['name']} comes from a {source['kind']}, not a DockerImage")
    return str(source["name"])


# --- signatures


def signatures(listed: ImageList, images: Sequence[Image]) -> dict[str, bytes]:
    """Fetch the GPG signatures that are kept beside the images.

    With a release payload in the list its signature has to be there; without one, that of each image is taken if there
    is one.

    Args:
        listed: says where they are.
        images: what was fetched.

    Returns:
        Their content, by their path in the bundle.

    Raises:
        NetworkError: the place cannot be asked, or the payload's signature is not there.
        InputError: the place is none, or something there is no signature.
    """
    where = listed.release_signatures
    if where is None:
        return {}
    payload = str(listed.payload) if listed.payload else None
    chosen = [image for image in images if payload in (None, image.source)]
    found: dict[str, bytes] = {}
    with progress.step("release signatures"), tempfile.TemporaryDirectory() as scratch:
        for image in chosen:
            own: dict[str, bytes] = {}
            attached = {attachment.root.digest for attachment in image.attachments}
            for digest in image.manifests:
                if digest not in attached:
                    own |= _of(where, digest, Path(scratch))
            if payload is not None and not own:
                raise NetworkError(f"{where}: there is no signature of {image.source}", hint=_SIGNATURE)
            found |= own
        progress.remark(f"{len(found)} found")
    return found


def _of(where: str, digest: str, scratch: Path) -> dict[str, bytes]:
    """Return the signatures of a digest: signature-1, signature-2, and so on as far as they go."""
    base = where.rstrip("/") if "://" in where else Path(where).resolve().as_uri()
    if base.startswith("file://") and not Path(where.removeprefix("file://")).is_dir():
        raise InputError(f"{where}: there is no such directory", hint=_SIGNATURE)
    name = digest.replace(":", "=")
    found: dict[str, bytes] = {}
    while download.exists(url := f"{base}/{name}/signature-{len(found) + 1}"):
        target = scratch / "signature"
        download.fetch(url, target)
        size = target.stat().st_size
        if not 0 < size <= LARGEST_SIGNATURE:
            raise InputError(f"{url}: {size} bytes are no signature", hint=_SIGNATURE)
        found[f"signatures/{name}/signature-{len(found) + 1}"] = target.read_bytes()
    return found
