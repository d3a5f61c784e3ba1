"""What users see of the installer image: what became of a build, what is in it, and the line that a node needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.installer.image import Built, built_manifest

MB = 1_000_000
EXAMPLE = "registry.site.example:5000/cluster/cluster-installer"
WIDTH = 100
SHORT = 19  # "sha256:" and twelve digits


def installed_line(repository: str, digest: str) -> str:
    """Return what stands in ``/etc/cluster/cluster.env`` of a node.

    Args:
        repository: ``host[:port]/path``.
        digest: of the index, or of one architecture's image.
    """
    return f"INSTALLER_IMAGE={repository}@{digest}"


def outcome(built: Built) -> str:
    """Return what a user needs to know after a build."""
    lines = [f"{built.directory}: {built.digest}"]
    if not built.times:
        lines[0] += " is up to date: nothing it is made of has changed"
    for step in built.times:
        remark = f"  {step.remark}" if step.remark else ""
        lines.append(f"{'  ' * step.depth}  {step.title:<{30 - 2 * step.depth}}{step.seconds:8.1f} s{remark}")
    return "\n".join([*lines, f"next: ./invoke installer.push --to {EXAMPLE}"])


def print_image(build_dir: Path, repository: str = EXAMPLE) -> None:
    """Print the built image: a table for each architecture, and the digests.

    Args:
        build_dir: directory that holds everything that is built.
        repository: where it is pushed to, for the line that a node needs.

    Raises:
        InputError: there is none.
        VerificationError: something of it is missing.
    """
    from rich.console import Console
    from rich.table import Table

    known = built_manifest(build_dir)
    console = Console(soft_wrap=True)
    console.width = max(console.width, WIDTH)  # a digest that is cut short is of no use
    console.print(f"{known['title']} {known['version']}, revision {known['revision']}", highlight=False)
    for arch, platform in known["platforms"].items():
        table = Table(box=None, pad_edge=False)
        for title in ("COMPONENT", "VERSION", "ARCH", "FILES", "SIZE", "LAYER", "DIGEST"):
            table.add_column(title, justify="right" if title in {"FILES", "SIZE", "LAYER"} else "left")
        for layer in platform["layers"]:
            table.add_row(*_cells(arch, layer))
        console.print()
        console.print(table)
        total = sum(layer["size"] for layer in platform["layers"])
        console.print(f"linux/{arch}: {total / MB:.1f} MB to pull, {platform['digest']}", highlight=False)
    console.print()
    print_line(repository, known["digest"])


def print_line(repository: str, digest: str) -> None:
    """Print the line for a node's ``cluster.env``, whole on one line however narrow the terminal is."""
    from rich.console import Console

    Console(soft_wrap=True).print(installed_line(repository, digest), highlight=False, markup=False)


def _cells(arch: str, layer: Mapping[str, Any]) -> tuple[str, ...]:
    size = sum(file["size"] for file in layer["files"].values())
    return (
        layer["name"],
        layer["version"],
        arch,
        str(len(layer["files"])),
        f"{size / MB:.2f} MB",
        f"{layer['size'] / MB:.2f} MB",
        layer["digest"][:SHORT],
    )
