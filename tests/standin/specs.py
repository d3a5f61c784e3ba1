"""Makes RPMs out of a cut tree: the tree is the build root, and one spec file describes every package."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.standin import cut, names
from tests.standin.cut import Rpm, is_directory, mode_of
from tests.standin.debian import TRIPLETS, Deb, run

FILES = Path(__file__).parent / "files"
PLUGINS = "usr/lib/kernel/install.d"
BUILD_TIME = "1700000000"
ACCOUNT_FILES = ("etc/passwd", "etc/shadow", "etc/group", "etc/gshadow")
HEADER = """\
Name: standin
Version: 1
Release: 1
Summary: stand-in
License: as Debian's
Vendor: Stand-in
AutoReqProv: no
%define __os_install_post %{nil}
%define _build_id_links none
%define debug_package %{nil}
%define _unpackaged_files_terminate_build 0
%description
A stand-in, cut from Debian.
"""
PACKAGE = """
%package -n {name}
Summary: {name} of Debian
Version: {version}
Release: {release}
{epoch}AutoReqProv: no
{relations}
%description -n {name}
Cut from Debian {debian}.
{scripts}
%files -n {name}{listing}
"""


def complete(root: Path, configured: Path, debs: Sequence[Deb], own: Architecture, arch: Architecture) -> None:
    """Give an unpacked tree what maintainer scripts have made in the configured one: generated files, owners, modes.

    Args:
        root: the unpacked tree.
        configured: the other one.
        debs: what the configured tree is made of: their own files are not generated.
        own: its architecture.
        arch: that of the unpacked tree.
    """
    brought = {path for deb in debs for path in deb.paths}
    for directory, below, files in os.walk(configured):
        place = Path(directory).relative_to(configured)
        for name in [*below, *files]:
            path = str(place / name)
            if names.LEFT_OUT.match(path) or path.startswith(("boot/", "usr/lib/modules/")):
                continue
            target = root / _foreign(path, own, arch)
            if is_directory(target) and (configured / path).is_symlink():  # /var/run and its like
                target.rmdir()
            if not os.path.lexists(target) and path not in brought:
                _copy(configured / path, target, own, arch)
            if os.path.lexists(target) and not target.is_symlink():
                status = (configured / path).lstat()
                os.chown(target, status.st_uid, status.st_gid)
                target.chmod(status.st_mode & 0o7777)


def _foreign(text: str, own: Architecture, arch: Architecture) -> str:
    return text.replace(TRIPLETS[own], TRIPLETS[arch])


def _copy(source: Path, target: Path, own: Architecture, arch: Architecture) -> None:
    if source.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(_foreign(str(source.readlink()), own, arch))
    elif source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not source.read_bytes()[:4].startswith(b"\x7fELF"):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def dress(root: Path, kernel: str, *, boot: bool) -> None:
    """Change a tree into one of an RPM system: names, settings, the few programs that Debian has not.

    Args:
        root: the tree.
        kernel: version of its kernel.
        boot: whether the kernel's package has its file in /boot, as the older systems do, or beside its modules.
    """
    everything = [str(file.relative_to(root)) for file in root.rglob("*")]
    for pattern, changes in names.REWRITTEN:
        for path in filter(pattern.match, everything):
            text = (root / path).read_text()
            for old, new in changes:
                text = re.sub(old, new, text)
            _write(root, path, text)
            for stale in (root / path).parent.glob(f"__pycache__/{Path(path).stem}.*.pyc"):
                stale.unlink()
    for path in everything:
        if (moved := cut.moved(path)) != path:
            (root / path).rename(root / moved)
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("bash")
    for path in ACCOUNT_FILES:  # scriptlets add the others
        lines = (root / path).read_text().splitlines(keepends=True)
        _write(root, path, "".join(line for line in lines if not cut.made_by_scripts(line.split(":")[0])))
    _add_kernel_tools(root, kernel, boot=boot)


def _add_kernel_tools(root: Path, kernel: str, *, boot: bool) -> None:
    tools = {"new-kernel-pkg": "usr/sbin"} if boot else dict.fromkeys(("20-grub.install", "50-dracut.install"), PLUGINS)
    for name, place in tools.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES / name, root / place / name)
    if not boot:
        for name in ("vmlinuz", "config", "System.map"):
            (root / f"boot/{name}-{kernel}").rename(root / f"usr/lib/modules/{kernel}/{name}")


def _write(root: Path, path: str, text: str) -> None:
    """Replace a file; another name of it, in the tree that this one was linked from, keeps its content."""
    mode = (root / path).stat().st_mode & 0o7777
    (root / path).unlink()
    (root / path).write_text(text)
    (root / path).chmod(mode)


@dataclass(frozen=True)
class Accounts:
    """Names of users and groups by their numbers, as a tree has them."""

    users: Mapping[str, str]
    groups: Mapping[str, str]


def accounts(root: Path) -> Accounts:
    """Read a tree's accounts."""
    users, groups = (
        {line.split(":")[2]: line.split(":")[0] for line in (root / path).read_text().splitlines()}
        for path in ("etc/passwd", "etc/group")
    )
    return Accounts(users, groups)


def build(root: Path, rpms: Mapping[str, Rpm], target: Path, arch: Architecture, payload: str, known: Accounts) -> None:
    """Build every package; the tree stays as it is."""
    work = target.with_name(f"{target.name}-work")
    work.mkdir()
    spec = HEADER
    for rpm in sorted(rpms.values(), key=lambda item: item.name):
        listing = work / f"{rpm.name}.list"
        listing.write_text("".join(f"{_entry(root, path, known)}\n" for path in sorted(set(rpm.paths))))
        spec += _section(rpm, listing)
    (work / "standin.spec").write_text(spec)
    words = ["rpmbuild", "-bb", "--noclean", "--buildroot", str(root), "--target", f"{arch.rpm}-linux"]
    defines = {
        "_topdir": str(work / "top"), "_dbpath": str(work / "db"), "_binary_payload": payload, "_rpmdir": str(target),
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", "__check_files": "%{nil}",
        "_buildhost": "standin",
        "use_source_date_epoch_as_buildtime": "1",
    }  # fmt: skip
    for name, value in defines.items():
        words += ["--define", f"{name} {value}"]
    run(*words, work / "standin.spec", SOURCE_DATE_EPOCH=BUILD_TIME)
    shutil.rmtree(work)


def _entry(root: Path, path: str, known: Accounts) -> str:
    status = (root / path).lstat()
    if path in ACCOUNT_FILES:  # their groups are not there yet when they are
        return f'%attr({"0600" if "shadow" in path else "0644"},root,root) %config(noreplace) "/{path}"'
    owner = f"{known.users.get(str(status.st_uid), 'root')},{known.groups.get(str(status.st_gid), 'root')}"
    quoted = f'"/{path}"'.replace("%", "%%")
    if (root / path).is_symlink():
        return quoted
    if is_directory(root / path):
        return f"%dir %attr({mode_of(status)},{owner}) {quoted}"
    config = "%config(noreplace) " if path.startswith("etc/") else ""
    caps = "%caps(cap_net_raw=ep) " if path == "usr/bin/ping" else ""
    return f"%attr({mode_of(status)},{owner}) {config}{caps}{quoted}"


def _section(rpm: Rpm, listing: Path) -> str:
    epoch, version, release = split_version(rpm.version)
    relations = [f"Requires: {name}" for name in sorted(rpm.requires)]
    relations += [f"Provides: {name}" for name in rpm.provides]
    relations += ["Provides: /sbin/ldconfig"] * (rpm.name == "glibc-common")
    relations += ["Provides: /bin/sh\nProvides: /usr/bin/bash"] * (rpm.name == "bash")
    scripts = "".join(_script(section, body, rpm.name) for section, body in rpm.scripts.items())
    return PACKAGE.format(
        name=rpm.name, version=version, release=release, epoch=f"Epoch: {epoch}\n" if epoch else "",
        relations="\n".join(relations), scripts=scripts,
        listing=f" -f {listing}" if rpm.paths else "", debian=rpm.version,
    )  # fmt: skip


def _script(section: str, body: str, name: str) -> str:
    """Return a scriptlet; a trigger runs when files below /usr/lib have come or gone (rpm's file triggers)."""
    kind, _, options = section.partition(" ")
    return f"{kind} -n {name} {options} -- /usr/lib\n{body}\n" if options else f"{kind} -n {name}\n{body}\n"


def split_version(version: str) -> tuple[str, str, str]:
    """Split a Debian version into what an RPM has: epoch, version, release."""
    epoch, _, rest = version.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    return epoch, (upstream if dash else rest).replace("-", "."), (revision if dash else "1").replace("-", ".")
