"""Real images of both architectures, made on the spot from Debian packages with the tools that people use.

Each tool compresses layers in its own way, so every encoder is met in its real form. Several images share layers,
several have two versions that differ a little, some are signed.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import oci
from pipeline.bundle import helper
from pipeline.core.arch import Architecture
from pipeline.core.cache import cache_root
from tests.bundles import signing, tools, trees
from tests.bundles.signing import Attached

SIGNED, REFERRED, ATTESTED = "signed", "referred", "attested"
Pair: TypeAlias = tuple[tools.Wanted, tools.Wanted]  # of both architectures


@dataclass(frozen=True)
class Spec:
    """An image that is wanted.

    Attributes:
        repository: below its registry's host.
        tag: its version.
        tool: what makes it: ``buildah``, ``podman``, ``skopeo``, ``umoci``, or a way of :func:`tools.compress`.
        layers: names of :data:`trees.CONTENT`, the lowest first.
        extras: what hangs on it.
        is_small: whether the small set has it too.
    """

    repository: str
    tag: str
    tool: str
    layers: tuple[str, ...]
    extras: tuple[str, ...] = ()
    is_small: bool = False


SPECS = (
    Spec("platform/base", "v1", "buildah", ("base",), (SIGNED,)),
    Spec("platform/git", "v1", "buildah", ("base", "git")),
    Spec("platform/certificates", "v1", "buildah", ("busybox", "certificates"), (SIGNED, REFERRED), is_small=True),
    Spec("platform/perl", "v1", "podman", ("shell", "perl")),
    Spec("platform/python", "v1", "podman", ("shell", "python"), (SIGNED, ATTESTED)),
    Spec("platform/python", "v2", "podman", ("shell", "python+"), (SIGNED,)),
    Spec("platform/shell", "v1", "podman", ("busybox",), is_small=True),
    Spec("apps/etcd", "v1", "skopeo", ("busybox", "etcd")),
    Spec("apps/etcd", "v2", "skopeo", ("busybox", "etcd+"), (SIGNED,)),
    Spec("apps/runc", "v1", "skopeo", ("shell", "runc"), (SIGNED,), is_small=True),
    Spec("apps/runc", "v2", "skopeo", ("shell", "runc+"), (SIGNED, ATTESTED), is_small=True),
    Spec("apps/registry", "v1", "umoci", ("busybox", "registry"), is_small=True),
    Spec("apps/registry", "v2", "umoci", ("busybox", "registry+")),
    Spec("web/nginx", "v1", "docker", ("shell", "nginx", "certificates")),
    Spec("web/postgres", "v1", "docker", ("base", "postgres")),
    Spec("web/postgres", "v2", "docker", ("base", "postgres+"), (SIGNED,)),
    Spec("web/curl", "v1", "docker", ("busybox", "curl"), is_small=True),
    Spec("tools/redis", "v1", "ko", ("busybox", "redis"), is_small=True),
    Spec("tools/gzip", "v1", "gzip", ("busybox", "curl")),
    Spec("tools/pigz", "v1", "pigz", ("busybox", "curl")),
    Spec("tools/zstd", "v1", "zstd", ("busybox", "curl"), is_small=True),
)


@dataclass(frozen=True)
class MadeImage:
    """An image that was made.

    Attributes:
        spec: what was wanted.
        root: its index, of both architectures.
        attachments: what hangs on it and on its children.
    """

    spec: Spec
    root: oci.Descriptor
    attachments: tuple[Attached, ...]

    @property
    def name(self) -> str:
        """Repository and tag."""
        return f"{self.spec.repository}:{self.spec.tag}"


@dataclass(frozen=True)
class Made:
    """All of them.

    Attributes:
        layout: holds every image; ``index.json`` names them ``repository:tag``.
        images: in the order of ``SPECS``.
        public_key: PEM file that the signatures are checked with.
    """

    layout: oci.Layout
    images: tuple[MadeImage, ...]
    public_key: Path

    def image(self, name: str) -> MadeImage:
        """Return an image by repository and tag."""
        return next(image for image in self.images if image.name == name)

    def layers(self, tool: str = "") -> tuple[oci.Descriptor, ...]:
        """Return every layer once; of one tool only, if that is given."""
        found = {}
        for image in self.images:
            if tool in {"", image.spec.tool}:
                for blob, data in self.layout.walk(image.root):
                    if data is None and "config" not in blob.media_type and "container.image" not in blob.media_type:
                        found[blob.digest] = blob
        return tuple(found.values())


def make(folder: Path, *, small: bool = False) -> Made:
    """Make the images.

    Args:
        folder: an empty or new directory, which takes a few times their size.
        small: only eight of them, for tests.
    """
    helper.build(cache_root())
    specs = [spec for spec in SPECS if spec.is_small or not small]
    found = trees.tars(sorted({layer for spec in specs for layer in spec.layers}), folder / "tars")
    wanted = {spec: _wanted(spec, found) for spec in specs}
    maker = _Maker(oci.Layout.create(folder / "images"), folder / "work")
    with ThreadPoolExecutor() as threads:
        roots = maker.all(wanted, threads)
    return _finished(folder, maker.layout, {spec: roots[spec] for spec in specs})


def _wanted(spec: Spec, tars: dict[tuple[str, Architecture], Path]) -> Pair:
    name = f"{spec.repository.rpartition('/')[2]}-{spec.tag}"
    amd64, arm64 = (
        tools.Wanted(name, arch, tuple(tars[layer, arch] for layer in spec.layers)) for arch in Architecture
    )
    return amd64, arm64


class _Maker:
    def __init__(self, layout: oci.Layout, work: Path) -> None:
        self.layout, self._work = layout, work
        work.mkdir()

    def all(self, wanted: dict[Spec, Pair], threads: ThreadPoolExecutor) -> dict[Spec, oci.Descriptor]:
        """Make every image, several at once; returns their indexes."""
        # A storage of buildah and podman has one user at a time.
        batches = {
            tool: {spec: pair for spec, pair in wanted.items() if spec.tool == tool} for tool in ("buildah", "podman")
        }
        built = [threads.submit(self._built, tool, batch) for tool, batch in batches.items()]
        alone = {
            spec: threads.submit(self._skopeo if spec.tool == "skopeo" else self._umoci, pair)
            for spec, pair in wanted.items()
            if spec.tool in {"skopeo", "umoci"}
        }
        ours = {spec: pair for spec, pair in wanted.items() if spec.tool in tools.WAYS}
        once = sorted({(spec.tool, tar) for spec, pair in ours.items() for one in pair for tar in one.tars})
        list(threads.map(lambda one: tools.compress(one[0], one[1], self._work), once))
        roots = {
            spec: _index(self.layout, [tools.assemble(self.layout, one, spec.tool, self._work) for one in pair])
            for spec, pair in ours.items()
        }
        for future in built:
            roots |= future.result()
        return roots | {spec: future.result() for spec, future in alone.items()}

    def _built(self, tool: str, batch: dict[Spec, Pair]) -> dict[Spec, oci.Descriptor]:
        made = tools.build(tool, [one for pair in batch.values() for one in pair], self._work / tool)
        return {spec: self._adopted(made, pair) for spec, pair in batch.items()}

    def _umoci(self, pair: Pair) -> oci.Descriptor:
        work = self._work / pair[0].name
        work.mkdir()
        return self._adopted({one: tools.umoci(one, work) for one in pair}, pair)

    def _skopeo(self, pair: Pair) -> oci.Descriptor:
        work = self._work / pair[0].name
        plain = oci.Layout.create(work / "plain")
        root = _index(plain, [tools.assemble(plain, one, tools.PLAIN, work) for one in pair])
        plain.set_index([_named(root, "image")])
        copied = tools.skopeo(plain, work / "compressed")
        return _copy(copied, copied.index()[0], self.layout)

    def _adopted(self, made: dict[tools.Wanted, oci.Layout], pair: Pair) -> oci.Descriptor:
        """Take over images that a tool left in layouts of their own, and list them in an index."""
        children = []
        for one in pair:
            (root,) = made[one].index()
            copied, platform = _copy(made[one], root, self.layout), oci.Platform("linux", one.arch.oci)
            children.append(oci.Descriptor(copied.media_type, copied.digest, copied.size, platform))
        return _index(self.layout, children)


def _index(layout: oci.Layout, children: Sequence[oci.Descriptor]) -> oci.Descriptor:
    kind = oci.DOCKER_LIST if children[0].media_type == oci.DOCKER_MANIFEST else oci.OCI_INDEX
    value = {"schemaVersion": 2, "mediaType": kind, "manifests": [child.to_json() for child in children]}
    return layout.put_manifest(value, kind)


def _copy(source: oci.Layout, root: oci.Descriptor, target: oci.Layout) -> oci.Descriptor:
    for blob, data in source.walk(root):
        if data is None:
            target.put_file(source.blob_path(blob.digest), blob.media_type)
        else:
            target.put_bytes(blob.digest, data)
    return oci.Descriptor(root.media_type, root.digest, root.size)


def _named(root: oci.Descriptor, name: str) -> oci.Descriptor:
    return oci.Descriptor(root.media_type, root.digest, root.size, annotations={oci.REF_NAME: name})


def _finished(folder: Path, layout: oci.Layout, roots: dict[Spec, oci.Descriptor]) -> Made:
    key = ec.generate_private_key(ec.SECP256R1())
    kinds = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = folder / "cosign.pub"
    public.write_bytes(key.public_key().public_bytes(*kinds))
    images = [MadeImage(spec, root, tuple(_attachments(layout, spec, root, key))) for spec, root in roots.items()]
    layout.set_index([_named(image.root, image.name) for image in images])
    for name in ("tars", "work"):
        shutil.rmtree(folder / name)
    return Made(layout, tuple(images), public)


def _attachments(
    layout: oci.Layout, spec: Spec, root: oci.Descriptor, key: ec.EllipticCurvePrivateKey
) -> list[Attached]:
    children = oci.links(layout.read(root.digest), root.media_type).manifests
    found = []
    if SIGNED in spec.extras:
        found += [signing.sign(layout, one.digest, spec.repository, key) for one in (root, *children)]
    if ATTESTED in spec.extras:
        found += [signing.attest(layout, root.digest, "att"), signing.attest(layout, children[0].digest, "sbom")]
    if REFERRED in spec.extras:
        found += [*signing.refer(layout, root), *signing.refer(layout, children[-1])]
    return found


def push_all(made: Made, registry: oci.Registry) -> tuple[str, ...]:
    """Push every image with what hangs on it; artifacts that have a subject come with their fallback tag.

    Returns:
        References of the images, with their tags.
    """
    references = []
    for image in made.images:
        for part in image.attachments:
            oci.push(made.layout, registry, image.spec.repository, part.tag, root=part.root)
        oci.push(made.layout, registry, image.spec.repository, image.spec.tag, root=image.root)
        references.append(f"{registry.host}/{image.name}")
    return tuple(references)
