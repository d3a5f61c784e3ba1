"""The programs that people make images with, each used as they use it: layers come compressed as it compresses them.

What is not installed is unpacked from Debian's packages.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from pipeline import oci
from pipeline.bundle.codec import Codec, Encoder
from pipeline.core.arch import Architecture
from tests.bundles.trees import default_directory
from tests.cluster.packages import run

PACKAGES = {
    "buildah": ("buildah", "libgpgme11", "libassuan0", "libdevmapper1.02.1", "libseccomp2"),
    "podman": ("podman", "libgpgme11", "libassuan0", "libdevmapper1.02.1", "libseccomp2", "libsubid4"),
    "skopeo": ("skopeo", "libgpgme11", "libassuan0", "libdevmapper1.02.1"),
    "umoci": ("umoci",),
    "pigz": ("pigz",),
}
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
ZSTD_LAYER = PLAIN_LAYER + "+zstd"
CREATED = "2026-01-01T00:00:00Z"
PLAIN = "plain"
GO_LEVELS = {"docker": -1, "ko": 1}  # both use Go's own library
WAYS = (*GO_LEVELS, "gzip", "pigz", "zstd")  # of compressing, for images whose tools are not run
GO_HEADERS = {-1: bytes.fromhex("1f8b08000000000000ff"), 1: bytes.fromhex("1f8b08000000000004ff")}


@dataclass(frozen=True)
class Wanted:
    """An image to be made for one architecture.

    Attributes:
        name: tells it from others.
        arch: what it is for.
        tars: its layers, the lowest first.
    """

    name: str
    arch: Architecture
    tars: tuple[Path, ...]

    @property
    def words(self) -> list[str]:
        """What it runs; no more than a configuration's content."""
        return [f"/usr/bin/{self.name}"]


@functools.cache
def program(name: str) -> tuple[str, Mapping[str, str]]:
    """Return a program, and the environment it needs: the machine's own, or one unpacked from packages.

    Raises:
        RuntimeError: it is not there and cannot be fetched.
    """
    found = shutil.which(name)
    if found:
        return found, {}
    root = default_directory() / "tools" / name
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            half = root.with_name(f".{name}")
            shutil.rmtree(half, ignore_errors=True)
            (half / "debs").mkdir(parents=True)
            run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *PACKAGES[name], cwd=half / "debs")
            for path in (half / "debs").glob("*.deb"):
                run("dpkg-deb", "--extract", path, half)
            half.rename(root)
    libraries = [str(path) for path in (*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu"))]
    return str(root / "usr/bin" / name), {"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}


def call(name: str, folder: Path, *words: str | Path) -> str:
    """Run one of the programs with a home of its own."""
    path, settings = program(name)
    own = {"HOME": str(folder), "TMPDIR": str(folder), "BUILDAH_ISOLATION": "chroot", "XDG_RUNTIME_DIR": str(folder)}
    return run(path, *words, cwd=None, **own, **settings)


def build(tool: str, wanted: Sequence[Wanted], folder: Path) -> dict[Wanted, oci.Layout]:
    """Make images as their authors do with buildah or podman: a Containerfile, a build, a push that compresses.

    Args:
        tool: ``buildah`` or ``podman``.
        wanted: what to make.
        folder: takes the tool's storage, which is removed, and the layouts.
    """
    context = folder / "context"
    context.mkdir(parents=True)
    (folder / "policy.json").write_text(json.dumps(POLICY))
    made = {}
    # podman wants a short name for it.
    with tempfile.TemporaryDirectory(prefix="bundles-", dir="/tmp") as state:
        own: list[str | Path] = ["--root", folder / "storage", "--runroot", state, "--storage-driver", "vfs"]
        for one in wanted:
            for tar in one.tars:
                if not (context / tar.name).exists():
                    os.link(tar, context / tar.name)
            made[one] = _built(tool, one, folder, own)
        call(tool, folder, *own, "rmi", "--all", "--force")
    shutil.rmtree(folder / "storage", ignore_errors=True)
    return made


def _built(tool: str, wanted: Wanted, folder: Path, own: Sequence[str | Path]) -> oci.Layout:
    lines = ["FROM scratch", *(f"ADD {tar.name} /" for tar in wanted.tars), f"CMD {json.dumps(wanted.words)}"]
    (folder / "Containerfile").write_text("\n".join(lines) + "\n")
    signing: list[str | Path] = ["--signature-policy", folder / "policy.json"]
    name, target = f"localhost/{wanted.name}:{wanted.arch}", folder / f"{wanted.name}-{wanted.arch}"
    words: list[str | Path] = ["--file", folder / "Containerfile", "--tag", name, folder / "context"]
    call(tool, folder, *own, "build", *signing, "--layers", "--arch", wanted.arch.oci, *words)
    call(tool, folder, *own, "push", *signing, "--format", "oci", name, f"oci:{target}:image")
    return oci.Layout.open(target)


def skopeo(plain: oci.Layout, target: Path) -> oci.Layout:
    """Copy an index with images whose layers are not compressed; skopeo compresses them on the way."""
    words: list[str | Path] = ["--insecure-policy", "copy", "--quiet", "--all", "--dest-compress-format", "gzip"]
    call("skopeo", target.parent, *words, f"oci:{plain.path}:image", f"oci:{target}:image")
    return oci.Layout.open(target)


def umoci(wanted: Wanted, folder: Path) -> oci.Layout:
    """Make an image with umoci, layer by layer."""
    place = folder / f"{wanted.name}-{wanted.arch}"
    image = f"{place}:image"
    call("umoci", folder, "init", "--layout", place)
    call("umoci", folder, "new", "--image", image)
    for tar in wanted.tars:
        call("umoci", folder, "raw", "add-layer", "--image", image, tar)
    call(
        "umoci", folder, "config", "--image", image, "--architecture", wanted.arch.oci, "--config.cmd", wanted.words[0]
    )
    return oci.Layout.open(place)


# --- layers compressed by us, with the library or program in question


def compress(way: str, tar: Path, folder: Path) -> None:
    """Compress a layer in one of ``WAYS`` into a file of a folder, which :func:`assemble` finds there."""
    with tar.open("rb") as raw, (folder / f"{tar.name}.{way}").open("xb") as file:
        if way == "zstd":
            zstandard.ZstdCompressor(level=3).copy_stream(raw, file)
        elif way in GO_LEVELS:
            codec, level = Codec.find(), GO_LEVELS[way]
            assert codec is not None, "the helper is not built: pipeline.bundle.helper.build()"
            with codec.encode(Encoder("go-gzip", level, 0, GO_HEADERS[level]), raw) as stream:
                shutil.copyfileobj(stream, file, 1024**2)
        else:
            path, settings = program(way)
            subprocess.run([path, "-c"], stdin=raw, stdout=file, env=os.environ | dict(settings), check=True)


def assemble(layout: oci.Layout, wanted: Wanted, way: str, folder: Path) -> oci.Descriptor:
    """Put an image into a layout, with layers as :func:`compress` left them, or plain ones."""
    is_docker = way == "docker"
    kinds = {"docker": DOCKER_LAYER, "zstd": ZSTD_LAYER, PLAIN: PLAIN_LAYER}
    files = [tar if way == PLAIN else folder / f"{tar.name}.{way}" for tar in wanted.tars]
    layers = [layout.put_file(file, kinds.get(way, oci.OCI_LAYER)) for file in files]
    config: dict[str, Any] = {
        "architecture": wanted.arch.oci,
        "os": "linux",
        "created": CREATED,
        "config": {"Cmd": wanted.words},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest_of_file(tar) for tar in wanted.tars]},
    }
    kind = oci.DOCKER_MANIFEST if is_docker else oci.OCI_MANIFEST
    blob = layout.put_blob(oci.canonical(config), DOCKER_CONFIG if is_docker else oci.OCI_CONFIG)
    parts = {"config": blob.to_json(), "layers": [layer.to_json() for layer in layers]}
    manifest = {"schemaVersion": 2, "mediaType": kind, **parts}
    return layout.put_manifest(manifest, kind, oci.Platform("linux", wanted.arch.oci))
