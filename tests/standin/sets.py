"""A set of packages: everything but what one vendor has of its own. Several systems are made of one set."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.standin import cut, debian, specs
from tests.standin.debian import run

OWN = Architecture.host()


@dataclass(frozen=True)
class Era:
    """What systems of one age have in common.

    Attributes:
        debian: release of Debian that they are cut from.
        boot: whether a kernel's package has its file in /boot (and calls new-kernel-pkg), as before kernel-install.
        payload: how packages are compressed.
        packages: what it has besides, under Debian's names.
    """

    debian: str
    boot: bool
    payload: str
    packages: tuple[str, ...] = ()


# rpm of Debian 11 writes Berkeley databases, which this machine's rpm cannot; that of Debian 12 sqlite.
ERAS = {"bdb": Era("11", True, "w1.gzdio", ("docker.io",)), "sqlite": Era("12", False, "w3.zstdio", ("docker.io",))}
KERNEL_SCRIPTS = {
    True: {"%posttrans": "new-kernel-pkg --package kernel --mkinitrd --dracut --depmod --update {0}\n"
                         "new-kernel-pkg --package kernel --rpmposttrans {0}\n",
           "%preun": "new-kernel-pkg --remove {0} || :\n"},
    False: {"%posttrans": "/usr/bin/kernel-install add {0} /lib/modules/{0}/vmlinuz || exit $?\n",
            "%preun": "/usr/bin/kernel-install remove {0} || :\n"},
}  # fmt: skip


GRUB_MODULES = (
    "all_video boot chain configfile echo efifwsetup ext2 fat gzio halt linux linuxefi loadenv minicmd normal part_gpt "
    "part_msdos reboot regexp search search_fs_file search_fs_uuid search_label serial sleep terminal test true xfs"
)


def make(era: Era, arches: Sequence[Architecture], work: Path) -> dict[Architecture, Path]:
    """Build the packages of an era.

    Args:
        era: which.
        arches: for which architectures.
        work: an empty directory.

    Returns:
        By architecture, a directory with ``rpms/``, ``updates/`` (another kernel, on this machine's architecture only)
        and ``tree/``, what of the tree the vendors' own packages are made from.
    """
    own = work / "own"
    debs = debian.configured(era.debian, own, era.packages, OWN)
    trees = {OWN: (own, debs)}
    for arch in set(arches) - {OWN}:
        root = work / arch
        found = debian.unpacked(era.debian, root, debs, OWN, arch)
        specs.complete(root, own, debs, OWN, arch)
        trees[arch] = (root, found)
    for arch in arches:
        root, found = trees[arch]
        _make_one(era, arch, root, found, work / f"set-{arch}")
    return {arch: work / f"set-{arch}" for arch in arches}


def _make_one(era: Era, arch: Architecture, root: Path, debs: list[debian.Deb], target: Path) -> None:
    target.mkdir()
    (kernel,) = [path.name for path in (root / "usr/lib/modules").iterdir()]
    known = specs.accounts(root)
    others = sorted((root / "var/cache").glob("linux-image-*.deb"))
    scripts = cut.account_scripts(root)
    specs.dress(root, kernel, boot=era.boot)
    rpms = cut.packages(root, debs, scripts)
    _add_kernel_scripts(rpms["kernel-core"], kernel, era)
    specs.build(root, rpms, target / "rpms", arch, era.payload, known)
    for other in others:
        _make_other_kernel(era, arch, other, target)
    _keep_boot_loaders(root, arch, target / "tree")


def _add_kernel_scripts(rpm: cut.Rpm, version: str, era: Era) -> None:
    rpm.scripts = {section: text.format(version) for section, text in KERNEL_SCRIPTS[era.boot].items()}
    rpm.requires |= {"dracut", "grub2-tools", "systemd-udev", "bash", "coreutils"}


def _make_other_kernel(era: Era, arch: Architecture, deb: Path, target: Path) -> None:
    """Make a package of another kernel, all in one, for the update test."""
    root = target / "other"
    root.mkdir()
    run("dpkg-deb", "-x", deb, root)
    (root / "usr").mkdir(exist_ok=True)
    if (root / "lib").is_dir():
        shutil.move(root / "lib", root / "usr/lib")
    shutil.rmtree(root / "usr/share")
    (version,) = [path.name for path in (root / "usr/lib/modules").iterdir()]
    (root / "lib").symlink_to("usr/lib")  # where depmod looks
    run("depmod", "--basedir", root, version)
    (root / "lib").unlink()
    if not era.boot:
        for name in ("vmlinuz", "config", "System.map"):
            (root / f"boot/{name}-{version}").rename(root / f"usr/lib/modules/{version}/{name}")
    paths = [path for path in cut.walk(root) if path not in {"usr", "boot", "usr/lib", "usr/lib/modules"}]
    rpm = cut.Rpm("kernel-core", deb.name.split("_")[1], set(), ("kernel", "kernel-modules"), paths)
    _add_kernel_scripts(rpm, version, era)
    specs.build(root, {"kernel-core": rpm}, target / "updates", arch, era.payload, specs.Accounts({}, {}))
    shutil.rmtree(root)


def _keep_boot_loaders(root: Path, arch: Architecture, target: Path) -> None:
    """Keep the signed shim and GRUB's modules: what a vendor signs is made of them."""
    for path in ("usr/lib/shim", f"usr/lib/grub/{arch.grub_efi}"):
        if (root / path).is_dir():
            shutil.copytree(root / path, target / path)


def grub_image(modules: Path, arch: Architecture, vendor: str, target: Path) -> None:
    """Make GRUB's EFI image as a vendor ships it: its prefix is the vendor's own directory."""
    words = ["grub-mkimage", f"--format={arch.grub_efi}", f"--directory={modules}", f"--prefix=/EFI/{vendor}"]
    words += [f"--output={target}"]
    wanted = GRUB_MODULES.split()
    there = [name for name in wanted if (modules / f"{name}.mod").exists()]
    subprocess.run([*words, *there], check=True, capture_output=True)
