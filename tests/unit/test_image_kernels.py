"""Kernel scriptlets are kept from making boot files, and nothing of that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import namespace
from pipeline.image.bases import kernels

VERSION = "6.6.0-1.ky11.x86_64"


def made(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


@pytest.fixture
def tree_with_a_kernel(tmp_path: Path) -> Path:
    modules = tmp_path / "usr/lib/modules" / VERSION
    (modules / "kernel").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for name in ("vmlinuz", "config", ".vmlinuz.hmac", "modules.dep"):
        (modules / name).write_text(name)
    (tmp_path / "usr/lib/modules/orphan").mkdir()
    return tmp_path


def test_plugins_are_off_during_a_transaction_only(tmp_path: Path) -> None:
    plugins = tmp_path / kernels.PLUGINS
    plugins.mkdir(parents=True)
    (plugins / "50-dracut.install").write_text("the package's own")
    kernels.mask(tmp_path)
    links = {path.name for path in plugins.iterdir() if path.is_symlink() and str(path.readlink()) == "/dev/null"}
    assert links == set(kernels.MASKED) - {"50-dracut.install"}
    (plugins / "20-grub.install").unlink()
    (plugins / "20-grub.install").write_text("a package put it there")
    (plugins / "20-grub.install.rpmorig").symlink_to("/dev/null")
    kernels.finish(tmp_path)
    assert {path.name for path in plugins.iterdir()} == {"50-dracut.install", "20-grub.install"}


def test_the_kernel_itself_is_copied_to_boot(tree_with_a_kernel: Path) -> None:
    kernels.finish(tree_with_a_kernel)
    boot = {path.name for path in (tree_with_a_kernel / "boot").iterdir()}
    assert boot == {f"vmlinuz-{VERSION}", f"config-{VERSION}", f".vmlinuz-{VERSION}.hmac"}


def test_what_scriptlets_made_all_the_same_is_removed(tree_with_a_kernel: Path) -> None:
    boot = tree_with_a_kernel / "boot"
    (boot / "loader/entries").mkdir(parents=True)
    for name in (
        f"initramfs-{VERSION}.img", f"initramfs-{VERSION}kdump.img", "loader/entries/0a-1.conf",
        "vmlinuz-0-rescue-0a", f"vmlinuz-{VERSION}",
    ):  # fmt: skip
        (boot / name).write_text("the package's")
    kernels.finish(tree_with_a_kernel)
    assert made(boot) == {f"vmlinuz-{VERSION}", f"config-{VERSION}", f".vmlinuz-{VERSION}.hmac"}
    assert (boot / f"vmlinuz-{VERSION}").read_text() == "the package's"


def test_links_of_a_tree_lead_nowhere_else(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "initramfs-1.img").touch()
    root.mkdir()
    (root / "boot").symlink_to(outside)
    kernels.finish(root)
    assert (outside / "initramfs-1.img").exists()


def test_modules_are_listed_where_no_scriptlet_did(tree_with_a_kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(namespace, "in_tree", lambda _root, words, **_: asked.append(list(words)))
    kernels.finish(tree_with_a_kernel)
    assert asked == []
    (tree_with_a_kernel / "usr/lib/modules" / VERSION / "modules.dep").unlink()
    kernels.finish(tree_with_a_kernel)
    assert asked == [["depmod", "-a", VERSION]]
