"""Seal: the last step on a tree. Identity, logs and caches go, times are clamped (decision D7).

What identifies a machine must be made by each machine itself: cloned machine-ids give cloned MAC addresses and DHCP
leases, cloned host keys let every node impersonate every other.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.image import tree

EMPTIED = (
    "run", "tmp", "var/cache/apt/archives", "var/cache/ldconfig", "var/lib/apt/lists", "var/lib/cloud", "var/tmp",
)  # fmt: skip
REMOVED = (
    ".autorelabel", ".dockerenv", "etc/.pwd.lock", "etc/group-", "etc/gshadow-", "etc/hostname", "etc/passwd-",
    "etc/shadow-", "etc/subgid-", "etc/subuid-", "etc/ssh/ssh_host_*", "etc/udev/hwdb.bin", "root/.bash_history",
    "root/.cache", "root/.ssh", "root/.wget-hsts", "var/cache/apt/*.bin", "var/cache/debconf/*-old",
    "var/lib/dbus/machine-id", "var/lib/dpkg/*-old", "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed", "var/lib/chrony/*", "var/lib/dhcp/*.leases",
)  # fmt: skip


def seal(root: Path, epoch: int, changes: Path) -> None:
    """Seal a mounted tree.

    Args:
        root: the tree.
        epoch: latest modification time, in seconds since 1970.
        changes: the layer that took this step's changes; only there can times be newer than ``epoch``.
    """
    for name in EMPTIED:
        tree.remove_below(tree.inside(root, name))
    for pattern in map(Path, REMOVED):
        for path in tree.inside(root, str(pattern.parent)).glob(pattern.name):
            _remove(path)
    # Services expect their directories there, with their owners.
    tree.remove_files_below(tree.inside(root, "var/log"))
    tree.write(root, "etc/machine-id", "")
    tree.clamp_times(changes, epoch)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        tree.remove_below(path)
        path.rmdir()
    else:
        path.unlink()
