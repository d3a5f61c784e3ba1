"""Where finished images go from a build server: a directory that all of them share, or a registry."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from pipeline import image, oci
from pipeline.core import publish
from pipeline.core.errors import InputError, StorageError
from pipeline.matrix.model import Order, RegistryAccess

OCI = "oci://"


def check(artifacts: str) -> str:
    """Return where images go, as servers understand it.

    Args:
        artifacts: a directory, or ``oci://REGISTRY/REPOSITORY``.

    Raises:
        InputError: it is neither.
    """
    if artifacts.startswith(OCI):
        oci.Reference.parse(f"{artifacts.removeprefix(OCI)}:any")
        return artifacts
    if "://" in artifacts:
        raise InputError(
            f"--artifacts {artifacts} is neither a directory nor oci://REGISTRY/REPOSITORY", hint="see docs/scaling.md"
        )
    path = Path(artifacts).absolute()
    if not path.is_dir():
        raise InputError(
            f"there is no directory {path}", hint="make it, and mount it at the same path on every build server"
        )
    return str(path)


def deliver(order: Order, key: str) -> str:
    """Bring an image that was built here to where it was ordered to.

    Args:
        order: the cell; it names the place.
        key: of the plan that was carried out.

    Returns:
        Where it is now.

    Raises:
        StorageError: the directory is not there or cannot be written, or the image was replaced meanwhile.
        NetworkError: the registry refuses it or cannot be reached.
    """
    assert order.artifacts is not None
    where = order.workshop.build_dir
    with publish.only_one(where, order.name):  # nobody replaces it while it is read
        found = json.loads((where / order.name / "manifest.json").read_text())["key"]
        if found != key:
            raise StorageError(
                f"{where / order.name} was built anew from another order before it could be collected",
                hint="order it again, when the other order is done",
            )
        if order.artifacts.startswith(OCI):
            return _push(order)
        return _copy(where / order.name, Path(order.artifacts), order.server)


def _push(order: Order) -> str:
    assert order.artifacts is not None
    access = order.registry or RegistryAccess()
    options = oci.RegistryOptions(
        ca=access.ca,
        insecure_tls=access.insecure,
        plain_http=access.plain_http,
        auth_file=access.auth_file or oci.find_auth_file(),
    )
    pushed = image.push_image(order.workshop.build_dir / order.name, order.artifacts.removeprefix(OCI), options)
    return pushed.reference


def _copy(source: Path, shared: Path, server: str) -> str:
    """Copy a directory beside its place and rename it: a reader sees the old one or the new one, whole."""
    if not shared.is_dir():
        raise StorageError(
            f"{server} has no directory {shared}",
            hint="mount it at the same path on every build server, or collect with --artifacts oci://",
        )
    target = shared / source.name
    if _is_same(source, target):
        return str(target)
    try:
        # The server is in the name: what another one copies at this moment is not removed as a leftover.
        with publish.staging(shared, f"{source.name}.{server}") as staged:
            shutil.copytree(source, staged, symlinks=True, dirs_exist_ok=True)
            _replace(staged, target)
    except OSError as error:
        raise StorageError(
            f"cannot write to {target}: {error}", hint="make space, or make it writable for the servers' user"
        ) from error
    return str(target)


def _is_same(source: Path, target: Path) -> bool:
    """Whether an image was collected before; the list of checksums names every file."""
    try:
        return (source / "SHA256SUMS").read_bytes() == (target / "SHA256SUMS").read_bytes()
    except OSError:
        return False


def _replace(staged: Path, target: Path) -> None:
    try:
        publish.publish(staged, target)
    except StorageError:  # NFS cannot exchange two directories: there is a moment in which neither is there
        old = staged.with_name(f"{staged.name}.old")
        target.rename(old)
        with contextlib.ExitStack() as undo:
            undo.callback(old.rename, target)
            staged.rename(target)
            undo.pop_all()
        shutil.rmtree(old, ignore_errors=True)
