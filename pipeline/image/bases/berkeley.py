"""Berkeley DB files, as rpm before 4.16 keeps packages in: their records, and a form without the traces of a run.

Berkeley DB never clears memory before it writes a page, and gives each file an identity of inode, device and time: two
databases of the same records differ in bytes that nothing reads. Here these are cleared; no record is moved.

Source: ``src/dbinc/db_page.h`` of Berkeley DB 4.8 and 5.3, whose formats (hash 9, btree 9 and 10) are the same. rpm
uses neither checksums nor encryption, nor another byte order than the machine's: little-endian on all of ours.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError

MAGIC = {0x061561: 8, 0x053162: 9}  # hash, btree: the type of the first page
META_SIZE = 512
IDENTITY = slice(52, 72)  # in the first page; only has to differ between the files of one directory
HEADER = 26  # bytes, of every other page
FREE, HASH_UNSORTED, INTERNAL, LEAF, OVERFLOW, HASH = 0, 2, 3, 5, 7, 13
ON_PAGE, OFF_PAGE = 1, 3  # types of items, the same for hash and btree
DELETED = 0x80  # a flag of those in a btree
INTERNAL_ITEM, OFF_PAGE_ITEM = 12, 12  # bytes before the data of one, bytes of the other
Piece = tuple[int, int]  # where in the file, and how many bytes


class StrangeFileError(PipelineError):
    """A file that is no Berkeley database, or not one as rpm makes it."""


class Berkeley:
    """The content of a file, to be read and changed in place.

    Args:
        name: of the file.
        content: its bytes.

    Raises:
        StrangeFileError: it is no such file, or one of a kind that rpm does not make. Its methods raise it as well.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = bytearray(content)
        magic, _, self._page_size = self._words(12, 3) if len(content) >= META_SIZE else (0, 0, 0)
        is_plain = MAGIC.get(magic) == self.content[25] and self.content[24] == 0
        if not is_plain or self._page_size < META_SIZE or len(content) % self._page_size:
            raise self._strange("it is no plain hash or btree of this machine's byte order")

    def records(self) -> Iterator[tuple[bytes, list[Piece]]]:
        """Yield the records of a hash: the key, and where the value is."""
        for page in self._pages():
            if self._type(page) in (HASH, HASH_UNSORTED):
                items = list(self._hash_items(page))
                for key, value in zip(items[::2], items[1::2], strict=True):
                    yield self.read(self._value(key)), self._value(value)

    def read(self, pieces: list[Piece]) -> bytes:
        """Return what lies in some places, joined."""
        return b"".join(self.content[start : start + size] for start, size in pieces)

    def write(self, pieces: list[Piece], value: bytes) -> None:
        """Put a value of the same size in the place of another."""
        assert len(value) == sum(size for _, size in pieces)
        for start, size in pieces:
            self.content[start : start + size], value = value[:size], value[size:]

    def clear(self) -> None:
        """Clear everything that is no record, nor says where one is."""
        self.content[IDENTITY] = hashlib.sha256(self.name.encode()).digest()[:20]
        self._zero(META_SIZE, self._page_size)
        for page in self._pages():
            end = page + self._page_size
            used = sorted({*self._used(page), (end, 0)})
            position = page + HEADER
            for start, size in used:
                self._zero(position, start)
                position = max(position, start + size)

    def _pages(self) -> range:
        return range(self._page_size, len(self.content), self._page_size)

    def _type(self, page: int) -> int:
        return self.content[page + 25]

    def _used(self, page: int) -> Iterator[Piece]:
        """Yield what of a page is in use beyond its header."""
        kind = self._type(page)
        entries, used = self._halves(page + 20, 2)
        if kind == OVERFLOW:
            yield page + HEADER, used
        elif kind in (HASH, HASH_UNSORTED):
            yield page + HEADER, 2 * entries
            for start, size in self._hash_items(page):
                yield from self._off_page(start) if self.content[start] == OFF_PAGE else [(start, size)]
        elif kind in (LEAF, INTERNAL):
            yield page + HEADER, 2 * entries
            for offset in self._halves(page + HEADER, entries):
                yield from self._btree_item(page + offset, kind)
        elif kind != FREE:
            raise self._strange(f"it has a page of type {kind}")

    def _hash_items(self, page: int) -> Iterator[Piece]:
        """Yield the items of a page: each begins where its index says and ends where the one before begins."""
        (entries,) = self._halves(page + 20, 1)
        end = self._page_size
        for offset in self._halves(page + HEADER, entries):
            yield page + offset, end - offset
            end = offset

    def _btree_item(self, start: int, kind: int) -> Iterator[Piece]:
        (size,) = self._halves(start, 1)
        is_off_page = self.content[start + 2] & ~DELETED != ON_PAGE
        if kind == LEAF and is_off_page:
            yield start + 2, 1
            yield start + 4, 8
        elif kind == LEAF:
            yield start, 3 + size
        else:
            yield start, 3
            yield start + 4, 8
            data = start + INTERNAL_ITEM
            yield from [(data + 2, 1), (data + 4, 8)] if is_off_page else [(data, size)]

    @staticmethod
    def _off_page(start: int) -> Iterator[Piece]:
        yield start, 1
        yield start + 4, 8

    def _value(self, item: Piece) -> list[Piece]:
        """Return where the value of an item of a hash is."""
        start, size = item
        kind = self.content[start]
        if kind == ON_PAGE:
            return [(start + 1, size - 1)]
        if kind != OFF_PAGE:
            raise self._strange(f"it has an item of type {kind}")
        number, _ = self._words(start + 4, 2)
        pieces = []
        while number:
            page = number * self._page_size
            pieces.append((page + HEADER, self._halves(page + 22, 1)[0]))
            (number,) = self._words(page + 16, 1)
        return pieces

    def _words(self, offset: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}I", self.content, offset)

    def _halves(self, offset: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}H", self.content, offset)

    def _zero(self, start: int, end: int) -> None:
        if end > start:
            self.content[start:end] = bytes(end - start)

    def _strange(self, why: str) -> StrangeFileError:
        return StrangeFileError(
            f"{self.name} is not a Berkeley database as rpm makes it: {why}",
            hint="this is a fault of this program: please report it with the version of the target's rpm",
        )


def is_one(file: Path) -> bool:
    """Whether a file is a Berkeley database."""
    with file.open("rb") as stream:
        head = stream.read(META_SIZE)
    return len(head) == META_SIZE and struct.unpack_from("<I", head, 12)[0] in MAGIC


def clear(file: Path) -> None:
    """Clear the traces of a run from a file.

    Raises:
        StrangeFileError: it is not as rpm makes it.
    """
    database = Berkeley(file.name, file.read_bytes())
    database.clear()
    file.write_bytes(database.content)
