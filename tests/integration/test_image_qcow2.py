"""The writer of compressed qcow2 files, with QEMU's own tools as the judge."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.image import qcow2

CLUSTER = qcow2.CLUSTER
NOISE = hashlib.shake_128(b"noise").digest(CLUSTER)
TEXT = (b"a line of text that repeats itself\n" * 8000)[:CLUSTER]
TABLE = qcow2.PER_TABLE  # clusters that one L2 table describes: 8 GiB
# Of each disk: its size, and what stands at which byte.
DISKS: dict[str, tuple[int, Mapping[int, bytes]]] = {
    "nothing but a hole": (8 * CLUSTER, {}),
    "written zeros": (8 * CLUSTER, {CLUSTER: bytes(3 * CLUSTER)}),
    "one sector": (512, {0: b"x" * 512}),
    "an end inside a cluster": (CLUSTER + 512, {CLUSTER: TEXT[:512]}),
    "text": (4 * CLUSTER, {0: TEXT, 2 * CLUSTER: TEXT}),
    "noise": (4 * CLUSTER, {0: NOISE, 3 * CLUSTER: NOISE}),
    "noise and text in turns": (64 * CLUSTER, {i * CLUSTER: NOISE if i % 2 else TEXT for i in range(64)}),
    "across the end of a batch": (200 * CLUSTER, {i * CLUSTER: TEXT[i:] + TEXT[:i] for i in range(200)}),
    "in two L2 tables": (2 * TABLE * CLUSTER, {(TABLE - 1) * CLUSTER: TEXT, TABLE * CLUSTER: NOISE}),
    "only at the end of a large disk": (100 << 30, {(100 << 30) - 512: b"e" * 512}),
    "data across clusters": (4 * CLUSTER, {CLUSTER - 100: b"y" * 200}),
}


def make(path: Path, size: int, parts: Mapping[int, bytes]) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size)
        for offset, content in parts.items():
            stream.seek(offset)
            stream.write(content)
    return path


def output(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", DISKS)
def test_qemu_reads_the_same_disk_and_finds_no_error(name: str, tmp_path: Path) -> None:
    size, parts = DISKS[name]
    raw = make(tmp_path / "raw", size, parts)
    qcow2.write(raw, tmp_path / "image")
    assert "No errors were found" in output("qemu-img", "check", "-f", "qcow2", tmp_path / "image")
    shown = json.loads(output("qemu-img", "info", "--output=json", tmp_path / "image"))
    assert (shown["format"], shown["virtual-size"]) == ("qcow2", size)
    assert shown["format-specific"]["data"]["compression-type"] == "zstd"
    assert "Images are identical." in output("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, tmp_path / "image")


def test_what_is_all_zeros_takes_no_space(tmp_path: Path) -> None:
    size, parts = DISKS["written zeros"]
    qcow2.write(make(tmp_path / "raw", size, parts), tmp_path / "image")
    qcow2.write(make(tmp_path / "hole", size, {}), tmp_path / "nothing")
    assert (tmp_path / "image").read_bytes() == (tmp_path / "nothing").read_bytes()


def test_the_same_disk_gives_the_same_bytes_on_any_number_of_processors(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", *DISKS["noise and text in turns"])
    processors = os.sched_getaffinity(0)
    try:
        for name, some in (("all", processors), ("one", {min(processors)})):
            os.sched_setaffinity(0, some)
            qcow2.write(raw, tmp_path / name)
    finally:
        os.sched_setaffinity(0, processors)
    assert (tmp_path / "all").read_bytes() == (tmp_path / "one").read_bytes()


def test_it_is_not_larger_than_what_qemu_writes(tmp_path: Path) -> None:
    with (tmp_path / "raw").open("wb") as stream:
        for source in sorted(Path("/usr/lib").rglob("*.so.*"))[:40]:
            stream.write(source.read_bytes() if source.is_file() else b"")
    words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"]
    output(*words, tmp_path / "raw", tmp_path / "theirs")
    qcow2.write(tmp_path / "raw", tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_size <= (tmp_path / "theirs").stat().st_size * 1.01


def test_a_running_machine_can_write_to_it(tmp_path: Path) -> None:
    """Every reference count must be right: QEMU allocates by them."""
    size, parts = DISKS["noise and text in turns"]
    qcow2.write(make(tmp_path / "raw", size, parts), tmp_path / "image")
    commands = [f"write -P {number} {number * 401408} 280576" for number in range(1, 40)]
    words = [word for command in commands for word in ("-c", command)]
    output("qemu-io", "-f", "qcow2", *words, tmp_path / "image")
    output("qemu-io", "-f", "raw", *words, tmp_path / "raw")
    assert "No errors were found" in output("qemu-img", "check", "-f", "qcow2", tmp_path / "image")
    output("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "raw", tmp_path / "image")
