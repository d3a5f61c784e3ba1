"""Small build directories that can be published: everything is there but a system."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

EPOCH = 1_795_432_957
FILES = ("SHA256SUMS", "manifest.json", "packages.json", "plan.json", "sbom.cdx.json")
SIZE = 3_000_001  # no multiple of a tar's block


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - just bytes


def make(parent: Path, arch: str = "amd64", *, release: str = "1", size: int = SIZE, seed: int = 0) -> Path:
    """Make a build directory, the same for the same arguments.

    Args:
        parent: where it is made.
        arch: its architecture.
        release: its release.
        size: bytes of its disk.
        seed: other disks for other numbers.
    """
    directory = parent / f"tiny-{release}-{arch}"
    directory.mkdir(parents=True)
    disk = b"QFI\xfb" + noise(size - 4, seed)
    (directory / f"{directory.name}.qcow2").write_bytes(disk)
    write(directory, manifest(directory.name, disk, release=release, arch=arch))
    return directory


def manifest(name: str, disk: bytes, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what ``manifest.json`` of an image says, as far as a push looks at it."""
    image = {"file": f"{name}.qcow2", "size": len(disk), "sha256": hashlib.sha256(disk).hexdigest()}
    known = {"schema": 1, "name": name, "os": "tiny", "title": "Tiny Linux", "release": "1", "epoch": EPOCH}
    return known | {"image": image, "provenance": {"revision": "0123456789ab"}} | changes


def write(directory: Path, described: dict[str, Any]) -> None:
    """Write what lies beside a disk."""
    (directory / "manifest.json").write_text(json.dumps(described))
    (directory / "packages.json").write_text('[{"name": "a"}]\n')
    (directory / "plan.json").write_text("{}\n")
    (directory / "sbom.cdx.json").write_text('{"bomFormat": "CycloneDX"}\n')
    write_sums(directory)


def write_sums(directory: Path) -> None:
    """Write SHA256SUMS over what is there."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / "SHA256SUMS").write_text("".join(lines))


def content(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
