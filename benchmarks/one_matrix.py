"""A matrix in a process of its own, for the benchmark to time; its result is in ``matrix.json`` beside the images."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import matrix, profile


def main() -> None:
    """Build as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profiles", type=Path)
    parser.add_argument("overlays", type=Path)
    parser.add_argument("build_dir", type=Path)
    parser.add_argument("os", help="profiles with commas between them, or all")
    parser.add_argument("arch", help="architectures with commas between them, or all")
    chosen = parser.parse_args()
    cells = profile.cells(chosen.profiles, chosen.os, "", chosen.arch)
    workshop = matrix.Workshop(profiles=chosen.profiles, overlays=chosen.overlays, build_dir=chosen.build_dir)
    report = matrix.build(cells, workshop)
    matrix.print_report(report, chosen.build_dir)
    if report.exit_code:
        raise SystemExit(report.exit_code)


if __name__ == "__main__":
    main()
