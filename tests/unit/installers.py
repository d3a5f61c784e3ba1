"""A small installer of our own: its source, and a mirror of components of a few bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline import installer
from pipeline.core.arch import Architecture

ORIGIN = "https://upstream.test/releases"
MACHINES = {Architecture.AMD64: 62, Architecture.ARM64: 183}
BOTH = tuple(Architecture)


def elf(arch: Architecture, content: bytes = b"content") -> bytes:
    """Return what begins as a binary of an architecture does (elf(5))."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + (2).to_bytes(2, "little") + MACHINES[arch].to_bytes(2, "little")
    return header + content


def archive(members: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar with these members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]  # the mode is not literal
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@dataclass(frozen=True)
class Site:
    """An installer's source and a mirror of its components.

    Attributes:
        root: the directory of both.
    """

    root: Path

    @property
    def source(self) -> installer.Source:
        """The source."""
        return installer.Source.at(self.root / "installer-image")

    @property
    def payload(self) -> Path:
        """The payload's own files."""
        return self.source.directory / "payload"

    @property
    def mirror(self) -> str:
        """The mirror, as ``--mirror`` takes it."""
        return str(self.root / "mirror")

    @property
    def build_dir(self) -> Path:
        """Where images are built."""
        return self.root / "build"

    def publish(self, name: str, content: bytes, sums: str | None = None) -> Path:
        """Put an artifact and its checksum on the mirror."""
        path = self.root / "mirror/releases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.with_name(f"{path.name}.sha256").write_text(
            sums or f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
        )
        return path

    def write_components(self, components: Mapping[str, Mapping[str, object]]) -> None:
        """Write ``components.yaml``."""
        self.source.components.write_text(yaml.safe_dump({"components": dict(components)}))

    def lock(self) -> list[str]:
        """Lock what is on the mirror."""
        return installer.make_lock(self.source, mirror=self.mirror)

    def build(self, arch: str = "all") -> installer.Built:
        """Build."""
        return installer.build(installer.resolve(self.source, arch=arch, mirror=self.mirror), self.build_dir)


def component(name: str, version: str = "1.0", **more: object) -> dict[str, object]:
    """Return the description of a component whose artifact is one file."""
    url = f"{ORIGIN}/{name}-{{version}}-{{arch}}"
    return {"version": version, "url": url, "checksum": f"{url}.sha256"} | more


def tool(version: str = "1.0") -> dict[str, object]:
    """Return the description of a component that is a binary."""
    return component("tool", version)


def suite(version: str = "2.0") -> dict[str, object]:
    """Return the description of a component that is an archive."""
    url = f"{ORIGIN}/suite-{{version}}-{{arch}}.tgz"
    members = ["suite-{version}/bin/one", "suite-{version}/two"]
    return component("suite", version, url=url, checksum=f"{url}.sha256", members=members)


def make(root: Path) -> Site:
    """Make a site with two components for both architectures; it is not locked yet."""
    site = Site(root)
    for path, mode in {"bin/install": 0o755, "lib/utils.sh": 0o644, "templates/a.conf": 0o600}.items():
        file = site.payload / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n# {path}\n")
        file.chmod(mode)
    (site.source.directory / "image.yaml").write_text("title: tiny\nversion: 1.2.3\narchitectures: [amd64, arm64]\n")
    site.write_components({"tool": tool(), "suite": suite()})
    for arch in BOTH:
        site.publish(f"tool-1.0-{arch}", elf(arch, b"tool"))
        members = {"./suite-2.0/bin/one": elf(arch, b"one"), "suite-2.0/two": b"#!/bin/sh\n", "suite-2.0/README": b"no"}
        site.publish(f"suite-2.0-{arch}.tgz", archive(members))
    return site
