"""Images on their way out: blobs, the manifest, what refers to it, and the tags last."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pipeline import oci
from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError
from pipeline.core.parallel import each
from pipeline.image.artifact import Pushed, manifests, source
from pipeline.image.artifact.source import SUMS, Source
from pipeline.oci import Descriptor, Registry

MB = 1_000_000
ROUNDS = 10  # of writing an index that others write too
_Content = Callable[[int], IO[bytes]]


def publish(
    names: Sequence[str], build_dir: Path, to: str, options: oci.RegistryOptions | None, *, only_built: bool
) -> tuple[Pushed, ...]:
    """Push images; see :func:`pipeline.image.artifact.publish`."""
    chosen = [name for name in names if not only_built or (build_dir / name).is_dir()]
    if not chosen:
        raise InputError(f"of {', '.join(names)} nothing is built", hint="build it with ./invoke build")
    manifests.repository(to, "--to")
    with progress.session(build_dir / "logs/publish.log"):
        return tuple(push(build_dir / name, to, options) for name in chosen)


def push(directory: Path, reference: str, options: oci.RegistryOptions | None) -> Pushed:
    """Push an image; see :func:`pipeline.image.artifact.push`."""
    target = manifests.repository(reference, "--to")
    with progress.step(f"publish {directory.name}"), source.opened(directory) as found:
        pushed = _Push(Registry(target.host, options), target, found).run()
        progress.remark(f"{pushed.sent / MB:.1f} MB sent" if pushed.sent else "all of it was there")
        return pushed


class _Push:
    def __init__(self, registry: Registry, target: oci.Reference, found: Source) -> None:
        self._registry, self._target, self._source = registry, target, found
        self._repo, self._facts = target.repository, found.facts

    def run(self) -> Pushed:
        facts, files = self._facts, self._source.files
        layer = Descriptor(oci.OCI_LAYER_TAR, self._source.digest, self._source.layer.size)
        config = manifests.config(facts, layer.digest)
        described = manifests.descriptor(config, oci.OCI_CONFIG)
        image = manifests.image(facts, described, layer, hashlib.sha256(files[SUMS]).hexdigest())
        subject = manifests.descriptor(image, oci.OCI_MANIFEST)
        small = {
            described: config,
            manifests.descriptor(manifests.EMPTY, manifests.EMPTY_TYPE): manifests.EMPTY,
            **{manifests.descriptor(data, manifests.type_of(name)): data for name, data in files.items()},
        }
        sent = sum(each(self._registry.options.parallel, small.items(), lambda one: self._send_bytes(*one)))
        sent += self._send(layer, self._source.layer.open)
        sent += self._put(subject.digest, image, subject)
        referring = [manifests.referrer(facts, subject, name, data) for name, data in sorted(files.items())]
        sent += oci.attach(self._registry, self._repo, subject.digest, referring)
        sent += self._tag(facts.name, image, subject)
        index, more = self._put_index()
        reference = oci.Reference(self._target.host, self._repo, facts.name, subject.digest)
        return Pushed(str(reference), subject.digest, index, sent + more)

    def _send_bytes(self, blob: Descriptor, data: bytes) -> int:
        return self._send(blob, lambda offset: io.BytesIO(data[offset:]))

    def _send(self, blob: Descriptor, content: _Content) -> int:
        """Send a blob that is not there; returns its bytes, or 0."""
        if self._registry.has_blob(self._repo, blob.digest):
            return 0
        self._registry.put_blob(self._repo, blob, content)
        progress.log(f"{self._target}: sent {blob.digest} ({blob.size} bytes)")
        return blob.size

    def _put(self, ref: str, data: bytes, manifest: Descriptor) -> int:
        """Write a manifest under a tag or its digest if it is not there; returns its bytes, or 0."""
        if self._stands_for(ref, manifest):
            return 0
        self._registry.put_manifest(self._repo, ref, data, manifest.media_type)
        progress.log(f"{self._target}: {ref} is {manifest.digest}")
        return manifest.size

    def _put_index(self) -> tuple[str, int]:
        """Write the index of what the tags of all architectures stand for.

        Registries know no "only if it has not changed", and two build servers may push two architectures at once. So
        the index is made of the tags alone, and after it was written they are looked at again: whoever writes an
        index that lacks an image finds that out himself.

        Returns:
            The index's digest, and bytes that were sent.
        """
        sent = 0
        for _ in range(ROUNDS):
            images = self._images()
            data = manifests.index(self._facts, images)
            index = manifests.descriptor(data, oci.OCI_INDEX)
            sent += self._tag(self._facts.tag, data, index)
            if self._images() == images and self._stands_for(self._facts.tag, index):
                return index.digest, sent
        raise NetworkError(
            f"{self._target}:{self._facts.tag}: others write it all the time", hint="push again when they have ended"
        )

    def _tag(self, tag: str, data: bytes, manifest: Descriptor) -> int:
        """Write a manifest under a tag; that another process does the same at this moment is not a fault."""
        try:
            return self._put(tag, data, manifest)
        except NetworkError:
            taken = self._registry.head_manifest(self._repo, manifest.digest)
            if taken is None or self._stands_for(tag, manifest):
                raise
            progress.log(f"{self._target}: {tag} was given to another one by somebody else")
            return manifest.size

    def _stands_for(self, tag: str, manifest: Descriptor) -> bool:
        there = self._registry.head_manifest(self._repo, tag)
        return there is not None and there.digest == manifest.digest

    def _images(self) -> list[Descriptor]:
        found = [(arch, self._registry.head_manifest(self._repo, self._facts.sibling(arch))) for arch in Architecture]
        return [
            Descriptor(one.media_type, one.digest, one.size, oci.Platform("linux", arch.oci))
            for arch, one in found
            if one is not None and one.media_type == oci.OCI_MANIFEST
        ]
