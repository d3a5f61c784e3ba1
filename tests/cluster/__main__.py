"""Makes what a real cluster consists of, and prints where it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.cluster import parts


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("what", choices=["parts"])
    parser.add_argument("--directory", type=Path, default=parts.default_directory(), help="where they are kept")
    parser.add_argument("--arch", nargs="*", default=[], help="also the components of these architectures")
    chosen = parser.parse_args()
    made = parts.make(chosen.directory, [Architecture.parse(name) for name in chosen.arch])
    for components in made.components.values():
        for path in (components.packages, components.kubernetes, components.programs):
            print(path)  # noqa: T201
    for path in (made.images, made.node, made.mirror):
        print(path)  # noqa: T201


if __name__ == "__main__":
    main()
