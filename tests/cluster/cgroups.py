"""A host's part of the machine's cgroups: one group in every hierarchy, version 1, 2, or both side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TOP = Path("/sys/fs/cgroup")
NOT_OPTIONS = ("rw", "ro", "xattr", "clone_children", "nsdelegate", "memory_recursiveprot", "memory_localevents")
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy.

    Attributes:
        mount: where it is mounted.
        kind: cgroup or cgroup2.
        options: what mounts it again.
        base: the group below which ours are made. Version 1: that of this process, whose limits so hold for ours, too;
            version 2: the top, since a group with processes in it can have no controllers for groups below.
    """

    mount: Path
    kind: str
    options: str
    base: Path

    @property
    def name(self) -> str:
        return str(self.mount.relative_to(TOP))


def hierarchies() -> list[Hierarchy]:
    """Return what is mounted below /sys/fs/cgroup."""
    mine = _own_groups()
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, where = before.split()[3:5]
        kind, _, supers = after.split(" ", 2)
        mount = Path(where)
        if not kind.startswith("cgroup") or not mount.is_relative_to(TOP):
            continue
        if kind == "cgroup2":
            found.append(Hierarchy(mount, kind, "", mount))
            continue
        words = [word for word in supers.split(",") if word not in NOT_OPTIONS and not word.startswith("release_agent")]
        own = mine.get(",".join(sorted(words)), "/")
        below = own.removeprefix(root if root != "/" else "").lstrip("/")
        options = ",".join(["none", *words] if words[0].startswith("name=") else words)
        found.append(Hierarchy(mount, kind, options, mount / below))
    return sorted(found, key=lambda one: one.name)


def _own_groups() -> dict[str, str]:
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {",".join(sorted(names.split(","))): group for _, names, group in lines}


def make(name: str, memory: int | None) -> list[Path]:
    """Make a host's group in every hierarchy, with `init.scope` in it for all that is in no other.

    Args:
        name: of the group; no other may be called so.
        memory: how much the host may use; None for no limit.

    Returns:
        The groups.
    """
    groups = []
    for one in hierarchies():
        if one.name == ".":
            _delegate(one.base)
        group = one.base / name
        group.mkdir()
        if one.name == ".":
            _delegate(group)
        (group / "init.scope").mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if one.kind == "cgroup" and (group / setting).exists():
                value = (one.base / setting).read_text()
                (group / setting).write_text(value)
                (group / "init.scope" / setting).write_text(value)
        for limit in (group / "memory.limit_in_bytes", group / "memory.max"):
            if memory and limit.exists():
                limit.write_text(str(memory))
        groups.append(group)
    return groups


def _delegate(group: Path) -> None:
    there = (group / "cgroup.controllers").read_text().split()
    on = (group / "cgroup.subtree_control").read_text().split()
    for controller in CONTROLLERS:
        if controller in there and controller not in on:
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
