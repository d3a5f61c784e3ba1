"""What a plan is made of, to change in tests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline import image, profile
from pipeline.core.arch import Architecture
from pipeline.image import Plan

ROOT = Path(__file__).resolve().parents[2]
MIRROR = "http://127.0.0.1:1/debian"  # nothing is fetched for a plan of these suites


class Project:
    """A copy of what a plan is made of, to change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.overlays = directory / "overlays"
        shutil.copytree(ROOT / "overlays", self.overlays, symlinks=True)
        self.data: dict[str, Any] = yaml.safe_load((ROOT / "osprofiles/debian.yaml").read_text())
        self.release["base"]["suites"] = ["bookworm"]

    @property
    def release(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data["releases"]["12"]
        return found

    def plan(self, arch: Architecture = Architecture.AMD64, mirror: str = MIRROR) -> Plan:
        (self.directory / "debian.yaml").write_text(yaml.safe_dump(self.data))
        loaded = profile.load(self.directory / "debian.yaml")
        return image.resolve(loaded, None, arch, overlays=self.overlays, mirror=mirror)
