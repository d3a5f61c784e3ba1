"""The payload's own files: scripts, templates and units, and what is generated beside them."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.installer.components import Component, sha256_of

ROOT = "cluster-installer"  # directory in the image
ENTRY = "bin/install"
SUMS, ENVIRONMENT, COMPONENTS = "SHA256SUMS", "payload.env", "components"
PROGRAM, PLAIN = 0o755, 0o644


@dataclass(frozen=True)
class File:
    """A file of the payload.

    Attributes:
        path: below the payload's directory.
        source: where it is.
        mode: 0755 if its owner may execute it, else 0644.
        sha256: of its content.
    """

    path: str
    source: Path
    mode: int
    sha256: str


def collect(directory: Path) -> tuple[File, ...]:
    """Return every file of a payload, sorted by path.

    Args:
        directory: ``installer-image/payload``.

    Raises:
        InputError: there is none, it lacks ``bin/install``, or something in it has no place in a payload.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory", hint="run the command in a checkout of this project")
    found = []
    for path in sorted(directory.rglob("*"), key=lambda one: one.relative_to(directory).as_posix()):
        name = path.relative_to(directory).as_posix()
        mode = path.lstat().st_mode
        _check(path, name, mode)
        if stat.S_ISREG(mode):
            found.append(File(name, path, PROGRAM if mode & stat.S_IXUSR else PLAIN, _sum(path)))
    if not any(file.path == ENTRY and file.mode == PROGRAM for file in found):
        raise InputError(
            f"{directory} has no executable {ENTRY}, which is what a node runs", hint=f"chmod +x {directory / ENTRY}"
        )
    return tuple(found)


def _check(path: Path, name: str, mode: int) -> None:
    if not name.isprintable() or "\\" in name:  # a byte that is not UTF-8 is a surrogate, and not printable
        raise InputError(
            f"{str(path)!r}: no name in the payload may have a newline, a control character or a backslash",
            hint="rename it: SHA256SUMS has one line for each file",
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "a device, pipe or socket"
        raise InputError(f"{path} is {what}; the payload holds files and directories only", hint="put a file there")
    if name in (SUMS, ENVIRONMENT, COMPONENTS):
        raise InputError(f"{path} would hide what the build makes under this name", hint="rename or remove it")


def _sum(path: Path) -> str:
    if not (found := sha256_of(path)):
        raise InputError(f"{path} cannot be read", hint="check its mode")
    return found


def environment(version: str, revision: str, arch: Architecture, components: Mapping[str, Component]) -> dict[str, str]:
    """Return what ``payload.env`` says.

    Args:
        version: of the installer.
        revision: commit that it was made from.
        arch: what it is for.
        components: those that it carries.
    """
    known = {"PAYLOAD_VERSION": version, "PAYLOAD_REVISION": revision, "PAYLOAD_ARCH": arch.oci}
    if "kubeadm" in components:
        known["KUBERNETES_VERSION"] = f"v{components['kubeadm'].version.removeprefix('v')}"
    versions = {f"{name.upper().replace('-', '_')}_VERSION": one.version for name, one in sorted(components.items())}
    return known | versions


def environment_text(values: Mapping[str, str]) -> str:
    """Return ``payload.env``: read as data, ``KEY=value``."""
    return "".join(f"{key}={value}\n" for key, value in values.items())


def sums_text(sums: Iterable[tuple[str, str]]) -> str:
    """Return ``SHA256SUMS`` as ``sha256sum`` prints it, sorted by path.

    Args:
        sums: path below the payload's directory and sha256 of every file but this one.
    """
    return "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(sums))
