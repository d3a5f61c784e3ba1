"""Whether a directory is as it was: a digest of what the kernel says of every file in it, without reading any.

Any change of a file's content, mode, owner, attributes or number of names sets its ctime to the time of the change, and
no call sets it back (utimensat(2), inode(7)). So equal ctimes, inodes, sizes and modes mean the same files. What is
overlooked is a change on a disk that is not mounted, one by a user who moves the machine's clock for it, and one within
the same tick of that clock as the file's last legitimate change (4 ms with 250 Hz).

A copy has other inodes and ctimes, and so counts as changed; so do files that were given a second name since.
Owners are left out: they look different from inside of a user namespace, and a change of owner sets the ctime.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512  # bytes, of st_blocks (stat(2))


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a directory and everything below it.

    Attributes:
        digest: sha256 in hex; another one means that something has changed.
        allocated: bytes that it takes on its disk; a file with many names counts once.
    """

    digest: str
    allocated: int


def of(root: Path, *, linked: bool = False) -> Fingerprint:
    """Return the fingerprint of a directory; of one that the user may not read it holds only its own status.

    Args:
        root: the directory.
        linked: its files may be given further names, so their ctimes do not count.

    Raises:
        OSError: it is not there, or changes while it is looked at.
    """
    total, blocks = hashlib.sha256(), {}
    folders = [os.fspath(root)]
    status = root.lstat()
    blocks[status.st_ino] = status.st_blocks
    total.update(_row(b"", status, linked=False))
    while folders:  # strings and no Path: a tree has ten thousands of files
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            found = []
        rows = [f"{folder[len(os.fspath(root)) :]}\0{len(found)}\0".encode(errors="surrogateescape")]
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            blocks[status.st_ino] = status.st_blocks
            is_folder = entry.is_dir(follow_symlinks=False)
            rows.append(_row(os.fsencode(entry.name), status, linked=linked and not is_folder))
            if is_folder:
                folders.append(entry.path)
        total.update(b"".join(rows))
    return Fingerprint(total.hexdigest(), sum(blocks.values()) * BLOCK)


def _row(name: bytes, status: os.stat_result, *, linked: bool) -> bytes:
    changed = 0 if linked else status.st_ctime_ns
    numbers = (status.st_mode, status.st_size, status.st_mtime_ns, changed, status.st_ino)
    return b"%b\0%d %d %d %d %d\0" % (name, *numbers)
