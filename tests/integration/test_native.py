"""Scripts in a foreign tree run programs of this machine's architecture, and the tree comes out the same."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import image
from pipeline.core import namespace
from pipeline.core.arch import Architecture
from pipeline.core.cache import cache_root
from pipeline.image import boot, layers, tree
from pipeline.image.bases import deb, native
from pipeline.profile import DebBase, find
from tests.integration.builds import Project

HOST = Architecture.host()
FOREIGN = next(arch for arch in Architecture if arch is not HOST)
# What takes longest when it is emulated: certificates are hashed one by one, and Python compiles its bytecode.
PACKAGES = ("ca-certificates", "python3-yaml")

pytestmark = [pytest.mark.slow, pytest.mark.network]


@dataclass(frozen=True)
class Made:
    """A tree and what the initramfs adds: digests, paths, and the times of all directories."""

    tree: str
    initramfs: str
    added: frozenset[str]
    times: frozenset[tuple[str, float]]


def make(plan: image.Plan, where: Path, programs: Path | None) -> Made:
    """Make the tree of a plan and an initramfs in it, as a build does."""
    assert isinstance(plan.release.base, DebBase)
    for name in ("base", "work", "boot", "scratch"):
        (where / name).mkdir(parents=True)
    packages = cache_root() / "packages/deb"
    deb.make(
        plan.release.base, plan.arch, plan.packages, plan.sources, where / "base",
        workspace=where / "work", package_cache=packages, programs=programs,
    )  # fmt: skip
    root = where / "base/tree"
    epoch = json.loads((where / "base/origin.json").read_text())["epoch"]
    tree.clamp_times(root, epoch)
    digest = tree.digest(root)
    with layers.writable([root], where / "boot", where / "scratch") as merged:
        with native.shown(programs, merged, HOST) as binds:
            boot.make_initramfs(merged, plan.release.boot, epoch, binds)
        tree.clamp_times(merged, epoch)
        times = {(path, status.st_mtime) for path, status in tree.walk(merged) if stat.S_ISDIR(status.st_mode)}
    initramfs = next((where / "boot/delta/boot").glob("initrd.img-*"))
    added = {path for path, status in tree.walk(where / "boot/delta") if not stat.S_ISDIR(status.st_mode)}
    return Made(digest, tree.file_sha256(initramfs), frozenset(added), frozenset(times))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> image.Plan:
    project = Project(tmp_path_factory.mktemp("project"), cache_root())
    project.release["packages"] += PACKAGES
    project.save()
    found = find("tiny", project.directory / "osprofiles")
    return image.resolve(found, None, FOREIGN, overlays=project.directory / "overlays")


def test_the_same_tree_and_initramfs_as_with_everything_emulated(plan: image.Plan, tmp_path: Path) -> None:
    assert isinstance(plan.release.base, DebBase)
    base = plan.release.base

    def both() -> tuple[list[str], Made, Made]:
        programs, work = tmp_path / "programs", tmp_path / "programs-work"
        programs.mkdir()
        work.mkdir()
        native.make(base, HOST, plan.sources, programs, workspace=work, package_cache=cache_root() / "packages/deb")
        names = [path.name for path in (programs / native.BIN).iterdir()]
        return names, make(plan, tmp_path / "native", programs), make(plan, tmp_path / "emulated", None)

    names, natively, emulated = namespace.run_private(both)
    assert {"dash", "perl", "openssl", "cpio", "zstd"} <= set(names)
    assert any(native.PYTHON.fullmatch(name) for name in names)
    assert natively == emulated
    assert all(path.startswith("boot/") for path in natively.added)
