"""The floor: what single programs take for the parts that no image can be made without."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.peers.made import timed
from benchmarks.peers.recipe import PACKED, Recipe
from pipeline.core import process, progress


def measured(recipe: Recipe, packages: Path, image: Path, root: Path) -> dict[str, float]:
    """Measure each once.

    Args:
        recipe: what is installed.
        packages: directory of all packages.
        image: our image, the disk of which is packed.
        root: empty directory to work in, on the file system of ``packages``.

    Returns:
        Seconds, by title.

    Raises:
        ToolError: a program failed.
    """
    tree, raw = root / "tree", root / "disk.raw"
    process.run(["qemu-img", "convert", "-O", "raw", image, raw], what="unpacking our image")
    with progress.step("floor"):
        seconds = {
            "mmdebstrap with the same packages, all of them there": timed(bootstrap(recipe, packages, tree, root)),
            "qemu-img packs our disk": timed(["qemu-img", "convert", *PACKED, str(raw), str(root / "packed.qcow2")]),
            "cp copies the tree of mmdebstrap": timed(["cp", "--archive", str(tree), str(root / "copy")]),
        }
    shutil.rmtree(root)
    return seconds


def bootstrap(recipe: Recipe, packages: Path, tree: Path, root: Path) -> list[str]:
    """Return the command that makes the tree.

    Args:
        recipe: what is installed.
        packages: directory of all packages.
        tree: where it goes.
        root: for the files that it reads.
    """
    avoid, sources = root / "avoid", root / "sources"
    avoid.write_text(recipe.refusals())
    sources.write_text(recipe.source_list())
    archives, preferences = '"$1"/var/cache/apt/archives', '"$1"/etc/apt/preferences.d'
    offer = f"mkdir -p {archives} {preferences}; cp {avoid} {preferences}; cp --link {packages}/*.deb {archives}"
    words = ["mmdebstrap", "--mode=root", "--format=directory", "--variant=essential", "--skip=download/empty"]
    words += [
        "--dpkgopt=force-unsafe-io",
        f"--architectures={recipe.arch.deb}",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    ]
    words += [f"--dpkgopt={line}" for line in recipe.path_filters().splitlines()]
    words += [f"--setup-hook={offer}", f"--include={','.join(recipe.packages)}"]
    return [*words, "", str(tree), str(sources)]
