"""Kernels during a transaction: their scriptlets must make no initramfs, entry or menu; the boot step does (D6).

Sources: kernel-install(8), ``20-grub.install`` of the RHEL family, which also copies the kernel to ``/boot``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import namespace
from pipeline.image import tree

PLUGINS = "etc/kernel/install.d"  # a link to /dev/null there switches off the plugin of that name (kernel-install(8))
MASKED = (
    "20-grub.install", "50-dracut.install", "51-dracut-rescue.install", "90-loaderentry.install",
    "99-grub-mkconfig.install",
)  # fmt: skip
NOTHING = Path("/dev/null")
BYPASS = {"KERNEL_INSTALL_BYPASS": "1"}  # systemd 253 and later; depmod goes with it, see finish()
# dracut reads its settings as shell, in every version. Scriptlets that start it themselves (new-kernel-pkg, as on EL7
# and openEuler) would make an initramfs that nobody wants: 15 s, and minutes where it is emulated.
DRACUT_SETTINGS = "etc/dracut.conf.d/00-not-in-a-transaction.conf"
NO_DRACUT = "exit 0\n"
# What a kernel's package may leave to kernel-install: copied from the directory of its modules to /boot, renamed.
COPIED = {
    "vmlinuz": "vmlinuz-{}", "System.map": "System.map-{}", "config": "config-{}", ".vmlinuz.hmac": ".vmlinuz-{}.hmac",
}  # fmt: skip
# What older scriptlets (new-kernel-pkg of EL7, grubby) make in spite of that.
LEFT = ("boot/initramfs-*.img", "boot/initrd-*", "boot/loader/entries/*.conf", "boot/*rescue*", "boot/.*rescue*")


def mask(root: Path) -> None:
    """Switch off what kernel scriptlets would start; to be called before a transaction."""
    directory = tree.inside(root, PLUGINS)
    directory.mkdir(parents=True, exist_ok=True)
    for name in MASKED:
        if not (directory / name).exists() and not (directory / name).is_symlink():
            (directory / name).symlink_to(NOTHING)
    tree.inside(root, str(Path(DRACUT_SETTINGS).parent)).mkdir(parents=True, exist_ok=True)
    tree.write(root, DRACUT_SETTINGS, NO_DRACUT)


def finish(root: Path) -> None:
    """Undo :func:`mask`, remove what came in spite of it, and do what else a kernel's scriptlets are for.

    Raises:
        ToolError: depmod failed.
    """
    plugins = tree.inside(root, PLUGINS)
    for name in [*MASKED, *(f"{name}.rpmorig" for name in MASKED)]:
        if (plugins / name).is_symlink() and (plugins / name).readlink() == NOTHING:
            (plugins / name).unlink()
    tree.inside(root, DRACUT_SETTINGS).unlink(missing_ok=True)
    for pattern in map(Path, LEFT):
        for path in tree.inside(root, str(pattern.parent)).glob(pattern.name):
            if path.is_symlink() or not path.is_dir():
                path.unlink()
    boot = tree.inside(root, "boot")
    for directory in modules(root):
        _copy_kernel(directory, boot)
        if not (directory / "modules.dep").exists():
            namespace.in_tree(root, ["depmod", "-a", directory.name], what="listing the kernel's modules")


def modules(root: Path) -> Iterator[Path]:
    """Yield the directories of modules that belong to a kernel."""
    for directory in sorted(tree.inside(root, "lib/modules").glob("*")):
        if (directory / "kernel").is_dir() and not directory.is_symlink():
            yield directory


def _copy_kernel(directory: Path, boot: Path) -> None:
    for name, form in COPIED.items():
        source, target = directory / name, boot / form.format(directory.name)
        if source.is_file() and not source.is_symlink() and not target.is_symlink() and not target.exists():
            boot.mkdir(exist_ok=True)
            shutil.copy2(source, target)
