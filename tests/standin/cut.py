"""Cuts a Debian tree into packages of an RPM distribution: what each brings, and what it needs."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.standin import names
from tests.standin.debian import Deb

EVERY_SYSTEM = "basesystem"


@dataclass
class Rpm:
    """A package in the making.

    Attributes:
        name: its name.
        version: epoch and version, as in ``1:2.3-4``.
        requires: names of packages.
        provides: other names.
        paths: what it brings, relative to the root.
        scripts: scriptlets by section (``%pre``).
    """

    name: str
    version: str
    requires: set[str] = field(default_factory=set)
    provides: tuple[str, ...] = ()
    paths: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)


def rpm_name(deb: str) -> str:
    """Return what a Debian package is called here."""
    if re.match(r"linux-image-[0-9]", deb):
        return "kernel-core"
    return names.NAMES.get(deb, (deb,))[0]


def moved(path: str) -> str:
    """Return where a file of Debian's is here."""
    for pattern, new in names.MOVED:
        path = pattern.sub(new, path)
    return path


def is_dropped(deb: str) -> bool:
    return names.DROPPED.fullmatch(deb) is not None


def packages(root: Path, debs: Sequence[Deb], scripts: Mapping[str, str]) -> dict[str, Rpm]:
    """Cut a tree that is dressed: every file of it goes to one package, or is left out.

    Args:
        root: the tree.
        debs: what it is made of.
        scripts: from :func:`account_scripts`.
    """
    kept = [deb for deb in debs if not is_dropped(deb.name)]
    found = {rpm_name(deb.name): _rpm(deb, kept) for deb in kept}
    found |= {name: Rpm(name, "1-1") for name in ("filesystem", "setup", EVERY_SYSTEM)}
    version = found["kernel-core"].version
    found["kernel-modules"] = Rpm("kernel-modules", version, {"kernel-core"})
    found["kernel"] = Rpm("kernel", version, {"kernel-core", "kernel-modules"})
    found["grub2-pc"] = Rpm("grub2-pc", found["grub2-tools"].version, {"grub2-tools", "grub2-pc-modules"})
    _give_files(root, debs, found)
    found[EVERY_SYSTEM].requires |= {rpm_name(deb.name) for deb in kept if deb.essential}
    found[EVERY_SYSTEM].requires |= {"setup", "shadow-utils", "login", "mount", "systemd", "libpam-runtime"}
    for name in found:
        if name not in {"filesystem", "setup"}:
            found[name].requires.add("filesystem")
    found["filesystem"].requires.add("setup")
    _write_scripts(found, scripts)
    return found


def _rpm(deb: Deb, kept: Sequence[Deb]) -> Rpm:
    there = {other.name for other in kept}
    requires = set()
    for alternatives in deb.depends:
        chosen = next((name for name in alternatives if name in there), None)
        if chosen is not None and rpm_name(chosen) != rpm_name(deb.name):
            requires.add(rpm_name(chosen))
    requires |= names.NEEDS.get(deb.name, set())
    return Rpm(rpm_name(deb.name), deb.version, requires, names.NAMES.get(deb.name, ())[1:])


def _give_files(root: Path, debs: Sequence[Deb], found: dict[str, Rpm]) -> None:
    owners: dict[str, str] = {}
    shared: Counter[str] = Counter()
    for deb in debs:
        if is_dropped(deb.name):
            owners |= {path: "nobody" for path in map(moved, deb.paths) if not is_directory(root / path)}
            continue
        for path in map(moved, deb.paths):
            if is_directory(root / path):
                shared[path] += 1
            owners.setdefault(path, rpm_name(deb.name))
    owners["usr/bin/sh"] = "bash"  # dash's in Debian
    for path in walk(root):
        if names.LEFT_OUT.match(path):
            continue
        if is_directory(root / path):
            owner = owners[path] if shared[path] == 1 else "filesystem"
        elif "/" not in path:  # /bin and its like: links into /usr
            owner = "filesystem"
        else:
            owner = owners.get(path) or _guess(root, path, owners)
        if owner in found:
            found[owner].paths.append(path)


def is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def walk(root: Path) -> Iterator[str]:
    """Yield every path below a directory, relative to it."""
    for directory, below, files in os.walk(root):
        place = Path(directory).relative_to(root)
        for name in sorted([*below, *files]):
            yield str(place / name)


def _guess(root: Path, path: str, owners: dict[str, str]) -> str:
    """Say who would bring a file that no Debian package has."""
    if match := re.fullmatch(r"(.+)/__pycache__/([^.]+)\.[^/]+", path):
        return owners.get(f"{match[1]}/{match[2]}.py", "nobody")
    full = root / path
    if full.is_symlink():
        target = str(full.readlink())
        if path.startswith("etc/alternatives/"):
            return owners.get(target.lstrip("/"), "nobody")
        if target.startswith("/etc/alternatives/"):
            there = root / target.lstrip("/")
            return owners.get(str(there.readlink()).lstrip("/"), "nobody") if there.is_symlink() else "nobody"
    for pattern, owner in names.GENERATED:
        if re.match(pattern, path):
            return owner
    return "setup"


def _write_scripts(found: dict[str, Rpm], scripts: Mapping[str, str]) -> None:
    for name, script in scripts.items():
        if name in found:
            found[name].scripts["%pre"] = script
            found[name].requires |= {"shadow-utils", "glibc-common"}
    for name, units in names.PRESET.items():
        if name in found:
            found[name].scripts["%post"] = f"systemctl --no-reload preset {' '.join(units)} &>/dev/null || :\n"
    found["glibc-common"].scripts["%transfiletriggerin -P 2000000"] = "/sbin/ldconfig"


def account_scripts(root: Path) -> dict[str, str]:
    """Return the %pre of every package that makes users or groups; they get the numbers that they have in the tree."""
    scripts: defaultdict[str, str] = defaultdict(str)
    groups = {line.split(":")[2]: line.split(":")[0] for line in (root / "etc/group").read_text().splitlines()}
    for gid, group in groups.items():
        owner = names.GROUPS.get(group) or names.USERS.get(group)
        if owner is not None:
            scripts[owner] += f"getent group {group} >/dev/null || groupadd -r -g {gid} {group}\n"
    for line in (root / "etc/passwd").read_text().splitlines():
        user, _, uid, gid, comment, home, shell = line.split(":")
        if user in names.USERS:
            add = f"useradd -r -u {uid} -g {groups[gid]} -M -d {home} -s {shell} -c '{comment}' {user}"
            scripts[names.USERS[user]] += f"getent passwd {user} >/dev/null || {add}\n"
    return scripts


def made_by_scripts(name: str) -> bool:
    """Whether an account is made by a package's scriptlet, so that setup's files lack it."""
    return name in names.USERS or name in names.GROUPS


def mode_of(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
