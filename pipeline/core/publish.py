"""How what was built takes its place in the build directory: one builder at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import disks, progress
from pipeline.core.errors import StorageError

AT_FDCWD = -100
RENAME_EXCHANGE = 2
FULL_HINT = "free some space there: './invoke clean' removes built images, and with --cache also steps of builds"


@contextlib.contextmanager
def only_one(build_dir: Path, name: str) -> Iterator[None]:
    """Hold the lock of a directory that is built; it is released when the process ends, however it ends.

    Args:
        build_dir: directory that holds everything that is built.
        name: the directory's name there.

    Raises:
        StorageError: nothing can be written there.
    """
    locks = build_dir / "logs"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        stream = (locks / f"{name}.lock").open("a")
    except OSError as error:
        raise StorageError(f"cannot write to {build_dir}: {error}", hint="make it writable for this user") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"another build of {name} is running; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def staging(build_dir: Path, name: str) -> Iterator[Path]:
    """Make a directory beside the published one; what killed builds left there is removed first.

    Args:
        build_dir: directory that holds everything that is built.
        name: name of the published directory.

    Raises:
        StorageError: the disk is full.
    """
    for left in build_dir.glob(f".{name}.*"):
        shutil.rmtree(left)
    made = build_dir / f".{name}.{secrets.token_hex(4)}"
    with disks.naming_full(build_dir, f"writing {name}", hint=FULL_HINT):
        made.mkdir()
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)


def publish(staged: Path, target: Path) -> None:
    """Put a finished directory in place at once: a reader sees the old one or the new one, whole (rename(2)).

    Args:
        staged: what was built.
        target: where it goes; what was there is at the other place afterwards.

    Raises:
        StorageError: the file system cannot exchange two directories.
    """
    for file in staged.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    if not target.exists():
        staged.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(staged), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE) != 0:
        raise StorageError(
            f"cannot replace {target}: {os.strerror(ctypes.get_errno())}",
            hint="the build directory must be on a file system with RENAME_EXCHANGE (ext4, xfs, btrfs, tmpfs)",
        )
