"""Package databases without the traces of a run: files of Berkeley DB and of SQLite, made here byte by byte."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core import progress
from pipeline.image.bases import settle
from pipeline.image.bases.berkeley import Berkeley, StrangeFileError, clear, is_one

PAGE = 512
NOISE = 0xAA  # what nobody cleared
LONG = bytes(range(256)) * 3  # does not fit on a page


def page(number: int, kind: int, *, entries: int = 0, used: int = PAGE, following: int = 0, body: bytes = b"") -> bytes:
    """Return a page: its header, what follows at once, noise, and what stands at its end."""
    head = struct.pack("<8xIII", number, 0, following) + struct.pack("<HHBB", entries, used, 1, kind)
    return (head + body).ljust(PAGE, bytes([NOISE]))


def with_items(number: int, kind: int, items: list[bytes], gap: bytes = b"") -> bytes:
    """Return a page whose items stand at its end, the first one last, with a gap before each."""
    tail, places = b"", []
    for item in items:
        tail = item + gap + tail
        places.append(PAGE - len(tail))
    made = page(number, kind, entries=len(items), used=PAGE - len(tail), body=struct.pack(f"<{len(items)}H", *places))
    return made[: PAGE - len(tail)] + tail


def meta(magic: int, kind: int) -> bytes:
    head = struct.pack("<8xIIIIBB", 0, magic, 9, PAGE, 0, kind)
    return head.ljust(PAGE, b"\x01")


def off_page(number: int, size: int) -> bytes:
    return bytes([3, NOISE, NOISE, NOISE]) + struct.pack("<II", number, size)


def packages(short: bytes = b"a header", long: bytes = LONG) -> bytes:
    """Return a hash of two records, one in pages of its own, and a free page."""
    room = PAGE - 26
    items = [b"\x01" + struct.pack("<I", 1), b"\x01" + short, b"\x01" + struct.pack("<I", 2), off_page(2, len(long))]
    first = page(2, 7, used=room, following=3, body=long[:room])
    rest = page(3, 7, used=len(long) - room, body=long[room:])
    return meta(0x061561, 8) + with_items(1, 13, items) + first + rest + page(4, 0)


def names() -> bytes:
    """Return a btree: a root with one child, which has a key, a value and a value in pages of its own."""
    inner = struct.pack("<HBBII", 4, 1, NOISE, 2, 1) + b"name"
    outside = struct.pack("<HBBII", 0xAAAA, 3, NOISE, 9, 600)
    items = [struct.pack("<HB", 4, 1) + b"name", struct.pack("<HB", 5, 1) + b"value", b"\x01\x00\x81k", outside]
    return meta(0x053162, 9) + with_items(1, 3, [inner]) + with_items(2, 5, items, gap=bytes([NOISE]) * 3)


@pytest.mark.parametrize("content", [packages(), names()], ids=["hash", "btree"])
def test_noise_goes_and_everything_else_stays(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "Name"
    file.write_bytes(content)
    assert is_one(file)
    clear(file)
    cleared = file.read_bytes()
    assert len(cleared) == len(content)
    assert NOISE not in cleared.replace(LONG[:486], b"").replace(LONG[486:], b"")
    kept = [(old, new) for old, new in zip(content[PAGE:], cleared[PAGE:], strict=True) if new]
    assert all(old == new for old, new in kept)
    clear(file)
    assert file.read_bytes() == cleared
    for text in (b"a header", struct.pack("<II", 2, len(LONG)), b"name", b"value"):
        assert (text in content) == (text in cleared)


def test_two_files_of_a_directory_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("Name", "Group"):
        (tmp_path / name).write_bytes(names())
        clear(tmp_path / name)
    one, other = ((tmp_path / name).read_bytes() for name in ("Name", "Group"))
    assert one[:52] + one[72:] == other[:52] + other[72:]
    assert one[52:72] != other[52:72]


def test_records_are_read_and_changed_in_place() -> None:
    database = Berkeley("Packages", packages())
    found = dict(database.records())
    read = {key: database.read(pieces) for key, pieces in found.items()}
    assert read == {struct.pack("<I", 1): b"a header", struct.pack("<I", 2): LONG}
    database.write(found[struct.pack("<I", 2)], LONG[::-1])
    assert [database.read(pieces) for _, pieces in database.records()] == [b"a header", LONG[::-1]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-1], "no plain hash"),
        (lambda content: content[:100], "no plain hash"),
        (lambda content: b"x" * len(content), "no plain hash"),
        (lambda content: content[:24] + b"\x01" + content[25:], "no plain hash"),  # encrypted
        (lambda content: content[: PAGE + 25] + b"\x0c" + content[PAGE + 26 :], "a page of type 12"),
    ],
    ids=["not whole", "short", "something else", "encrypted", "unknown page"],
)
def test_what_rpm_does_not_make_is_refused(spoil: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(StrangeFileError, match=message):
        Berkeley("Packages", spoil(packages())).clear()


def test_a_strange_database_is_left_alone_and_said(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    content = packages()
    spoilt = content[: PAGE + 25] + b"\x0c" + content[PAGE + 26 :]
    (tmp_path / "db/Name").write_bytes(spoilt)
    with progress.session(tmp_path / "log"):
        settle.settle(tmp_path, "db", 0)
    assert (tmp_path / "db/Name").read_bytes() == spoilt
    assert "will differ between two builds" in (tmp_path / "log").read_text()


def header(*times: int) -> bytes:
    """Return a header with two times, and a number of another tag between them."""
    entries = [(1008, 4, 0, 1), (1000, 6, 12, 1), (1009, 4, 4, 1), (1128, 4, 8, 1)]
    data = struct.pack(">III", times[0], times[0], times[1]) + b"name\0"
    return (
        struct.pack(">II", len(entries), len(data))
        + b"".join(map(settle.ENTRY.pack, *zip(*entries, strict=True)))
        + data
    )


def test_the_times_of_a_header_and_nothing_else_are_set() -> None:
    assert settle.with_time(header(1000, 1000), 7) == header(1000, 1000).replace(
        struct.pack(">III", 1000, 1000, 1000), struct.pack(">III", 7, 1000, 7)
    )


@pytest.mark.parametrize(("time", "since", "expected"), [(10, 10, 7), (9, 10, 9), (0xFFFFFFFF, 0, 7)])
def test_an_earlier_time_is_left(time: int, since: int, expected: int) -> None:
    changed = settle.with_time(header(time, time), 7, since)
    assert struct.unpack_from(">I", changed, 8 + 4 * 16) == (expected,)


def test_times_in_sqlite(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / settle.SQLITE) as connection:
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(header(9, 9),), (header(10, 11),)])
    connection.close()
    assert settle.set_times(tmp_path, 7, 10)
    assert not settle.set_times(tmp_path, 7, 10)
    with sqlite3.connect(tmp_path / settle.SQLITE) as connection:
        rows = connection.execute("SELECT blob FROM Packages ORDER BY hnum").fetchall()
    connection.close()
    assert rows == [(header(9, 9),), (settle.with_time(header(10, 11), 7),)]


def test_times_in_a_hash(tmp_path: Path) -> None:
    (tmp_path / settle.BERKELEY).write_bytes(packages(header(9, 9), header(10, 11).ljust(len(LONG), b"x")))
    assert settle.set_times(tmp_path, 7, 10)
    changed = Berkeley(settle.BERKELEY, (tmp_path / settle.BERKELEY).read_bytes())
    read = [changed.read(pieces) for _, pieces in changed.records()]
    assert read == [header(9, 9), settle.with_time(header(10, 11), 7).ljust(len(LONG), b"x")]
    assert not settle.set_times(tmp_path, 7, 10)
