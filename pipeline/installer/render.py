"""From ``cluster.yaml`` to a directory of seeds, one for each node: ``./invoke cluster.render``."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import publish
from pipeline.core.errors import InputError, StorageError
from pipeline.installer import seed
from pipeline.installer.spec import JOIN_SECRET, ClusterSpec, Role, Site

DISK = "seed.iso"
SECRET_BYTES = 32
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600


class Change(enum.StrEnum):
    """What became of a node's seed."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Rendered:
    """What was rendered.

    Attributes:
        cluster: the spec.
        directory: where.
        nodes: by name, what became of their seeds.
        left: nodes whose seeds are there, but that are not in the spec any more.
    """

    cluster: ClusterSpec
    directory: Path
    nodes: Mapping[str, Change]
    left: tuple[str, ...]

    def text(self) -> str:
        """Return it as a user reads it."""
        rows = [(one.name, one.role, str(one.address), one.arch, self.nodes[one.name]) for one in self.cluster.nodes]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.directory}: the seeds of cluster {self.cluster.name}"]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        for name in self.left:
            lines.append(f"{name} is not in the spec any more; its seed is still there: {self.directory / name}")
        keyless = [one.name for one in self.cluster.nodes if not one.ssh_authorized_keys]
        if keyless and not self.cluster.ssh_authorized_keys:
            lines.append(f"nobody can log in on {', '.join(keyless)}: the spec has no ssh_authorized_keys for them")
        first = next(one.name for one in self.cluster.nodes if one.role is Role.FIRST_MASTER)
        if self.nodes[first] is Change.NEW:
            lines.append(f"next: attach {first}/{DISK} and the others to their machines; docs/site-guide.md says how")
        elif Change.CHANGED in self.nodes.values():
            lines.append("a node that is installed keeps its cluster.env; docs/site-guide.md says how to change it")
        return "\n".join(lines)


def render(site: Site, directory: Path) -> Rendered:
    """Write the seeds of all nodes; those that have not changed are left as they are.

    Args:
        site: the cluster.
        directory: where; made if it is not there. It holds secrets, so only its owner may read it.

    Raises:
        InputError: the join secret there is none.
        StorageError: nothing can be written there.
    """
    try:
        directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        with _locked(directory):
            directory.chmod(PRIVATE_DIRECTORY)
            secret = _join_secret(directory / JOIN_SECRET)
            wanted = {node.name: seed.texts(site, node, secret) for node in site.cluster.nodes}
            changes = {name: _write(directory, name, files) for name, files in wanted.items()}
            left = sorted(path.parent.name for path in directory.glob("[!.]*/user-data"))
    except OSError as error:
        what = f"cannot write the seeds to {directory}: {error.strerror or error}"
        raise StorageError(what, hint="check its mode and the free space, or choose another one with --out") from error
    return Rendered(site.cluster, directory, changes, tuple(name for name in left if name not in wanted))


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, which is on itself, so that no file is left there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _join_secret(path: Path) -> str:
    """Return the cluster's join secret; it is made once, and later nodes need the same."""
    if not path.exists():
        made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        _write_file(made, f"{secrets.token_hex(SECRET_BYTES)}\n".encode())
        made.rename(path)
    path.chmod(PRIVATE_FILE)
    found = path.read_bytes().decode("ascii", "replace").strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}", found):
        raise InputError(
            f"{path} does not hold {2 * SECRET_BYTES} hexadecimal digits",
            hint="put back the file that the cluster was made with, or remove it if there is no cluster yet",
        )
    return found


def _write(directory: Path, name: str, files: Mapping[str, str]) -> Change:
    target = directory / name
    if target.exists() and _same(target, files):
        return Change.UNCHANGED
    change = Change.CHANGED if target.exists() else Change.NEW
    with publish.staging(directory, name) as staged:
        staged.chmod(PRIVATE_DIRECTORY)
        for file, text in files.items():
            _write_file(staged / file, text.encode())
        _write_file(staged / DISK, b"")
        with (staged / DISK).open("r+b") as stream:
            seed.write_disk({file: files[file] for file in seed.names(files)}, stream)
        publish.publish(staged, target)
    return change


def _same(target: Path, files: Mapping[str, str]) -> bool:
    """Whether a seed is there as it would be written: the files and no others, readable by nobody else."""
    there = {path.name: path for path in target.iterdir()}
    if set(there) != {*files, DISK} or target.stat().st_mode & 0o077:
        return False
    if any(path.stat().st_mode & 0o077 for path in there.values()):
        return False
    return all(there[name].read_bytes() == text.encode() for name, text in files.items())


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
