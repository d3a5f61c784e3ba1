"""What a finished system lacks of a profile is installed into it, and what a virtual machine does not need goes.

This machine's dnf resolves and fetches, against a copy of the tree's database; signatures are checked against the
pinned keys; then the target's own rpm installs, without a network, and writes its database as it is used to (D3).
"""

from __future__ import annotations

import dataclasses
import shutil
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.core import namespace, process, progress
from pipeline.core.errors import InputError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import dnf, downloads, kernels, probe, rpm, rpm_keys, rpmdb, settle, slim
from pipeline.image.bases.medium import Request, check_identity, wrong_arch

RPM = ("usr/bin/rpm", "bin/rpm")
MACHINES = {62: "x86_64", 183: "aarch64"}  # e_machine of ELF (elf(5))


def check(path: Path, root: Path, request: Request) -> None:
    """Check that a tree is what was asked for.

    Args:
        path: where it came from, for messages.
        root: the tree.
        request: what was asked for.

    Raises:
        InputError: it has no package manager, or is of another architecture or release.
    """
    program = next((file for name in RPM if (file := tree.inside(root, name)).is_file()), None)
    if program is None:
        raise InputError(
            f"{path} has no package manager: there is no /{RPM[0]} in it",
            hint="use an image with rpm: the vendor's base image, not a minimal or 'distroless' one",
        )
    with program.open("rb") as stream:
        header = stream.read(20)
    machine = struct.unpack("<H", header[18:20])[0] if header.startswith(b"\x7fELF") else 0
    if (found := MACHINES.get(machine, f"machine {machine}")) != request.arch.rpm:
        raise wrong_arch(path, found, request.arch)
    check_identity(request, path, probe.os_release(root), probe.product(root))


def complete(path: Path, request: Request, target: Path, *, workspace: Path, package_cache: Path) -> None:
    """Make a tree out of a system that was unpacked.

    Args:
        path: where it came from, for messages.
        request: what is asked of it.
        target: directory that holds ``tree/``, and gets ``packages.json`` and ``origin.json``.
        workspace: directory for intermediate files.
        package_cache: downloaded packages, shared between builds.

    Raises:
        InputError: the system is not what was asked for, or a package does not exist.
        PipelineError: as :func:`pipeline.image.bases.rpm.make`.
    """
    root, begin = target / "tree", int(time.time())
    check(path, root, request)
    database = probe.of_tree(root).database
    place = {"database": database or request.base.database}
    request = dataclasses.replace(request, base=request.base.model_copy(update=place))
    tree.write(root, _made(root, dnf.MACROS), dnf.macros(request.base))
    kernels.mask(root)
    lacking = _lacking(path, root, [request.base.release_package, *request.packages])
    files: dict[str, Path] = {}
    if lacking:
        progress.note(f"{len(lacking)} packages are not in {path.name}: {', '.join(lacking)}")
        with progress.step("add packages"), downloads.in_use(package_cache):
            files = _fetch(request, root, lacking, workspace, package_cache)
            _install(
                root,
                rpmdb.gathered({file.name: file for file in files.values()}, workspace / "rpms"),
                _newest(root, files.values(), workspace),
            )
        if still := _lacking(path, root, lacking):
            raise VerificationError(
                f"{', '.join(still)} did not get into the tree", hint="see the log of the base step"
            )
    with progress.step("slim"):
        slim.slim(root, request.packages, request.base.avoid)
    kernels.finish(root)
    installed, epoch = rpmdb.seen(root), _newest(root, (), workspace)
    settle.settle(root, request.base.database, epoch, since=begin)
    rpmdb.check(root, set(installed))
    rpmdb.write_packages(target, installed, files)
    rpm.write_origin(target, epoch)
    rpm.tidy(root, request.base)


def _made(root: Path, path: str) -> str:
    tree.inside(root, str(Path(path).parent)).mkdir(parents=True, exist_ok=True)
    return path


def _lacking(path: Path, root: Path, packages: Sequence[str]) -> list[str]:
    """Return those packages that the target's rpm does not know, by name or as something that is provided."""
    words = ["/bin/sh", "-c", r"rpm -qa --qf '[%{PROVIDENAME}\n]'"]
    provided = set(namespace.in_tree(root, words, capture=True, what="listing what is there").stdout.split())
    if not provided:
        raise InputError(
            f"the package database of {path} is empty: its rpm knows of nothing that is installed",
            hint="use an image whose database was kept",
        )
    return sorted(set(packages) - provided)


def _fetch(
    request: Request, root: Path, lacking: Sequence[str], workspace: Path, package_cache: Path
) -> dict[str, Path]:
    """Fetch what is lacking with all that it needs; returns checked package files by identity."""
    if not request.repositories:
        raise InputError(f"there is no repository to take {', '.join(lacking)} from", hint="name one: --mirror URL")
    rpm.check(request.repositories)
    keys = rpm_keys.trusted(request.base, request.repositories, workspace)
    program = dnf.set_up(
        request.base, request.arch, request.repositories, root, keys,
        workspace=workspace, package_cache=package_cache,
    )  # fmt: skip
    # A newer rpm's look into an older database may change it; so dnf is shown a copy.
    copy = workspace / "database"
    shutil.copytree(tree.inside(root, request.base.database), copy)
    # Not checked by dnf, which would have to write the keys into the database; but by check_signatures.
    chosen = program.choose(lacking, "--nogpgcheck", download=True, binds=[(copy, request.base.database)])
    files = sorted(item.file for item in chosen)
    rpm_keys.check_signatures(files, keys, workspace)
    return rpmdb.identified(files, program.home)


def _install(root: Path, files: Path, epoch: int) -> None:
    words = ["/bin/sh", "-c", f"rpm -U --excludedocs --nosignature {rpmdb.RPMS_IN_TREE}/*.rpm"]
    env = kernels.BYPASS | {"SOURCE_DATE_EPOCH": str(epoch)}
    namespace.in_tree(root, words, env=env, binds=[(files, rpmdb.RPMS_IN_TREE)], what="installing packages")


def _newest(root: Path, files: Iterable[Path], workspace: Path) -> int:
    """Return when the newest package was built, in seconds since 1970: the same packages, the same time."""
    words = ["/bin/sh", "-c", r"rpm -qa --qf '%{BUILDTIME}\n'"]
    times = namespace.in_tree(root, words, capture=True, what="asking for times").stdout.split()
    if files := list(files):
        asked: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--qf", r"%{BUILDTIME}\n", *files]
        home = {"HOME": str(workspace / "home")}
        times += process.run(asked, env=home, capture=True, what="asking for times").stdout.split()
    return max(int(time) for time in times if time.isdigit())
