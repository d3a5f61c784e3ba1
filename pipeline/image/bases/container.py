"""Container images as files: an OCI layout or what ``docker save`` writes, as a directory or as an archive.

Sources: the OCI image specification (image-layout, image-index, manifest, config), the format of docker-archive.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases import unpack
from pipeline.image.bases.medium import wrong_arch

OCI_INDEX, DOCKER_INDEX = "index.json", "manifest.json"
MARKS = {"oci-layout", OCI_INDEX, DOCKER_INDEX, "repositories"}
SYSTEM = {"bin", "etc", "lib", "sbin", "usr", "var"}  # what the root directory of a system holds, and no image
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LARGEST_JSON = 4 << 20
HINT = "it is damaged: fetch it again, for example with: skopeo copy docker://IMAGE oci:DIRECTORY"


class Store(Protocol):
    """The files of an image."""

    def file(self, name: str) -> Path | None:
        """Return a file, on this machine's disk; None if there is none of this name."""


@dataclass(frozen=True)
class Directory:
    """An image that lies in a directory."""

    path: Path

    def file(self, name: str) -> Path | None:
        """Return one of its files."""
        found = tree.inside(self.path, name)
        return found if found.is_file() else None


@dataclass(frozen=True)
class Archive:
    """An image in an archive, whose files are copied out one by one."""

    archive: tarfile.TarFile
    scratch: Path

    def file(self, name: str) -> Path | None:
        """Copy one of its files out."""
        target = self.scratch / re.sub(r"[^A-Za-z0-9]", "_", name)
        if target.exists():
            return target
        found = next((known for known in (name, f"./{name}") if known in self.archive.getnames()), None)
        content = self.archive.extractfile(found) if found else None
        if content is None:
            return None
        with content, target.open("wb") as stream:
            shutil.copyfileobj(content, stream, tree.CHUNK)
        return target


def digest(directory: Path) -> str:
    """Return the sha256 of a directory's index, which names everything else by its digest.

    Raises:
        InputError: there is no image in it.
    """
    for name in (OCI_INDEX, DOCKER_INDEX):
        if (index := directory / name).is_file():
            return tree.file_sha256(index)
    raise InputError(
        f"{directory} holds no container image: there is neither {OCI_INDEX} nor {DOCKER_INDEX} in it",
        hint="--base rootfs takes a tar archive, an OCI layout, or what 'docker save' writes",
    )


@contextlib.contextmanager
def opened(path: Path, scratch: Path) -> Iterator[Store | None]:
    """Open an image; yields None for an archive that is a root file system itself.

    Args:
        path: a directory or an archive.
        scratch: directory for intermediate files.

    Raises:
        InputError: it is neither.
    """
    if path.is_dir():
        yield Directory(path)
        return
    with unpack.opened(path, scratch) as archive:
        yield Archive(archive, scratch) if _is_image(archive) else None


def _is_image(archive: tarfile.TarFile) -> bool:
    for member in archive:
        first = member.name.removeprefix("./").strip("/").partition("/")[0]
        if first in MARKS and member.isfile():
            return True
        if first in SYSTEM:
            return False
    return False


def layers(store: Store, path: Path, arch: Architecture) -> tuple[Path, ...]:
    """Return the layers of the image for an architecture, the lowest first, each checked against its digest.

    Raises:
        InputError: there is no such image, there are several, or a part is missing or damaged.
    """
    index = _json(store, OCI_INDEX)
    if isinstance(index, dict):
        return _oci_layers(store, path, index, arch)
    index = _json(store, DOCKER_INDEX)
    if isinstance(index, list):
        return _docker_layers(store, path, index, arch)
    raise InputError(f"{path} has no usable {OCI_INDEX} or {DOCKER_INDEX}", hint=HINT)


def _json(store: Store, name: str) -> Any:  # noqa: ANN401  JSON has no type
    file = store.file(name)
    if file is None or file.stat().st_size > LARGEST_JSON:
        return None
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{name} of the image cannot be read: {error}", hint=HINT) from error


def _blob(store: Store, path: Path, descriptor: Mapping[str, Any]) -> Path:
    """Return a blob, checked."""
    match = DIGEST.fullmatch(str(descriptor.get("digest")))
    file = store.file(f"blobs/sha256/{match[1]}") if match else None
    if match is None or file is None:
        raise InputError(f"{path} lacks {descriptor.get('digest')}", hint=HINT)
    if tree.file_sha256(file) != match[1]:
        raise InputError(f"{path}: the content of {match[0]} is another one", hint=HINT)
    return file


def _oci_layers(store: Store, path: Path, index: Mapping[str, Any], arch: Architecture) -> tuple[Path, ...]:
    found = dict(_images(store, path, index))
    chosen = {name: manifest for name, (known, manifest) in found.items() if known == arch.oci}
    if not chosen:
        raise wrong_arch(path, ", ".join(sorted({known for known, _ in found.values()})) or "nothing", arch)
    if len(chosen) > 1:
        raise InputError(
            f"{path} holds {len(chosen)} images for {arch}: {', '.join(sorted(chosen))}",
            hint="copy the one that you mean into a layout of its own: skopeo copy oci:DIRECTORY:TAG oci:OTHER",
        )
    (manifest,) = chosen.values()
    return tuple(_blob(store, path, layer) for layer in manifest.get("layers", ()))


def _images(
    store: Store, path: Path, index: Mapping[str, Any], depth: int = 0
) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """Yield digest, architecture and manifest of every image of an index."""
    for descriptor in index.get("manifests", ()):
        platform = descriptor.get("platform") or {}
        if platform.get("os", "linux") != "linux":
            continue  # such as the attestations of buildkit, whose platform is "unknown"
        document = json.loads(_blob(store, path, descriptor).read_text())
        if "manifests" in document and depth == 0:
            yield from _images(store, path, document, depth + 1)
        elif "layers" in document:
            config = platform.get("architecture") or _config_arch(_blob(store, path, document["config"]))
            yield descriptor["digest"], (config, document)


def _config_arch(config: Path) -> str:
    return str(json.loads(config.read_text()).get("architecture", "unknown"))


def _docker_layers(store: Store, path: Path, index: Sequence[Any], arch: Architecture) -> tuple[Path, ...]:
    configs = [(entry, _json(store, str(entry.get("Config"))) or {}) for entry in index]
    chosen = [(entry, config) for entry, config in configs if config.get("architecture") == arch.oci]
    if not chosen:
        raise wrong_arch(path, ", ".join(sorted({str(config.get("architecture")) for _, config in configs})), arch)
    if len(chosen) > 1:
        names = sorted(tag for entry, _ in chosen for tag in entry.get("RepoTags") or ["untagged"])
        raise InputError(
            f"{path} holds {len(chosen)} images for {arch}: {', '.join(names)}", hint="save one of them by itself"
        )
    entry, config = chosen[0]
    found = []
    for name, expected in zip(entry["Layers"], config.get("rootfs", {}).get("diff_ids", ()), strict=True):
        file = store.file(name)
        if file is None:
            raise InputError(f"{path} lacks the layer {name}", hint=HINT)
        if tarfile.is_tarfile(file) and _is_plain(file) and f"sha256:{tree.file_sha256(file)}" != expected:
            raise InputError(f"{path}: the content of {name} is another one", hint=HINT)
        found.append(file)
    return tuple(found)


def _is_plain(file: Path) -> bool:
    """Whether a layer is not compressed; the digest in its image's configuration is that of the plain one."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(file, "r:"):
        return True
    return False
