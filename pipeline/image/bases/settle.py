"""A package database without the traces of the run that wrote it: same packages, same bytes (decision D7).

From rpm 4.17 the time of an installation follows SOURCE_DATE_EPOCH. Older ones write the clock's into every header, so
it is put right there; then the target's own rpm makes its database anew from these headers. What Berkeley DB leaves in
its files besides is cleared.

Sources: rpm's ``lib/header.c`` and ``lib/backend/sqlite.c``; rpmdb(8).
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import namespace, progress
from pipeline.image import tree
from pipeline.image.bases import berkeley, rpmdb

BERKELEY, SQLITE = "Packages", "rpmdb.sqlite"
# INSTALLTIME, INSTALLTID. The second is the time of the transaction, by which its packages are found together.
TIMES = (1008, 1128)
INT32 = 4
ENTRY = struct.Struct(">IIiI")  # tag, type, where in the data, how many


def settle(root: Path, database: str, epoch: int, *, since: int = 0) -> None:
    """Remove from a tree's package database what differs from run to run.

    Args:
        root: the tree; its own rpm is run if it wrote the clock's time.
        database: the database's directory, relative to the root.
        epoch: what becomes the time of installations, in seconds since 1970.
        since: installations before this time keep theirs.

    Raises:
        ToolError: the target's rpm cannot make its database anew.
    """
    directory = tree.inside(root, database)
    try:
        if set_times(directory, epoch, since):
            namespace.in_tree(root, ["rpm", "--rebuilddb"], what="making the package database anew")
        for file in _berkeley_files(directory):
            berkeley.clear(file)
    except berkeley.StrangeFileError as error:
        progress.note(f"{error.message}; it will differ between two builds of the same packages")
    rpmdb.tidy(root, database)


def _berkeley_files(directory: Path) -> Iterator[Path]:
    for file in sorted(directory.iterdir()):
        if file.is_file() and not file.is_symlink() and not file.name.startswith("__db.") and berkeley.is_one(file):
            yield file


def set_times(directory: Path, epoch: int, since: int) -> bool:
    """Set the times of installations in a database; returns whether there were others."""
    if (file := directory / BERKELEY).is_file() and berkeley.is_one(file):
        return _set_in_berkeley(file, epoch, since)
    if (file := directory / SQLITE).is_file():
        return _set_in_sqlite(file, epoch, since)
    return False


def _set_in_berkeley(file: Path, epoch: int, since: int) -> bool:
    database = berkeley.Berkeley(file.name, file.read_bytes())
    is_changed = False
    for number, pieces in database.records():
        if any(number):  # the record of number 0 is no package
            header = database.read(pieces)
            if (changed := with_time(header, epoch, since)) != header:
                database.write(pieces, changed)
                is_changed = True
    if is_changed:
        file.write_bytes(database.content)
    return is_changed


def _set_in_sqlite(file: Path, epoch: int, since: int) -> bool:
    is_changed = False
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for number, header in connection.execute("SELECT hnum, blob FROM Packages ORDER BY hnum").fetchall():
            if (changed := with_time(header, epoch, since)) != header:
                connection.execute("UPDATE Packages SET blob = ? WHERE hnum = ?", (changed, number))
                is_changed = True
    return is_changed


def with_time(header: bytes, epoch: int, since: int = 0) -> bytes:
    """Return a header of a package with another time of installation.

    Args:
        header: as a database keeps it: how many entries, how many bytes of data, the entries, the data.
        epoch: the time, in seconds since 1970.
        since: an earlier time than this is left.
    """
    (count,) = struct.unpack_from(">I", header)
    data = 8 + count * ENTRY.size
    changed = bytearray(header)
    for tag, kind, offset, _ in ENTRY.iter_unpack(header[8:data]):
        if tag in TIMES and kind == INT32 and struct.unpack_from(">I", header, data + offset)[0] >= since:
            struct.pack_into(">I", changed, data + offset, epoch)
    return bytes(changed)
