"""One build in a process of its own, for the benchmark to time; prints how long each step took, as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from pipeline import image, profile
from pipeline.core.arch import Architecture

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Build as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("os")
    parser.add_argument("overlays", type=Path)
    parser.add_argument("build_dir", type=Path)
    parser.add_argument("--mirror")
    chosen = parser.parse_args()
    found = profile.find(chosen.os, ROOT / "osprofiles")
    plan = image.resolve(found, None, Architecture.host(), overlays=chosen.overlays, mirror=chosen.mirror)
    built = image.build(plan, chosen.build_dir)
    print(json.dumps([dataclasses.asdict(step) for step in built.times]))


if __name__ == "__main__":
    main()
