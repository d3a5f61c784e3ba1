"""Locks of packages that nobody has, for tests."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.core.arch import Architecture
from pipeline.image.lock import Lock, LockedIndex, LockedPackage

ARCHIVE = "http://archive.example/debian"
INDEX = LockedIndex(repository="bookworm", url=f"{ARCHIVE}/dists/bookworm/InRelease", sha256="b" * 64)


def package(name: str = "zstd", version: str = "1.5.4-1", **more: Any) -> LockedPackage:  # noqa: ANN401
    known: dict[str, Any] = {
        "architecture": "amd64",
        "sha256": hashlib.sha256(f"{name} {version}".encode()).hexdigest(),
        "size": 1000,
        "origin": f"{ARCHIVE}/pool/main/z/{name}_{version}_amd64.deb",
        "repository": "bookworm",
    }
    return LockedPackage(name=name, version=version, **(known | more))


def make(*packages: LockedPackage, **more: Any) -> Lock:  # noqa: ANN401
    known: dict[str, Any] = {
        "os": "debian",
        "release": "12",
        "arch": Architecture.AMD64,
        "family": "deb",
        "asked": ["zstd"],
        "epoch": 1_700_000_000,
        "indexes": [INDEX],
        "packages": packages or [package()],
    }
    return Lock.of(**(known | more))
