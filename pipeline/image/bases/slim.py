"""What a system that somebody installed has, and a node image must not: old kernels, firmware, traces of its making.

Packages go through the target's own rpm; what it refuses to remove, since others need it, stays.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import namespace, progress
from pipeline.image import tree
from pipeline.image.bases import kernels
from pipeline.image.boot import newest_first

FORM = r"%{NAME}\t%{VERSION}-%{RELEASE}.%{ARCH}\n"
TOOLS_OF_KERNELS = ("kernel-tools", "kernel-headers", "kernel-abi", "kernel-srpm", "kernel-rpm")
EMPTIED = (
    "etc/lvm/archive", "etc/lvm/backup", "etc/lvm/devices", "lost+found", "var/cache", "var/lib/NetworkManager",
    "var/lib/cloud", "var/lib/dhclient", "var/lib/yum",
)  # fmt: skip
# Copies that grub2-install made, which belong to no package; the boot step makes its own.
MADE_BY_INSTALLERS = tuple(
    f"boot/{grub}/{platform}" for grub in ("grub2", "grub") for platform in ("i386-pc", "x86_64-efi", "arm64-efi")
)
REMOVED = (
    ".dockerenv", "anaconda-post.log", "boot/grub2/device.map", "etc/NetworkManager/system-connections/*",
    "etc/adjtime", "etc/crypttab", "etc/fstab", "etc/iscsi/initiatorname.iscsi", "etc/resolv.conf",
    "etc/sysconfig/network-scripts/ifcfg-[!l]*", "etc/sysconfig/network-scripts/ifcfg-l[!o]*",
    "etc/udev/rules.d/70-persistent-*", "root/*-ks.cfg", "root/anaconda-*", "swap.img", "swapfile",
)  # fmt: skip


def slim(root: Path, wanted: Sequence[str], avoid: Sequence[str] = ()) -> None:
    """Slim a tree; to be called in the private namespace.

    Args:
        root: the tree.
        wanted: packages that stay whatever they are.
        avoid: packages that go, as they would never have been installed from repositories.

    Raises:
        ToolError: rpm does not run.
    """
    _remove_old_kernels(root)
    _remove_unwanted(root, wanted, avoid)
    for name in EMPTIED:
        tree.remove_files_below(tree.inside(root, name))
    for pattern in map(Path, (*REMOVED, *MADE_BY_INSTALLERS)):
        for path in tree.inside(root, str(pattern.parent)).glob(pattern.name):
            _remove(path, with_directories=str(pattern) in MADE_BY_INSTALLERS)


def _remove(path: Path, *, with_directories: bool) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif with_directories:
        tree.remove_below(path)
        path.rmdir()


def _remove_old_kernels(root: Path) -> None:
    versions = newest_first(directory.name for directory in kernels.modules(root))
    for version in versions[1:]:
        progress.note(f"the kernel {version} is removed; {versions[0]} stays")
        named = _listed(root, f"rpm -qa --qf '{FORM}'")
        owners = _listed(root, f"rpm -qf --qf '{FORM}' /lib/modules/{shlex.quote(version)} || true")
        same = {row for row in named if row[1] == version and _is_kernel(row[0])}
        if doomed := sorted(f"{name}-{known}" for name, known in same | owners):
            _erase(root, doomed)
        for path in tree.inside(root, "boot").glob(f"*-{version}*"):
            path.unlink()
        _remove(tree.inside(root, f"lib/modules/{version}"), with_directories=True)


def _listed(root: Path, script: str) -> set[tuple[str, str]]:
    """Return (name, version) of packages that a script lists in the form FORM."""
    listing = namespace.in_tree(root, ["/bin/sh", "-c", script], capture=True, what="looking for what can go").stdout
    rows = (line.split("\t") for line in listing.splitlines())
    return {(row[0], row[1]) for row in rows if len(row) == 2}


def _is_kernel(name: str) -> bool:
    return (name == "kernel" or name.startswith("kernel-")) and not name.startswith(TOOLS_OF_KERNELS)


def _remove_unwanted(root: Path, wanted: Sequence[str], avoid: Sequence[str]) -> None:
    """Remove what the profile avoids, and firmware of devices that a virtual machine does not have."""
    names = {name for name, _ in _listed(root, f"rpm -qa --qf '{FORM}'")} - set(wanted)
    doomed = sorted(name for name in names if name in avoid or name.endswith("-firmware"))
    for name in doomed:  # one by one: a kernel may require one of them
        _erase(root, [name])


def _erase(root: Path, names: Sequence[str]) -> None:
    """Have the target's rpm remove packages together; if others need them they stay, and the log says so."""
    script = f"rpm -e {shlex.join(names)} || echo 'they stay'"
    namespace.in_tree(root, ["/bin/sh", "-c", script], env=kernels.BYPASS, what=f"removing {names[0]}")
