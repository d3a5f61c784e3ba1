"""Disks with the real tools: what is written is read back by others than those that wrote it."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import namespace, process
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, PipelineError, StorageError, ToolError
from pipeline.image import disk
from pipeline.profile import Disk

EPOCH = 1_600_000_000
KEY = "a" * 64
DEBIAN_12 = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
CENTOS_7 = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "uninit_bg", "dir_nlink", "extra_isize",
)  # fmt: skip
# setcap cap_net_raw+ep, as getxattr shows it: revision 2 with the effective bit (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def settings(size: str = "400M", features: tuple[str, ...] = DEBIAN_12) -> Disk:
    return Disk.model_validate({"size": size, "esp_size": "40M", "ext4_features": features})


def fill(root: Path) -> None:
    """Make a tree with all that a distribution's may have; to be called as root of a namespace."""
    for path, owner, mode in (
        ("etc/shadow", (0, 42), 0o640),
        ("usr/bin/sudo", (0, 0), 0o4755),
        ("usr/bin/wall", (0, 5), 0o2755),
        ("home/user/file", (1000, 1000), 0o600),
        ("var/nobody", (65534, 65534), 0o644),
        ("boot/efi/EFI/BOOT/BOOTX64.EFI", (0, 0), 0o644),
        ("boot/efi/EFI/debian/grub.cfg", (0, 0), 0o644),
        ("boot/grub/i386-pc/boot.img", (0, 0), 0o644),
        ("boot/grub/i386-pc/core.img", (0, 0), 0o644),
        ("usr/share/ünïcödé name", (0, 0), 0o644),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"content of {path}\n")
        os.chown(root / path, *owner)
        (root / path).chmod(mode)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/user", 1000, 1000)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/long").symlink_to("/" + "x" * 200)
    os.link(root / "usr/bin/sudo", root / "usr/bin/sudoedit")
    os.mkfifo(root / "var/pipe")
    os.setxattr(root / "usr/bin/wall", "user.note", b"kept")
    os.setxattr(root / "usr/bin/sudo", "security.capability", CAPABILITY)
    with (root / "var/sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    for number in range(300):  # a directory with an index
        (root / f"usr/share/{number}").touch()
    (root / "boot/grub/i386-pc/boot.img").write_bytes(bytes(range(256)) * 2)
    (root / "boot/grub/i386-pc/core.img").write_bytes(b"C" * 512 + b"D" * 30_000)
    for entry in [root, *root.rglob("*")]:
        os.utime(entry, (EPOCH - 100, EPOCH - 100), follow_symlinks=False)


@dataclass(frozen=True)
class Written:
    """A raw disk and what it was asked to be."""

    raw: Path
    layout: disk.Layout

    def offset(self, name: str) -> int:
        return self.layout.partition(name).start

    def cut_out(self, name: str, target: Path) -> Path:
        """Copy a partition, for tools that know no offset."""
        part = self.layout.partition(name)
        with self.raw.open("rb") as source:
            source.seek(part.start)
            target.write_bytes(source.read(part.size))
        return target

    def debugfs(self, *commands: str) -> str:
        words = ["debugfs", "-f", "-", f"{self.raw}?offset={self.offset('root')}"]
        return subprocess.run(words, input="\n".join(commands), capture_output=True, text=True, check=True).stdout


def write(place: Path, *, arch: Architecture = Architecture.AMD64, features: tuple[str, ...] = DEBIAN_12) -> Written:
    """Fill a tree and write it, as a build does."""
    layout = disk.plan_layout(settings(features=features), arch, KEY)

    def work() -> Path:
        (place / "tree").mkdir(parents=True)
        (place / "work").mkdir()
        fill(place / "tree")
        return disk.write_raw(place / "tree", settings(features=features), layout, EPOCH, place / "work", "boot/grub")

    return Written(namespace.run_private(work), layout)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("disk"))


def output(*words: str | Path, status: int = 0) -> str:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == status, done.stdout
    return done.stdout


# --- the partition table ---------------------------------------------------------------------------------------------


def test_the_table_is_the_planned_one(written: Written) -> None:
    table = json.loads(output("sfdisk", "--json", written.raw))["partitiontable"]
    assert (table["label"], table["id"].lower(), table["sectorsize"]) == ("gpt", written.layout.uuid, 512)
    found = [
        (part["name"], part["type"], part["uuid"].lower(), part["start"] * 512, part["size"] * 512)
        for part in table["partitions"]
    ]
    assert found == [(part.name, part.type, part.uuid, part.start, part.size) for part in written.layout.partitions]
    assert "No errors detected" in output("sfdisk", "--verify", written.raw)
    assert written.raw.stat().st_size == 400 * 1024**2


def test_the_raw_disk_is_sparse(written: Written) -> None:
    assert written.raw.stat().st_blocks * 512 < 20 * 1024**2


# --- the EFI system partition ----------------------------------------------------------------------------------------


def test_the_esp_is_whole(written: Written, tmp_path: Path) -> None:
    esp = written.cut_out("esp", tmp_path / "esp")
    output("fsck.vfat", "-n", esp)
    shown = dict(re.findall(r'(\w+)="([^"]*)"', output("blkid", "--probe", "--output=full", esp)))
    assert (shown["TYPE"], shown["VERSION"], shown["UUID"]) == ("vfat", "FAT32", written.layout.identity.esp)


def test_the_esp_has_the_files_and_the_tree_has_them_no_more(written: Written) -> None:
    image = f"{written.raw}@@{written.offset('esp')}"
    assert output("mdir", "-i", image, "-/", "-b", "::").split() == [
        "::/EFI/", "::/EFI/BOOT/", "::/EFI/debian/", "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/debian/grub.cfg",
    ]  # fmt: skip
    assert output("mtype", "-i", image, "::/EFI/debian/grub.cfg") == "content of boot/efi/EFI/debian/grub.cfg\n"
    assert "EFI" not in written.debugfs("ls -p /boot/efi")


# --- the BIOS --------------------------------------------------------------------------------------------------------


def test_the_bios_finds_the_core_image(written: Written) -> None:
    with written.raw.open("rb") as stream:
        boot = stream.read(512)
        stream.seek(written.offset("bios"))
        core = stream.read(31_000)
    assert boot[0x5C:0x64] == struct.pack("<Q", written.offset("bios") // 512)
    assert boot[0x66:0x68] == b"\x90\x90"
    assert boot[:0x5C] == (bytes(range(256)) * 2)[:0x5C]
    assert boot[510:] == b"\x55\xaa"
    assert boot[446 + 4] == 0xEE  # the protective entry of the table is not overwritten
    assert core[:0x1F4] == b"C" * 0x1F4
    assert core[0x1F4:0x1FC] == struct.pack("<Q", written.offset("bios") // 512 + 1)
    assert core[512:30_512] == b"D" * 30_000


def test_a_core_image_that_is_too_large_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "i386-pc"
    images.mkdir()
    (images / "boot.img").write_bytes(bytes(512))
    (images / "core.img").write_bytes(bytes(1024**2 + 1))
    layout = disk.plan_layout(settings(), Architecture.AMD64, KEY)
    (tmp_path / "raw").write_bytes(b"untouched")
    with pytest.raises(InputError, match="core image has 1048577 bytes"):
        disk._write_bios(tmp_path / "raw", images, layout.partition("bios"))
    assert (tmp_path / "raw").read_bytes() == b"untouched"


def test_arm64_has_no_bios_partition(tmp_path: Path) -> None:
    found = write(tmp_path, arch=Architecture.ARM64)
    with found.raw.open("rb") as stream:
        assert stream.read(440) == bytes(440)
    output("e2fsck", "-fn", f"{found.raw}?offset={found.offset('root')}")


# --- the root file system --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [DEBIAN_12, CENTOS_7], ids=["Debian 12", "CentOS 7"])
def test_the_file_system_has_exactly_the_features_of_the_profile(tmp_path: Path, features: tuple[str, ...]) -> None:
    found = write(tmp_path, features=features)
    device = f"{found.raw}?offset={found.offset('root')}"
    output("e2fsck", "-fn", device)
    shown = dict(re.findall(r"^([^:\n]+):\s+(.*)$", output("dumpe2fs", "-h", device), re.MULTILINE))
    assert set(shown["Filesystem features"].split()) == set(features)
    assert shown["Filesystem UUID"] == found.layout.identity.root
    assert shown["Directory Hash Seed"] == found.layout.hash_seed
    assert shown["Filesystem volume name"] == "root"
    assert shown["Block size"] == "4096"


def test_the_file_system_is_found_by_its_uuid(written: Written, tmp_path: Path) -> None:
    root = written.cut_out("root", tmp_path / "root")
    assert f'UUID="{written.layout.identity.root}"' in output("blkid", "--probe", root)


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/etc/shadow", (0, 42), "0640"),
        ("/usr/bin/sudo", (0, 0), "04755"),
        ("/usr/bin/wall", (0, 5), "02755"),
        ("/home/user", (1000, 1000), "0755"),
        ("/home/user/file", (1000, 1000), "0600"),
        ("/var/nobody", (65534, 65534), "0644"),
        ("/tmp", (0, 0), "01777"),
        ("/", (0, 0), "0755"),
    ],
)
def test_owners_and_modes_are_kept(written: Written, path: str, owner: tuple[int, int], mode: str) -> None:
    shown = written.debugfs(f"stat {path}")
    user, group = re.findall(r"User:\s+(\d+)\s+Group:\s+(\d+)", shown)[0]
    assert (int(user), int(group)) == owner
    assert re.findall(r"Mode:\s+(\d+)", shown)[0] == mode


def test_attributes_and_capabilities_are_kept(written: Written, tmp_path: Path) -> None:
    """An ordinary user's namespace shows capabilities in another form than the image must have."""
    written.debugfs(
        f"ea_get -f {tmp_path}/note /usr/bin/wall user.note",
        f"ea_get -f {tmp_path}/capability /usr/bin/sudo security.capability",
    )
    assert (tmp_path / "note").read_bytes() == b"kept"
    assert (tmp_path / "capability").read_bytes() == CAPABILITY


def test_every_kind_of_file_is_kept(written: Written) -> None:
    shown = written.debugfs(
        "stat /usr/bin/sudo", "stat /usr/bin/sudoedit", "stat /bin", "stat /usr/long", "stat /var/pipe",
        "stat /var/sparse", "cat /home/user/file", 'stat "/usr/share/ünïcödé name"',
    )  # fmt: skip
    assert len(set(re.findall(r"Inode: (\d+)   Type: regular    Mode:  04755", shown))) == 1
    assert "Links: 2 " in shown
    assert 'Fast link dest: "usr/bin"' in shown
    assert "x" * 200 in written.debugfs("cat /usr/long") + shown
    assert "Type: FIFO" in shown
    assert re.search(r"Size: 1073741824\n.*Blockcount: 0\b", shown, re.DOTALL)
    assert "content of home/user/file" in shown
    assert shown.count("Inode: ") == 7


@pytest.mark.root
def test_device_nodes_are_kept(tmp_path: Path) -> None:
    layout = disk.plan_layout(settings(), Architecture.ARM64, KEY)
    (tmp_path / "tree/boot/efi/x").mkdir(parents=True)
    os.mknod(tmp_path / "tree/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    raw = disk.write_raw(tmp_path / "tree", settings(), layout, EPOCH, tmp_path, "boot/grub")
    shown = Written(raw, layout).debugfs("stat /null")
    assert "Type: character special" in shown
    assert re.search(r"Device major/minor number: 0?1:0?3 ", shown)


def test_no_inode_tells_when_the_disk_was_made(written: Written) -> None:
    paths = ["/", "/etc", "/etc/shadow", "/bin", "/usr/bin/sudo", "/usr/share/299", "/lost+found", "/boot/efi"]
    shown = written.debugfs(*(f"stat {path}" for path in paths))
    times = re.findall(r"^ ?(\w+): 0x([0-9a-f]{8})", shown, re.MULTILINE)
    assert len(times) == 4 * len(paths)
    assert {int(value, 16) for name, value in times if name in {"atime", "ctime", "crtime"}} == {EPOCH}
    assert {int(value, 16) for name, value in times if name == "mtime"} == {EPOCH, EPOCH - 100}


def test_the_same_tree_gives_the_same_bytes(written: Written, tmp_path: Path) -> None:
    again = write(tmp_path / "another place")
    assert output("cmp", written.raw, again.raw) == ""


def test_another_machine_gives_the_same_bytes(tmp_path: Path) -> None:
    """Access times of the tree's files do not reach the disk, nor does the order in which a file system lists them."""
    layout = disk.plan_layout(settings(), Architecture.ARM64, KEY)

    def make(name: str, order: int) -> Path:
        place = tmp_path / name
        place.mkdir()
        namespace.mount("tmpfs", place, kind="tmpfs")  # lists files as they were made
        for number in list(range(50))[::order]:
            for directory in ("tree/boot/efi/EFI", "tree/boot/efi/EFI/b", "tree/boot/efi/EFI/a", "tree/etc")[::order]:
                (place / directory).mkdir(parents=True, exist_ok=True)
                (place / directory / f"{number}.efi").write_text(f"{directory} {number}")
        for path in [place / "tree", *(place / "tree").rglob("*")]:
            os.utime(path, (EPOCH - order * 50, EPOCH - 100))
        return disk.write_raw(place / "tree", settings(), layout, EPOCH, place, "boot/grub")

    namespace.run_private(lambda: output("cmp", make("one", 1), make("two", -1)))


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_more_files_than_the_file_system_can_hold(tmp_path: Path) -> None:
    layout = disk.plan_layout(settings("300M"), Architecture.ARM64, KEY)
    (tmp_path / "tree/boot/efi/x").mkdir(parents=True)
    for number in range(17_000):
        directory = tmp_path / f"tree/{number // 100}"
        directory.mkdir(exist_ok=True)
        (directory / str(number)).touch()
    with pytest.raises(InputError, match=r"does not fit .* 258 MiB") as caught:
        disk.write_raw(tmp_path / "tree", settings("300M"), layout, EPOCH, tmp_path, "boot/grub")
    assert "disk.size" in caught.value.hint


def test_more_bytes_than_the_file_system_can_hold(tmp_path: Path) -> None:
    layout = disk.plan_layout(settings("300M"), Architecture.ARM64, KEY)
    (tmp_path / "tree/boot/efi/x").mkdir(parents=True)
    block = os.urandom(1 << 20)
    with (tmp_path / "tree/big").open("wb") as stream:
        for _ in range(270):
            stream.write(block)
    with pytest.raises(InputError, match=r"does not fit .* 258 MiB") as caught:
        disk.write_raw(tmp_path / "tree", settings("300M"), layout, EPOCH, tmp_path, "boot/grub")
    assert "disk.size" in caught.value.hint


@pytest.mark.parametrize("free", [1, 4, 12], ids=lambda free: f"{free} MiB")
def test_a_full_disk_of_this_machine(tmp_path: Path, free: int) -> None:
    layout = disk.plan_layout(settings(), Architecture.ARM64, KEY)

    def work() -> None:
        (tmp_path / "tree/boot/efi/x").mkdir(parents=True)
        (tmp_path / "tree/boot/efi/x/loader").write_bytes(os.urandom(3 << 20))
        (tmp_path / "tree/big").write_bytes(os.urandom(20 << 20))
        (tmp_path / "work").mkdir()
        namespace.mount("tmpfs", tmp_path / "work", kind="tmpfs", options=f"size={free}m")
        disk.write_raw(tmp_path / "tree", settings(), layout, EPOCH, tmp_path / "work", "boot/grub")

    with pytest.raises(StorageError) as caught:
        namespace.run_private(work)
    assert "space" in caught.value.hint


def test_a_feature_that_mke2fs_does_not_know(tmp_path: Path) -> None:
    asked = settings(features=("extent", "no_such_feature"))
    layout = disk.plan_layout(asked, Architecture.ARM64, KEY)
    (tmp_path / "tree/boot/efi/x").mkdir(parents=True)
    with pytest.raises(ToolError, match="no_such_feature") as caught:
        disk.write_raw(tmp_path / "tree", asked, layout, EPOCH, tmp_path, "boot/grub")
    assert "making the root file system" in caught.value.message


# --- qcow2 -----------------------------------------------------------------------------------------------------------


def test_the_qcow2_is_whole_and_the_same_disk(written: Written, tmp_path: Path) -> None:
    for name in ("one", "two"):
        disk.convert(written.raw, tmp_path / name)
    assert output("cmp", tmp_path / "one", tmp_path / "two") == ""
    assert "No errors were found" in output("qemu-img", "check", tmp_path / "one")
    shown: dict[str, Any] = json.loads(output("qemu-img", "info", "--output=json", tmp_path / "one"))
    assert (shown["format"], shown["virtual-size"]) == ("qcow2", written.layout.size)
    assert shown["format-specific"]["data"]["compression-type"] == "zstd"
    assert "backing-filename" not in shown
    output("qemu-img", "compare", "-f", "raw", "-F", "qcow2", written.raw, tmp_path / "one")


def test_a_full_disk_while_compressing(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(os.urandom(8 << 20))
    (tmp_path / "full").mkdir()

    def work() -> None:
        namespace.mount("tmpfs", tmp_path / "full", kind="tmpfs", options="size=2m")
        disk.convert(tmp_path / "raw", tmp_path / "full/image.qcow2")

    with pytest.raises(StorageError, match="compressing the image") as caught:
        namespace.run_private(work)
    assert "free some space" in caught.value.hint


def test_a_file_system_that_cannot_be_mended_is_said(tmp_path: Path) -> None:
    """debugfs exits with 0 whatever happens."""
    (tmp_path / "raw").write_bytes(bytes(1 << 20))
    with pytest.raises(PipelineError):
        disk._set_inode_times(str(tmp_path / "raw"), EPOCH, tmp_path)
    process.run(["mke2fs", "-q", "-F", tmp_path / "raw", "1024k"])
    os.truncate(tmp_path / "raw", 4096)
    with pytest.raises(PipelineError):
        disk._set_inode_times(str(tmp_path / "raw"), EPOCH, tmp_path)
