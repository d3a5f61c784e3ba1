"""Writes a raw disk as a compressed qcow2, cluster by cluster on all processors, always with the same bytes.

What ``qemu-img convert -c`` writes depends on the QEMU and the zstd of the build machine, and it takes twice as long;
here both are pinned (decision D7). Source: QEMU's ``docs/interop/qcow2.rst``, version 3 with compression type zstd,
which QEMU 5.1 and later read. How the file is laid out::

    header | L1 table | refcount table | compressed clusters, packed | other clusters | L2 tables | refcount blocks
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CLUSTER_BITS = 18  # 256 KiB: 5 % smaller than with qemu-img's 64 KiB at the same cost; see docs/decisions.md
CLUSTER = 1 << CLUSTER_BITS
LEVEL = 3  # zstd's own default, and that of qemu-img
BATCH = 128  # clusters in memory at a time, 32 MiB
MOST_THREADS = 8  # more only wait for the one that reads and writes
ZEROS = bytes(CLUSTER)
PER_TABLE = CLUSTER // 8  # entries of an L1 or L2 table, or of the refcount table
PER_BLOCK = CLUSTER // 2  # 16-bit refcounts of one block
FIRST_DATA = 3 * CLUSTER
COMPRESSED, COPIED = 1 << 62, 1 << 63
OFFSET_BITS = 62 - (CLUSTER_BITS - 8)  # of a compressed cluster's descriptor
SECTOR_BITS = 9
MAGIC, VERSION, HEADER_LENGTH, ZSTD = 0x514649FB, 3, 112, 1
INCOMPATIBLE_COMPRESSION_TYPE = 1 << 3
REFCOUNT_ORDER = 4  # 1 << 4 bits
# From numbers and contents of clusters to the frames of some, by their index in the list.
Known = Callable[[Sequence[int], Sequence[bytes]], Mapping[int, bytes]]


@dataclass
class _Layout:
    """Where the file's clusters are, while it is written.

    Attributes:
        end: bytes of the file so far.
        entries: L2 entry of each guest cluster that is not all zeros.
        references: how many compressed clusters lie in each cluster of the file; any other is pointed at once.
    """

    end: int = FIRST_DATA
    entries: dict[int, int] = field(default_factory=dict)
    references: dict[int, int] = field(default_factory=dict)

    def add_compressed(self, guest: int, size: int) -> None:
        """Note a compressed cluster at the end of the file."""
        last = self.end + size - 1
        sectors = (last >> SECTOR_BITS) - (self.end >> SECTOR_BITS)
        self.entries[guest] = COMPRESSED | sectors << OFFSET_BITS | self.end
        for cluster in range(self.end // CLUSTER, last // CLUSTER + 1):
            self.references[cluster] = self.references.get(cluster, 0) + 1
        self.end += size

    def take(self, clusters: int = 1) -> int:
        """Return where the next whole clusters begin."""
        start = -(-self.end // CLUSTER) * CLUSTER
        self.end = start + clusters * CLUSTER
        return start


def threads() -> int:
    """Return how many threads compress."""
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def compressor() -> str:
    """Return what compresses, and how: two images with the same here have the same bytes for the same cluster."""
    import zstandard

    return f"zstandard {zstandard.__version__}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, level {LEVEL}"


def write(raw: Path, target: Path, known: Known | None = None) -> None:
    """Write a raw disk as a qcow2.

    Args:
        raw: the disk; its holes are not read.
        target: the file that is written.
        known: what need not be compressed, as it has been before; it changes no byte.

    Raises:
        OSError: a file cannot be read or written.
    """
    layout, plain = _Layout(), []
    with raw.open("rb", buffering=0) as disk, target.open("wb") as image:
        size = os.fstat(disk.fileno()).st_size
        image.seek(layout.end)
        for numbers, clusters in _batches(disk.fileno(), size):
            frames = _packed(clusters, known(numbers, clusters) if known else {})
            for number, frame in zip(numbers, frames, strict=True):
                if len(frame) >= CLUSTER:
                    plain.append(number)
                else:
                    layout.add_compressed(number, len(frame))
                    image.write(frame)
        for number in plain:
            layout.entries[number] = COPIED | layout.take()
            image.seek(layout.entries[number] & ~COPIED)
            image.write(_cluster(disk.fileno(), number))
        _write_tables(image, layout, size)


def _packed(clusters: Sequence[bytes], known: Mapping[int, bytes]) -> list[bytes]:
    """Return the zstd frame of each cluster; some are known, by the index of their cluster."""
    made = iter(_compressed([content for index, content in enumerate(clusters) if index not in known]))
    return [known[index] if index in known else next(made) for index in range(len(clusters))]


def _compressed(clusters: list[bytes | bytearray | memoryview]) -> list[bytes]:
    import zstandard  # here, as nearly every command imports this module

    if not clusters:  # which zstandard refuses
        return []
    packed = zstandard.ZstdCompressor(level=LEVEL).multi_compress_to_buffer(clusters, threads=threads())
    return [packed[index].tobytes() for index in range(len(clusters))]


def _batches(disk: int, size: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yield the numbers and contents of clusters that are not all zeros, many at a time, in order."""
    numbers: list[int] = []
    clusters: list[bytes] = []
    for number in _allocated(disk, size):
        content = _cluster(disk, number)
        if content != ZEROS:
            numbers.append(number)
            clusters.append(content)
        if len(numbers) == BATCH:
            yield numbers, clusters
            numbers, clusters = [], []
    if numbers:
        yield numbers, clusters


def _allocated(disk: int, size: int) -> Iterator[int]:
    """Yield the number of every cluster that lies outside of holes, as far as the file system tells (lseek(2))."""
    done = 0
    while done * CLUSTER < size:
        try:
            start = os.lseek(disk, done * CLUSTER, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole follows
        end = os.lseek(disk, start, os.SEEK_HOLE)
        first, done = max(done, start // CLUSTER), -(-end // CLUSTER)
        yield from range(first, done)


def _cluster(disk: int, number: int) -> bytes:
    return os.pread(disk, CLUSTER, number * CLUSTER).ljust(CLUSTER, b"\0")  # the last may be short


def _write_tables(image: IO[bytes], layout: _Layout, size: int) -> None:
    """Write everything that leads to the data, and the header at last."""
    l1 = [0] * -(-size // (CLUSTER * PER_TABLE))
    for index in sorted({number // PER_TABLE for number in layout.entries}):
        first = index * PER_TABLE
        place = layout.take()
        l1[index] = COPIED | place
        image.seek(place)
        image.write(struct.pack(f">{PER_TABLE}Q", *(layout.entries.get(first + i, 0) for i in range(PER_TABLE))))
    blocks = _write_refcounts(image, layout)
    image.seek(0)
    image.write(_header(size, len(l1)).ljust(CLUSTER, b"\0"))
    image.write(struct.pack(f">{len(l1)}Q", *l1).ljust(CLUSTER, b"\0"))
    image.write(struct.pack(f">{len(blocks)}Q", *blocks).ljust(CLUSTER, b"\0"))


def _write_refcounts(image: IO[bytes], layout: _Layout) -> list[int]:
    """Write how often each cluster of the file is pointed at, those of these blocks included; return where they are."""
    used, count = -(-layout.end // CLUSTER), 0
    while count * PER_BLOCK < used + count:
        count += 1
    start = layout.take(count)
    total = used + count
    references = [layout.references.get(cluster, 1) for cluster in range(total)]
    image.seek(start)
    image.write(struct.pack(f">{total}H", *references).ljust(count * CLUSTER, b"\0"))
    return [start + number * CLUSTER for number in range(count)]


def _header(size: int, l1_entries: int) -> bytes:
    fields = struct.pack(
        ">IIQIIQIIQQIIQQQQII",
        MAGIC, VERSION, 0, 0, CLUSTER_BITS, size, 0, l1_entries, CLUSTER, 2 * CLUSTER, 1, 0, 0,
        INCOMPATIBLE_COMPRESSION_TYPE, 0, 0, REFCOUNT_ORDER, HEADER_LENGTH,
    )  # fmt: skip
    return fields + bytes([ZSTD]).ljust(HEADER_LENGTH - len(fields), b"\0")
