"""A root tree from a container's root file system: an archive of it, or an image; kernel and boot are added."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import progress
from pipeline.image.bases import complete, container, medium, unpack
from pipeline.image.bases.medium import Medium, Request


def digest(path: Path) -> str:
    """Return the digest of an archive or of an image's directory."""
    return container.digest(path) if path.is_dir() else medium.whole_file(path)


def make(found: Medium, request: Request, target: Path, *, workspace: Path, package_cache: Path) -> None:
    """Make a tree from a root file system; see :func:`pipeline.image.bases.media.make`."""
    root = target / "tree"
    root.mkdir()
    with progress.step("unpack"):
        _unpack(found.path, request, root, workspace)
    complete.complete(found.path, request, target, workspace=workspace, package_cache=package_cache)


def _unpack(path: Path, request: Request, root: Path, workspace: Path) -> None:
    scratch = workspace / "layers"
    scratch.mkdir()
    with container.opened(path, scratch) as store:
        layers = container.layers(store, path, request.arch) if store else (path,)
        for layer in layers:
            with unpack.opened(layer, scratch) as archive:
                unpack.apply(archive, root, is_layer=store is not None)
    root.chmod(0o755)
