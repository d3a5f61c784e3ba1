"""The tree as a stack of layers: a step's result is only what it changed, kept by overlayfs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core import namespace
from pipeline.image import tree


@contextlib.contextmanager
def writable(lower: Sequence[Path], target: Path, scratch: Path) -> Iterator[Path]:
    """Mount layers as a writable tree; to be used in the private namespace.

    Args:
        lower: read-only layers, the topmost first.
        target: directory that gets ``delta/``, which holds the changes.
        scratch: directory of intermediate files, on the same file system.

    Yields:
        The merged tree.
    """
    delta, work, merged = target / "delta", target / "work", scratch / f"merged-{target.name}"
    for directory in (delta, work, merged):
        directory.mkdir(parents=True)
    delta.chmod(0o755)  # it becomes the tree's root directory
    namespace.mount_layers(lower, merged, upper=delta, work=work)
    try:
        yield merged
    finally:
        namespace.unmount(merged)
        merged.rmdir()
    tree.remove_below(work)  # overlayfs leaves a whiteout there, which it links into the delta
    work.rmdir()
