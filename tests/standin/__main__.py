"""Makes stand-ins for the RPM systems, and prints where their profiles are."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.standin import distribution

CELLS_HELP = f"which of: {', '.join(distribution.ERA_OF)} (default: {', '.join(distribution.CELLS)})"


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--directory", type=Path, default=distribution.default_directory(), help="where they are kept")
    parser.add_argument("--cells", nargs="*", default=list(distribution.CELLS), metavar="OS:RELEASE", help=CELLS_HELP)
    parser.add_argument("--arch", nargs="*", default=[arch.value for arch in Architecture])
    chosen = parser.parse_args()
    arches = [Architecture.parse(name) for name in chosen.arch]
    print(distribution.make(chosen.directory.absolute(), chosen.cells, arches))  # noqa: T201


if __name__ == "__main__":
    main()
