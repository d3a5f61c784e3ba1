"""A tree from a vendor's cloud image, read by the real libguestfs: LVM and XFS, and images that are of no use.

Every launch of libguestfs takes seconds: one makes all disks, and each disk is read once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.core import namespace, progress
from pipeline.core.errors import InputError, ToolError
from pipeline.image.bases import probe, rpm
from tests.integration import media, rpms
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution
from tests.integration.test_rpm_base import digest
from tests.integration.test_rpm_rootfs import asked, tarball

guestfs = pytest.importorskip("guestfs")
pytestmark = [pytest.mark.root, pytest.mark.slow]
MB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def own_cache(scratch: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(scratch / "xdg-qcow2"))
        yield


@pytest.fixture(scope="module")
def system(tiny: Distribution, scratch: Path) -> Path:
    """What a vendor has installed: two kernels, firmware, traces of the installer and of the first boot."""
    place = scratch / "cloud"
    (place / "workspace").mkdir(parents=True)

    def make() -> None:
        rpm.make(
            media.base(tiny.key), media.ARCH, ("bash", "rpm", "odd-firmware", "kernel", "kernel-old", "shim"),
            media.repository(tiny.repository), place, workspace=place / "workspace", package_cache=place / "packages",
        )  # fmt: skip

    with progress.session(place / "log"):
        namespace.run_private(make)
    root = place / "tree"
    for name, text in {
        "boot/loader/entries/0a-2.conf": "title Tiny", f"boot/initramfs-{rpms.KERNELS['kernel-old']}.img": "x",
        "var/lib/cloud/instance/datasource": "x", "var/log/journal/0a/system.journal": "x", "swapfile": "x",
        "etc/resolv.conf": "nameserver 192.0.2.1", "root/anaconda-ks.cfg": "x", "etc/hostname": "builder",
        "boot/grub2/i386-pc/core.img": "x",
        "etc/sysconfig/network-scripts/ifcfg-eth0": "HWADDR=52:54:00:00:00:01", "var/cache/dnf/x": "x",
    }.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    os.setxattr(root / "usr/bin/bash", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))

    return root


@pytest.fixture(scope="module")
def disks(system: Path, scratch: Path) -> Iterator[dict[str, Path]]:
    sizes = {"cloud": 1600, "data": 32, "two": 96, "locked": 64}
    made = {name: scratch / f"{name}.qcow2" for name in sizes}
    for name, size in sizes.items():
        rpms.run("qemu-img", "create", "-q", "-f", "qcow2", made[name], f"{size}M")
    os.environ |= {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    archive = tarball(scratch / "cloud.tar", system, "--xattrs-include=*")
    handle = guestfs.GuestFS(python_return_dict=True)
    for file in made.values():
        handle.add_drive_opts(str(file), format="qcow2", cachemode="unsafe")
    handle.launch()
    media.lay_out(handle, "/dev/sda")
    media.install(handle, "/dev/sda", archive)
    handle.mkfs("ext4", "/dev/sdb")
    handle.part_init("/dev/sdc", "gpt")
    for number, (first, last) in enumerate(((2048, 90111), (90112, -2048)), start=1):
        handle.part_add("/dev/sdc", "p", first, last)
        handle.mkfs("ext4", f"/dev/sdc{number}")
        handle.mount(f"/dev/sdc{number}", "/")
        for name in ("bin", "etc", "usr", "dev", "proc"):
            handle.mkdir(f"/{name}")
        handle.write("/etc/os-release", f'ID=tiny\nVERSION_ID={number}\nPRETTY_NAME="Tiny {number}"\n'.encode())
        handle.write("/etc/fstab", b"/dev/sda1 / ext4 defaults 0 0\n")
        handle.umount_all()
    handle.luks_format("/dev/sdd", "secret", 0)
    handle.shutdown()
    handle.close()
    yield made
    for file in made.values():
        file.unlink()


@pytest.fixture(scope="module")
def made(disks: dict[str, Path], tiny: Distribution, scratch: Path) -> Path:
    """The cloud image, made into a tree."""
    place = scratch / "made"
    place.mkdir()
    return media.make(place, media.resolved("qcow2", disks["cloud"]), asked(tiny))


# Run by another user, so it is a program of its own.
MAKE = f"""
import sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from tests.integration import media
from tests.integration.test_rpm_base import digest
from tests.integration.test_rpm_rootfs import WANTED
request = media.request(media.base(sys.argv[2]), repositories=media.repository(Path(sys.argv[4])), packages=WANTED)
print(digest(media.make(Path(sys.argv[3]), media.resolved("qcow2", Path(sys.argv[1])), request)))
"""


def test_an_ordinary_user_makes_the_same_tree(
    made: Path, disks: dict[str, Path], tiny: Distribution, ordinary: OrdinaryUser
) -> None:
    result = ordinary.run([sys.executable, "-c", MAKE, disks["cloud"], tiny.key, ordinary.directory, tiny.repository])
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] == digest(made)


def test_a_cloud_image_is_read_completed_and_slimmed(made: Path) -> None:
    root = made / "tree"
    assert (root / "etc/greeting").exists()  # what was lacking
    rows = {row["name"] for row in json.loads((made / "packages.json").read_text())}
    assert rows == {"tiny-release", "filesystem", "libraries", "bash", "rpm", "greeter", "kernel", "shim"}
    new, old = rpms.KERNELS["kernel"], rpms.KERNELS["kernel-old"]
    assert [path.name for path in (root / "usr/lib/modules").iterdir()] == [new]
    assert [path.name for path in (root / "boot").iterdir() if old in path.name] == []
    assert (root / f"boot/vmlinuz-{new}").is_file()
    assert (root / "boot/efi/EFI/Tiny/shim.efi").is_file()  # from the ESP
    for gone in (
        "boot/loader/entries/0a-2.conf", "var/lib/cloud/instance/datasource", "var/log/journal/0a/system.journal",
        "swapfile", "etc/fstab", "boot/grub2/i386-pc", "etc/resolv.conf", "root/anaconda-ks.cfg", "var/cache/dnf/x",
        "etc/sysconfig/network-scripts/ifcfg-eth0", "usr/lib/firmware/odd.bin", "lost+found",
    ):  # fmt: skip
        assert not (root / gone).exists(), gone
    assert os.getxattr(root / "usr/bin/bash", "security.capability").hex().startswith("01000002")
    facts = probe.Probe.model_validate(json.loads((made / "origin.json").read_text())["probe"])
    assert (facts.os_release["ID"], facts.efi_vendors) == ("tiny", ("Tiny",))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data", ("holds no operating system", "/dev/sda (ext4)")),
        ("two", ("holds 2 operating systems", "Tiny 1 on /dev/sda1", "Tiny 2 on /dev/sda2")),
        ("locked", ("is encrypted: /dev/sda is a LUKS volume",)),
    ],
)
def test_an_image_of_no_use(
    disks: dict[str, Path], tiny: Distribution, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        media.make(tmp_path, media.resolved("qcow2", disks[name]), asked(tiny))
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert media.left(tmp_path) == []


def test_what_is_no_qcow2(tmp_path: Path) -> None:
    (tmp_path / "x.qcow2.xz").write_bytes(b"\xfd7zXZ")
    with pytest.raises(InputError, match="is not a qcow2 image") as caught:
        media.resolved("qcow2", tmp_path / "x.qcow2.xz")
    assert "xz -d" in caught.value.hint


def test_an_image_that_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * MB)
    rpms.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", tmp_path / "x.qcow2")
    with pytest.raises(InputError, match="is only a part: it refers to another file"):
        media.resolved("qcow2", tmp_path / "x.qcow2")


def test_an_image_that_is_damaged(tiny: Distribution, tmp_path: Path) -> None:
    rpms.run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "x.qcow2", "1M")
    content = bytearray((tmp_path / "x.qcow2").read_bytes())
    content[40:48] = b"\xff" * 8  # where the first table is
    (tmp_path / "x.qcow2").write_bytes(content)
    with pytest.raises(ToolError, match="libguestfs cannot read"):
        media.make(tmp_path, media.resolved("qcow2", tmp_path / "x.qcow2"), asked(tiny))
    assert media.left(tmp_path) == []
