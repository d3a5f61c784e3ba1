"""Two images compared, with the real tools: whatever is changed on a disk is told, and nothing else."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, ToolError
from pipeline.image.compare import Difference, compare, html, text
from pipeline.image.compare.model import Change, How
from pipeline.quality import ROOT
from tests.integration import builds, test_image_disk
from tests.unit.test_compare import archive

ROOT_NAME = "root"
EPOCH = test_image_disk.EPOCH
GRUB = "menuentry x {{\n  linux /boot/vmlinuz-6 root=UUID=1 ro {}\n}}\n"


@dataclass(frozen=True)
class Disk:
    """A raw disk to change, and where its parts are."""

    raw: Path
    root: int
    esp: int

    def debugfs(self, *commands: str) -> None:
        words = ["debugfs", "-w", "-f", "-", f"{self.raw}?offset={self.root}"]
        env = os.environ | {"E2FSPROGS_FAKE_TIME": str(EPOCH)}
        done = subprocess.run(words, input="\n".join(commands), capture_output=True, text=True, check=True, env=env)
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
        assert complaints == []

    def put(self, path: str, data: bytes) -> None:
        """Write a file, in place of one that may be there."""
        source = self.raw.with_name("put")
        source.write_bytes(data)
        os.utime(source, (EPOCH, EPOCH))
        subprocess.run(
            ["debugfs", "-w", "-R", f"rm {path}", f"{self.raw}?offset={self.root}"], check=True, capture_output=True
        )
        self.debugfs(f"write {source} {path}")

    def write(self, place: int, data: bytes) -> None:
        with self.raw.open("r+b") as stream:
            stream.seek(place)
            stream.write(data)

    def copy(self, target: Path) -> Disk:
        target.mkdir()
        subprocess.run(["cp", "--sparse=always", self.raw, target / "disk.raw"], check=True)
        return Disk(target / "disk.raw", self.root, self.esp)

    def qcow2(self, name: str, *options: str) -> Path:
        target = self.raw.with_name(name)
        words = ["qemu-img", "convert", "-O", "qcow2", "-o", ",".join(("compression_type=zstd", *options)), "-c"]
        subprocess.run([*words, self.raw, target], check=True)
        return target


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """A disk as a build writes it, with a grub.cfg and an initramfs."""
    written = test_image_disk.write(tmp_path_factory.mktemp("compare"))
    made = Disk(written.raw, written.offset("root"), written.offset("esp"))
    made.put("/boot/grub/grub.cfg", GRUB.format("quiet").encode())
    made.put("/boot/initrd.img-6", archive(init="one", same="x"))
    return made


@pytest.fixture(scope="module")
def original(disk: Disk) -> Path:
    return disk.qcow2("original.qcow2")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def told(found: Difference) -> dict[str, list[str]]:
    """Return what differs in which entry."""
    return {change.path: said(change) for change in (*found.boot_files, *found.files)}


def said(change: Change) -> list[str]:
    return [aspect.name for aspect in change.aspects] if change.how is How.CHANGED else [change.how.value]


def test_the_same_bytes_are_the_same(original: Path, tmp_path: Path) -> None:
    shutil.copy(original, tmp_path / "copy.qcow2")
    found = compare(original, tmp_path / "copy.qcow2")
    assert found.is_same
    assert not (tmp_path / "cache").exists()  # nothing was unpacked


def test_only_the_form_differs(disk: Disk, original: Path, tmp_path: Path) -> None:
    found = compare(original, disk.copy(tmp_path / "b").qcow2("b.qcow2", "cluster_size=32k"))
    assert not found.is_same
    assert [(aspect.name, aspect.before, aspect.after) for aspect in found.disk] == [("cluster size", "65536", "32768")]
    assert (told(found), found.blocks, found.times) == ({}, (), ())
    assert "only how the qcow2 stores them differs" in text(found)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sif /etc/shadow mode 0100600", {"etc/shadow": ["mode"]}),
        ("sif /etc/shadow uid 70000", {"etc/shadow": ["owner"]}),
        ("sif /etc/shadow gid 0", {"etc/shadow": ["group"]}),
        (
            "ea_rm /usr/bin/sudo security.capability",
            {f"usr/bin/{name}": ["attribute security.capability"] for name in ("sudo", "sudoedit")},
        ),
        ("ea_set /usr/bin/wall user.note other", {"usr/bin/wall": ["attribute user.note"]}),
        ("ea_set /usr/bin/wall user.long " + "x" * 700, {"usr/bin/wall": ["attribute user.long"]}),
        ("rm /bin\nsymlink bin usr/sbin", {"bin": ["link target"]}),
        (f"rm /usr/long\nsymlink /usr/long /{'y' * 200}", {"usr/long": ["link target"]}),
        ("cd /var\nrm pipe\nmknod pipe c 1 3", {"var/pipe": ["type", "mode", "device"]}),
        ("unlink /usr/bin/sudoedit", {"usr/bin/sudo": ["hard links"], "usr/bin/sudoedit": ["only in A"]}),
        ("rm /var/nobody", {"var/nobody": ["only in A"]}),
        ("mkdir /opt\nmkdir /opt/x", {"opt": ["only in B"], "opt/x": ["only in B"]}),
        ("punch /var/nobody 0 0", {"var/nobody": ["content"]}),
    ],
)  # fmt: skip
def test_whatever_is_changed_is_told(
    disk: Disk, original: Path, tmp_path: Path, command: str, expected: dict[str, list[str]]
) -> None:
    changed = disk.copy(tmp_path / "b")
    changed.debugfs(*command.split("\n"))
    found = compare(original, changed.qcow2("b.qcow2"))
    assert told(found) == expected
    assert not found.boot
    assert {one.part for one in found.blocks} == {ROOT_NAME}


def test_the_content_of_a_text_and_of_a_binary(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    changed.put("/etc/shadow", b"content of another thing\n")
    core = bytearray(b"C" * 512 + b"D" * 30_000)
    core[20_000] = 0
    changed.put("/boot/grub/i386-pc/core.img", bytes(core))
    found = compare(original, changed.qcow2("b.qcow2"))
    (shadow,) = found.files
    assert shadow.diff == ("@@ -1,2 +1,2 @@", "-content of etc/shadow", "+content of another thing", " ")
    assert shadow.group == "/etc"
    (binary,) = found.boot_files
    content = next(aspect for aspect in binary.aspects if aspect.name == "content")
    assert content.after == "30512 bytes; of 8 blocks of 4096 bytes, 1 differ, the first at byte 20000"


def test_boot_is_told_by_itself(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    changed.put("/boot/grub/grub.cfg", GRUB.format("debug").encode())
    changed.put("/boot/initrd.img-6", archive(init="two", same="x", more="y"))
    (tmp_path / "BOOTX64.EFI").write_text("another one")
    words: list[str | Path] = [
        "mcopy",
        "-o",
        "-i",
        f"{changed.raw}@@{changed.esp}",
        tmp_path / "BOOTX64.EFI",
        "::EFI/BOOT/BOOTX64.EFI",
    ]
    subprocess.run(words, check=True)
    changed.write(100, b"program")
    changed.write(changed.esp - (1 << 20) + 5000, b"core")
    found = compare(original, changed.qcow2("b.qcow2"))
    assert {aspect.name: (aspect.before, aspect.after) for aspect in found.boot} == {
        "kernel command line (boot/grub/grub.cfg, kernel 1)": ("quiet", "debug"),
        "boot sector's program": ("", "differs from byte 100"),
        "BIOS core image": ("", "differs in 1 blocks of 4096 bytes, the first at byte 5000"),
    }
    changes = {change.path: change for change in found.boot_files}
    assert set(changes) == {"boot/grub/grub.cfg", "boot/initrd.img-6", "ESP:EFI/BOOT/BOOTX64.EFI"}
    members = changes["boot/initrd.img-6"].members
    assert [(change.path, change.how) for change in members] == [("init", How.CHANGED), ("more", How.ADDED)]
    assert members[0].diff == ("@@ -1 +1 @@", "-one", "+two")
    assert {one.part for one in found.blocks} == {
        "before bios",
        "bios",
        "esp" if "esp" in text(found) else "ESP",
        "root",
    }
    for shown in (text(found), html(found)):
        assert all(word in shown for word in ("debug", "initrd.img-6", "BOOTX64.EFI", "boot sector"))


def test_the_layout_of_the_disk(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    uuid = "11111111-2222-3333-4444-555555555555"
    subprocess.run(["sfdisk", "--quiet", "--disk-id", changed.raw, uuid], check=True)
    subprocess.run(["sfdisk", "--quiet", "--part-attrs", changed.raw, "3", "GUID:59"], check=True)
    changed.debugfs(f"set_super_value hash_seed {uuid}", "set_super_value volume_name other", "feature -dir_nlink")
    changed.write(changed.esp + 0x43, struct.pack("<I", 0x12345678))
    found = compare(original, changed.qcow2("b.qcow2"))
    told_of = {aspect.name: aspect.after for aspect in found.disk}
    assert told_of["partition table: id"] == uuid
    assert told_of["partition root: attrs"] == "GUID:59"
    assert told_of["root (ext4): Filesystem volume name"] == "other"
    assert told_of["root (ext4): Directory Hash Seed"] == uuid
    assert "dir_nlink" not in told_of["root (ext4): Filesystem features"]
    assert told_of["ESP (FAT32): volume id"] == "1234-5678"
    assert told(found) == {}


def test_times_alone(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    changed.debugfs("sif /etc/shadow mtime @99", "sif /var/nobody ctime @4400000000")
    found = compare(original, changed.qcow2("b.qcow2"))
    assert told(found) == {}
    assert [(one.kind, one.count, one.example.name, one.example.after) for one in found.times] == [
        ("ctime", 1, "var/nobody", "2109-06-06 22:13:20.000000000"),
        ("mtime", 1, "etc/shadow", "1970-01-01 00:01:39.000000000"),
    ]
    assert "nothing but times differs" in text(found)
    assert ("root", "inode tables") in {(one.part, one.what) for one in found.blocks}


def test_another_order_on_the_disk(disk: Disk, original: Path, tmp_path: Path) -> None:
    """The same file written anew lies elsewhere."""
    changed = disk.copy(tmp_path / "b")
    changed.put("/boot/keep", b"x" * 5000)
    changed.put("/boot/initrd.img-6", archive(init="one", same="x"))
    changed.debugfs("rm /boot/keep")
    found = compare(original, changed.qcow2("b.qcow2"))
    assert told(found) == {}
    assert found.blocks


# --- disks that others made ------------------------------------------------------------------------------------------


def make_odd(place: Path, note: str) -> Path:
    """Make a file system without partitions, with names and contents of every kind."""
    tree = place / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "usr").mkdir()
    (tree / "etc/small").write_text(note)  # lies in its inode
    (tree / "etc/large").write_bytes(b"x" * 100_000)
    (tree / "etc/a \"b' c\\").write_text(note)
    (tree / "etc/new\nline").write_text(note)
    (tree / "etc/link").symlink_to("with\nline")
    Path(os.fsdecode(os.fsencode(tree / "etc") + b"/\xff")).write_text(note)
    with (tree / "etc/sparse").open("wb") as stream:
        stream.seek(20 << 20)
        stream.write(note.encode())
    os.setxattr(tree / "etc/large", "user.debugfs\ndump <2> x", b"1")
    return tree


@pytest.mark.parametrize("kind", ["ext4 -O inline_data", "ext3", "ext2 -b 1024", "ext4 -O ^metadata_csum,^64bit"])
def test_other_kinds_and_odd_names(tmp_path: Path, kind: str) -> None:
    images = []
    for note in ("one", "two"):
        place = tmp_path / note
        place.mkdir()
        raw = place / "disk.raw"
        with raw.open("wb") as stream:
            stream.truncate(64 << 20)
        words = ["mke2fs", "-q", "-F", "-t", *kind.split(), "-E", f"hash_seed={'1' * 8}-1111-1111-1111-{'1' * 12}"]
        subprocess.run([*words, "-d", make_odd(place, note), raw], check=True, capture_output=True)
        images.append(Disk(raw, 0, 0).qcow2("odd.qcow2"))
    found = compare(*images)
    expected = {"etc/small", "etc/a \"b' c\\", "etc/new\nline", "etc/\udcff", "etc/sparse"}
    assert told(found) == {path: ["content"] for path in expected}
    assert all(change.diff for change in found.files if change.path != "etc/sparse")
    assert r"etc/new\x0aline" in text(found)
    assert r"etc/\xff" in html(found)
    assert "packages were not compared" in text(found)


def test_what_cannot_be_read_is_compared_by_bytes_only(tmp_path: Path) -> None:
    images = []
    for name, table in (("a", "gpt"), ("b", "dos")):
        (tmp_path / name).mkdir()
        raw = tmp_path / name / "disk.raw"
        with raw.open("wb") as stream:
            stream.truncate(16 << 20)
        script = f"label: {table}\nstart=2048, size=8192\nstart=10240, size=8192\n"
        subprocess.run(["sfdisk", "--quiet", raw], input=script, text=True, check=True)
        images.append(Disk(raw, 0, 0).qcow2("odd.qcow2"))
    found = compare(images[0], images[1])
    assert "partition table: label" in {aspect.name for aspect in found.disk}
    assert "partition 1 holds no ext4 and no FAT32: it was compared byte for byte only" in text(found)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def refer(path: Path) -> None:
    words: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", path]
    subprocess.run(words, check=True)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda path: path.write_bytes(b"nothing"), InputError, "is not a qcow2 image"),
        (cut, ToolError, "is damaged|qemu-img failed"),
        (refer, InputError, "refers to another file"),
    ],
    ids=["no qcow2", "cut", "backing file"],
)
def test_what_is_no_whole_image_is_refused(
    original: Path, tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    spoilt = tmp_path / "spoilt.qcow2"
    shutil.copy(original, spoilt)
    spoil(spoilt)
    with pytest.raises(error, match=message):
        compare(original, spoilt)
    assert not list((tmp_path / "cache").glob("node-images/.tmp/work-*"))


def test_a_damaged_file_system_is_an_error_or_a_difference(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    for place in range(changed.root + 4096 * 8, changed.root + (20 << 20), 40_000):
        changed.write(place, os.urandom(2000))
    try:
        assert compare(original, changed.qcow2("b.qcow2")).blocks
    except ToolError as error:
        assert "file system" in error.message


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_ends_as_diff_does(disk: Disk, original: Path, tmp_path: Path) -> None:
    changed = disk.copy(tmp_path / "b")
    changed.debugfs("sif /etc/shadow mode 0100600")
    other = changed.qcow2("b.qcow2")
    page = tmp_path / "diff.html"

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = builds.command("diff", *map(str, words))
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    same = run(original, original.parent)
    assert (same.returncode, same.stderr) == (0, "")
    assert "the same, byte for byte" in same.stdout
    differ = run(original, other, "--html", page, "--all")
    assert differ.returncode == 1
    assert "~ etc/shadow  mode 0640 -> 0600" in differ.stdout
    assert "\x1b" not in differ.stdout
    assert "etc/shadow" in page.read_text()
    unknown = run(original, "no-such-image")
    assert unknown.returncode == 2
    assert "hint: name a qcow2 file" in unknown.stderr
    sys.stdout.write(differ.stdout)


def test_diffoscope_looks_deeper_where_it_is(disk: Disk, original: Path, tmp_path: Path) -> None:
    if shutil.which("diffoscope") is None:
        pytest.skip("diffoscope is not installed")
    changed = disk.copy(tmp_path / "b")
    changed.put("/var/nobody", b"\0" * 100)
    (change,) = compare(original, changed.qcow2("b.qcow2"), deep=True).files
    assert change.diff
