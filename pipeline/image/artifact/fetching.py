"""Images on their way in: from a manifest's digest to every file, each checked before it is anybody's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from pipeline import oci
from pipeline.core import files, progress, publish
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.core.parallel import each
from pipeline.image.artifact import manifests, source
from pipeline.image.artifact.layer import Unpacker
from pipeline.image.artifact.source import MANIFEST, SUMS
from pipeline.oci import Descriptor, NotThereError, Registry

MB = 1_000_000
_FOREIGN = "name an image that ./invoke publish has pushed: HOST[:PORT]/PATH:<os>-<release>-<arch>"


def pull(reference: str, target: Path, options: oci.RegistryOptions | None, arch: Architecture | None) -> Path:
    """Pull an image; see :func:`pipeline.image.artifact.pull`."""
    wanted = oci.Reference.parse(reference)
    if not (wanted.tag or wanted.digest):
        raise InputError(f"{reference!r} does not say which image", hint=_FOREIGN)
    with progress.step(f"fetch {wanted}"):
        return _Pull(Registry(wanted.host, options), wanted).run(target, arch)


def fetch(
    names: Sequence[str], build_dir: Path, repository: str, options: oci.RegistryOptions | None
) -> tuple[Path, ...]:
    """Pull images; see :func:`pipeline.image.artifact.fetch`."""
    where = manifests.repository(repository, "--repository")
    with progress.session(build_dir / "logs/fetch.log"):
        return tuple(pull(f"{where}:{name}", build_dir, options, None) for name in names)


class _Pull:
    def __init__(self, registry: Registry, wanted: oci.Reference) -> None:
        self._registry, self._wanted, self._repo = registry, wanted, wanted.repository

    def run(self, target: Path, arch: Architecture | None) -> Path:
        manifest = self._manifest(arch)
        annotations = manifest.get("annotations")
        name, checksums = _annotations(annotations if isinstance(annotations, dict) else {})
        layer = self._layer(manifest)
        if not oci.is_tag(name) or not oci.is_digest(f"sha256:{checksums}") or layer is None:
            raise InputError(
                f"{self._wanted} is not a node image: it lacks what ./invoke publish writes", hint=_FOREIGN
            )
        with files.storage(target):
            target.mkdir(parents=True, exist_ok=True)
        with publish.only_one(target, name):
            if _is_there(target / name, checksums):
                progress.remark("is there already")
                return target / name
            with files.storage(target), publish.staging(target, name) as staging:
                self._fetch(staging, name, checksums, layer)
                publish.publish(staging, target / name)
            progress.remark(f"{layer.size / MB:.1f} MB")
        return target / name

    # --- which image

    def _manifest(self, arch: Architecture | None) -> dict[str, Any]:
        found, data = self._registry.get_manifest(self._repo, self._wanted.name)
        if found.is_index:
            chosen = self._choose(oci.links(data, found.media_type).manifests, arch)
            found, data = self._registry.get_manifest(self._repo, chosen.digest)
        return oci.parse_manifest(data)

    def _choose(self, images: tuple[Descriptor, ...], arch: Architecture | None) -> Descriptor:
        named = {one.platform.architecture: one for one in images if one.platform is not None}
        if arch is None and len(named) == 1:
            return next(iter(named.values()))
        if arch is None or arch.oci not in named:
            said = f"is of {', '.join(sorted(named)) or 'no architecture'}"
            wish = "and none is chosen" if arch is None else f"not of {arch}"
            raise InputError(f"{self._wanted} {said}, {wish}", hint="write the architecture's own tag")
        return named[arch.oci]

    def _layer(self, manifest: Mapping[str, Any]) -> Descriptor | None:
        layers = manifest.get("layers")
        found = Descriptor.from_json(layers[0]) if isinstance(layers, list) and len(layers) == 1 else None
        return found if found is not None and found.media_type == oci.OCI_LAYER_TAR else None

    # --- what is in it

    def _fetch(self, staging: Path, name: str, checksums: str, layer: Descriptor) -> None:
        self._fetch_file(staging, SUMS, checksums)
        sums = source.parse_sums(_small(staging / SUMS), f"{self._wanted}: {SUMS}")
        others = [one for one in sums if not one.endswith(".qcow2")]
        each(self._registry.options.parallel, others, lambda one: self._fetch_file(staging, one, sums[one]))
        if MANIFEST not in others:
            self._wrong(f"{SUMS} does not list {MANIFEST}")
        facts = source.parse_facts(_small(staging / MANIFEST), f"{self._wanted}: {MANIFEST}")
        if facts.name != name:
            self._wrong(f"it calls itself {name}, and its {MANIFEST} {facts.name}")
        source.check_sums(facts, sums, str(self._wanted))
        disk = staging / facts.image.file
        with files.storage(disk), disk.open("xb") as file:
            unpacker = Unpacker(file, disk.name, facts.epoch, str(self._wanted))
            self._registry.get_blob(self._repo, layer.digest, cast(IO[bytes], unpacker), size=layer.size)
        if unpacker.finish() != facts.image.sha256:
            self._wrong(f"{disk.name} is not what {SUMS} says")

    def _fetch_file(self, staging: Path, name: str, sha256: str) -> None:
        """Fetch a file that refers to the image; its digest is known, so nobody has to be asked which one it is."""
        try:
            self._registry.get_blob(self._repo, f"sha256:{sha256}", staging / name)
        except NotThereError as error:
            hint = "it was copied without what refers to it: publish it again, or copy it with 'oras copy --recursive'"
            raise NetworkError(f"{self._wanted}: {name} is not there: {error.message}", hint=hint) from error

    def _wrong(self, why: str) -> NoReturn:
        raise VerificationError(f"{self._wanted}: {why}", hint="publish it again with ./invoke publish")


def _annotations(annotations: Mapping[str, Any]) -> tuple[str, str]:
    return str(annotations.get(manifests.TITLE, "")), str(annotations.get(manifests.CHECKSUMS, ""))


def _small(path: Path) -> bytes:
    size = path.stat().st_size
    if size > source.LARGEST_FILE:
        raise VerificationError(f"{path.name} has {size} bytes", hint="publish it again with ./invoke publish")
    return path.read_bytes()


def _is_there(directory: Path, checksums: str) -> bool:
    """Whether a directory has every file that SHA256SUMS of this hash lists, unchanged."""
    try:
        listing = (directory / SUMS).read_bytes()
        if hashlib.sha256(listing).hexdigest() != checksums:
            return False
        sums = source.parse_sums(listing, SUMS)
        return all(oci.digest_of_file(directory / name) == f"sha256:{sha256}" for name, sha256 in sums.items())
    except OSError:
        return False
