"""Files that appear whole or not at all, and what a full disk says."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn a failure to write into an error for the user; only file operations go inside.

    Raises:
        StorageError: a file operation failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space and try again: what is there already is used"
        else:
            hint = "check that the directory is there, on a writable file system, and belongs to you"
        raise StorageError(f"{path}: cannot be written: {error.strerror}", hint=hint) from error


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a path beside a target; what was put there becomes the target if all went well, and goes if not.

    Raises:
        StorageError: the target is there and is a device, a directory or the like, which a rename would replace.
    """
    with storage(target), contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.lstat().st_mode):
            raise StorageError(f"{target}: is there, and is not a file", hint="name another file to write to")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with storage(target):
            temporary.replace(target)
    finally:
        # Also after a rename: of two names of one file, rename(2) leaves both.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write(target: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        StorageError: it cannot be written.
    """
    with appearing(target) as temporary, storage(target):
        temporary.write_bytes(data)
