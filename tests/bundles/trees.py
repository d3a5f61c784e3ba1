"""Layers' content: tars of real Debian packages of both architectures, downloaded once, unpacked, never installed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.cluster.packages import Apt, run

CHANGED = "+"  # a layer's name with this behind it: the same packages after a small change of each larger file
# As images are made slim.
EXCLUDED = ("doc", "man", "info", "locale", "lintian")
CONTENT = {
    "base": (
        "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "grep", "gzip", "libacl1", "libattr1",
        "libc6", "libgmp10", "libpcre2-8-0", "libselinux1", "libssl3", "libtinfo6", "perl-base", "sed", "tar", "zlib1g",
    ),
    "busybox": ("busybox-static",),
    "certificates": ("ca-certificates", "openssl"),
    "curl": ("curl", "libcurl4", "libnghttp2-14", "libssh2-1", "libbrotli1", "libpsl5"),
    "etcd": ("etcd-server", "etcd-client"),
    "git": ("git",),
    "nginx": ("nginx",),
    "perl": ("perl", "libperl5.36", "perl-modules-5.36"),
    "postgres": ("postgresql-15",),
    "python": ("python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1"),
    "redis": ("redis-server", "redis-tools"),
    "registry": ("docker-registry",),
    "runc": ("runc",),
    "shell": ("dash", "libc6"),
}  # fmt: skip
COMMON = frozenset({"ca-certificates", "perl-modules-5.36"})  # the same package for every architecture


def default_directory() -> Path:
    """Return where packages and unpacked tools are kept between sessions."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "node-images-bundles"


def tars(layers: Sequence[str], folder: Path) -> dict[tuple[str, Architecture], Path]:
    """Make the tars of some layers for both architectures; packages are fetched if they are not kept.

    Args:
        layers: names of ``CONTENT``, those that are changed with a ``+`` behind.
        folder: takes the tars.
    """
    folder.mkdir(parents=True)
    debs = {arch: _debs(layers, arch) for arch in Architecture}
    wanted = [(layer, arch) for layer in layers for arch in Architecture]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = threads.map(lambda one: _tar(one[0], one[1], debs[one[1]], folder), wanted)
        return dict(zip(wanted, made, strict=True))


def _debs(layers: Sequence[str], arch: Architecture) -> dict[str, Path]:
    names = {name for layer in layers for name in CONTENT[layer.rstrip(CHANGED)]}
    found = _kept(names - COMMON, arch)
    return found | _kept(names & COMMON, Architecture.host())


def _kept(names: Collection[str], arch: Architecture) -> dict[str, Path]:
    """Return packages from where they are kept; what is missing is downloaded."""
    kept = default_directory() / "debs" / arch
    kept.mkdir(parents=True, exist_ok=True)
    with (default_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in sorted(names) if not list(kept.glob(f"{name}_*.deb"))]
        if missing:
            fresh = default_directory() / ".fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            for path in Apt.updated(default_directory() / ".apt").download(missing, arch, fresh):
                path.rename(kept / path.name)
    return {name: next(kept.glob(f"{name}_*.deb")) for name in names}


def _tar(layer: str, arch: Architecture, debs: dict[str, Path], folder: Path) -> Path:
    tree, target = folder / f"{layer}-{arch}", folder / f"{layer}-{arch}.tar"
    for name in CONTENT[layer.rstrip(CHANGED)]:
        run("dpkg-deb", "--extract", debs[name], tree)
    if layer.endswith(CHANGED):
        for path in sorted(tree.rglob("*")):
            if path.is_file() and not path.is_symlink():
                _change(path)
    options = [f"--exclude=./usr/share/{name}" for name in EXCLUDED]
    options += ["--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
    run("tar", "--create", "--file", target, "--directory", tree, *options, ".")
    shutil.rmtree(tree)
    return target


def _change(path: Path) -> None:
    """Change a file as the next version of a program does: some code is longer, and addresses here and there differ."""
    content, status = bytearray(path.read_bytes()), path.stat()
    if len(content) < 64 * 1024:
        return
    for place in range(4096, len(content) - 8, 200 * 1024):
        content[place : place + 4] = bytes(byte ^ 0x11 for byte in content[place : place + 4])
    middle = len(content) // 3
    content[middle:middle] = path.name.encode() * 7
    path.write_bytes(content)
    os.utime(path, (status.st_atime, status.st_mtime + 86400))
