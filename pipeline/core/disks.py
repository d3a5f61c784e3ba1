"""Disks as the kernel knows them: what is mounted where, and which of them is full."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator


CACHE_HINT = "'./invoke clean --cache' empties the cache; or set XDG_CACHE_HOME to a larger disk"


class _FullDiskError(StorageError):
    """A full disk, described already."""


def mounts() -> list[tuple[Path, str]]:
    """Return every mount point, and what is mounted there."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()]
    octal = re.compile(r"\\([0-7]{3})")
    return [(Path(octal.sub(lambda o: chr(int(o[1], 8)), line[4])), line[line.index("-") + 2]) for line in lines]


def allocated(path: Path) -> int:
    """Return the bytes that a directory takes on its disk; a file with many names counts once."""
    inside = (Path(folder, name) for folder, folders, files in os.walk(path) for name in folders + files)
    blocks = {(status := item.lstat()).st_ino: status.st_blocks for item in itertools.chain([path], inside)}
    return sum(blocks.values()) * 512


@contextlib.contextmanager
def naming_full(place: Path, doing: str, *, hint: str = CACHE_HINT) -> Iterator[None]:
    """Turn any error that speaks of a full disk into one that says which disk, how full, and what to do.

    Args:
        place: what should be on the disk.
        doing: what goes on inside, for the message.
        hint: what to do about it.

    Raises:
        StorageError: in place of an error that speaks of a full disk.
    """
    try:
        yield
    except _FullDiskError:
        raise
    except (OSError, StorageError) as error:
        if not any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        under = [mount for mount in mounts() if place.is_relative_to(mount[0])]
        point, source = sorted(under, key=lambda mount: len(mount[0].parts))[-1]
        free = f"{shutil.disk_usage(place).free / 2**20:,.1f} MiB free on {point} ({source})"
        message = f"no space left while {doing}: {free}, which holds {place}\n{error}"
        raise _FullDiskError(message, hint=hint) from error
