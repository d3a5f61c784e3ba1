"""Seal: the last step on a tree. Identity, logs and caches go, times are clamped (decision D7).

What identifies a machine must be made by each machine itself: cloned machine-ids give cloned MAC addresses and DHCP
leases, cloned host keys let every node impersonate every other.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.image import tree

EMPTIED = (
    "run", "tmp", "var/cache/apt/archives", "var/cache/dnf", "var/cache/ldconfig", "var/cache/yum", "var/lib/apt/lists",
    "var/lib/cloud", "var/tmp",
)  # fmt: skip
# Of these only the files go: packages, and services, have directories there, with their owners.
FILES_REMOVED = (
    # A connection names the hardware it was made for; what an image brings is in /usr/lib/NetworkManager or conf.d.
    "etc/NetworkManager/system-connections",
    # lvm.conf(5): with a devices file, LVM sees no disk that is not listed there.
    "etc/lvm/devices",
    # Which machine this is to the vendor, and the certificates that prove it.
    "etc/pki/consumer", "etc/pki/entitlement", "var/lib/rhsm",
    # secret_key among them: of it and the machine-id addresses and DHCP identifiers are made.
    "var/lib/NetworkManager",
    "var/lib/dhclient", "var/log",
)  # fmt: skip
REMOVED = (
    ".autorelabel", ".dockerenv", "etc/.pwd.lock", "etc/group-", "etc/gshadow-", "etc/hostname", "etc/passwd-",
    "etc/shadow-", "etc/subgid-", "etc/subuid-", "etc/ssh/ssh_host_*", "etc/udev/hwdb.bin", "root/.bash_history",
    "root/.cache", "root/.ssh", "root/.wget-hsts", "var/cache/apt/*.bin", "var/cache/debconf/*-old",
    "var/lib/dbus/machine-id", "var/lib/dpkg/*-old", "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed", "var/lib/chrony/*", "var/lib/dhcp/*.leases",
    # What an RPM system's installer writes for the machine it runs on; the kickstart file holds root's password.
    "etc/sysconfig/network-scripts/ifcfg-*", "etc/udev/rules.d/70-persistent-net.rules", "root/*-ks.cfg",
    "root/anaconda*",
    # The environment of a Berkeley database has the state of who had it open, and is made anew.
    "usr/lib/sysimage/rpm/.*.lock", "usr/lib/sysimage/rpm/__db.*", "var/lib/rpm/.*.lock", "var/lib/rpm/__db.*",
    "var/lib/yum/uuid",
)  # fmt: skip
KEPT = ("etc/sysconfig/network-scripts/ifcfg-lo",)


def seal(root: Path, epoch: int, changes: Path) -> None:
    """Seal a mounted tree.

    Args:
        root: the tree.
        epoch: latest modification time, in seconds since 1970.
        changes: the layer that took this step's changes; only there can times be newer than ``epoch``.
    """
    for name in EMPTIED:
        tree.remove_below(tree.inside(root, name))
    for name in FILES_REMOVED:
        tree.remove_files_below(tree.inside(root, name))
    for pattern in map(Path, REMOVED):
        for path in tree.inside(root, str(pattern.parent)).glob(pattern.name):
            if str(pattern.parent / path.name) not in KEPT:
                _remove(path)
    tree.write(root, "etc/machine-id", "")
    tree.clamp_times(changes, epoch)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        tree.remove_below(path)
        path.rmdir()
    else:
        path.unlink()
