"""Boot: which kernel is the newest, what GRUB is told, what goes into the EFI system partition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import PipelineError
from pipeline.image import boot, tree
from pipeline.profile import Boot

IDENTITY = boot.Identity(root="11111111-2222-3333-4444-555555555555", esp="ABCD-1234")
VERSION = "6.1.0-37-cloud-arm64"


@dataclass(frozen=True)
class Settings:
    """What a profile may say about booting."""

    title: str = "Debian"
    arguments: tuple[str, ...] = ()
    directory: str = "boot/grub"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree for arm64, which needs no program to be made bootable."""
    found = tmp_path / "tree"
    for path in (
        f"boot/vmlinuz-{VERSION}", f"boot/initrd.img-{VERSION}", "usr/lib/shim/shimaa64.efi.signed",
        "usr/lib/shim/mmaa64.efi.signed", "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed", "etc/debian_version",
    ):  # fmt: skip
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_text(path)
    return found


def install(root: Path, settings: Settings = Settings()) -> str:
    """Make a tree bootable; returns GRUB's configuration."""
    how = Boot(
        initramfs="initramfs-tools",
        efi_vendor="debian",
        grub_directory=settings.directory,
        kernel_arguments=settings.arguments,
    )
    boot.install(root, Architecture.ARM64, how, settings.title, IDENTITY)
    return (root / settings.directory / "grub.cfg").read_text()


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "versions",
    [
        ["6.1.0-10-cloud-amd64", "6.1.0-9-cloud-amd64"],
        ["6.10.0-1-amd64", "6.9.12-1-amd64", "6.9.2-1-amd64", "5.10.0-33-amd64"],
        ["6.1.0-37-amd64", "6.1.0-rc7-amd64"],
        ["6.1.1", "6.1.0-99"],
        ["6.1.0-1", "6.1.0"],
        ["5.10.134-16.3.an8.x86_64", "5.10.134-16.1.an8.x86_64", "4.19.91-27.7.an8.x86_64"],
        ["4.19.90-89.11.v2401.ky10.aarch64", "4.19.90-52.22.v2207.ky10.aarch64"],
        ["4.18.0-553.el8_10.x86_64", "4.18.0-80.el8.x86_64"],
        ["3.10.0-1160.119.1.el7.x86_64", "3.10.0-1160.el7.x86_64", "3.10.0-957.el7.x86_64"],
        ["5.14.0-427.el9.x86_64", "0-rescue-0123456789abcdef0123456789abcdef"],
    ],
)
def test_the_newest_kernel_comes_first(versions: list[str]) -> None:
    assert boot.newest_first(reversed(versions)) == tuple(versions)
    assert boot.newest_first(versions) == tuple(versions)


def test_kernels_of_a_tree(root: Path) -> None:
    (root / "boot/vmlinuz-6.1.0-9-cloud-arm64").touch()
    (root / "boot/config-6.1.0-99-cloud-arm64").touch()
    assert boot.kernels(root) == (VERSION, "6.1.0-9-cloud-arm64")


def test_a_tree_without_a_kernel(root: Path) -> None:
    (root / f"boot/vmlinuz-{VERSION}").unlink()
    with pytest.raises(PipelineError, match="the tree has no kernel") as caught:
        install(root)
    assert "profile" in caught.value.hint


# --- configuration ---------------------------------------------------------------------------------------------------


def test_grub_is_told_the_root_by_its_uuid(root: Path) -> None:
    (root / "boot/vmlinuz-6.1.0-9-cloud-arm64").touch()
    config = install(root, Settings(arguments=("quiet", "audit=1")))
    entries = config[config.index("menuentry") :]
    assert entries == (
        f"""\
menuentry 'Debian, with Linux {VERSION}' --id 'linux-{VERSION}' {{
  search --no-floppy --fs-uuid --set=root {IDENTITY.root}
  linux /boot/vmlinuz-{VERSION} root=UUID={IDENTITY.root} ro quiet audit=1 console=tty0 console=ttyAMA0,115200
  initrd /boot/initrd.img-{VERSION}
}}

menuentry 'Debian, with Linux 6.1.0-9-cloud-arm64' --id 'linux-6.1.0-9-cloud-arm64' {{
  search --no-floppy --fs-uuid --set=root {IDENTITY.root}
  linux /boot/vmlinuz-6.1.0-9-cloud-arm64 root=UUID={IDENTITY.root} ro quiet audit=1 console=tty0 console=ttyAMA0,115200
  initrd /boot/initrd.img-6.1.0-9-cloud-arm64
}}
"""
    )
    assert "/dev/" not in config
    assert "serial --unit" not in config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(title="Bob's Linux"), f"""menuentry 'Bob'"'"'s Linux, with Linux {VERSION}' --id"""),
        (Settings(title="a }; reboot; {"), f"menuentry 'a }}; reboot; {{, with Linux {VERSION}' --id"),
        (Settings(arguments=("dyndbg=a;b", "x=$root")), " ro 'dyndbg=a;b' 'x=$root' console=tty0"),
    ],
)
def test_what_grub_would_take_for_its_own_is_quoted(root: Path, settings: Settings, expected: str) -> None:
    assert expected in install(root, settings)


def test_grubs_environment_block_is_one_it_can_write(root: Path) -> None:
    install(root)
    block = (root / "boot/grub/grubenv").read_bytes()
    assert len(block) == 1024
    assert block.startswith(b"# GRUB Environment Block\n#")


def test_fstab_names_file_systems_by_uuid(root: Path) -> None:
    (root / "etc/fstab").symlink_to("/nonexistent/fstab")
    install(root)
    lines = [line for line in (root / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[:3] for line in lines] == [
        [f"UUID={IDENTITY.root}", "/", "ext4"],
        [f"UUID={IDENTITY.esp}", "/boot/efi", "vfat"],
    ]
    assert "nofail" in lines[1]  # a node without its ESP still boots


def test_the_esp_has_the_signed_loaders_twice(root: Path) -> None:
    install(root)
    esp = root / "boot/efi"
    files = {path: (esp / path).read_text() for path, _ in tree.walk(esp) if (esp / path).is_file()}
    shim, manager = "usr/lib/shim/shimaa64.efi.signed", "usr/lib/shim/mmaa64.efi.signed"
    grub = "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed"
    config = files.pop("EFI/debian/grub.cfg")
    assert files == {
        "EFI/BOOT/BOOTAA64.EFI": shim, "EFI/BOOT/mmaa64.efi": manager, "EFI/BOOT/grubaa64.efi": grub,
        "EFI/debian/shimaa64.efi": shim, "EFI/debian/mmaa64.efi": manager, "EFI/debian/grubaa64.efi": grub,
    }  # fmt: skip
    assert config.splitlines() == [
        f"search.fs_uuid {IDENTITY.root} root",
        "set prefix=($root)/boot/grub",
        "configfile $prefix/grub.cfg",
    ]


def test_another_directory_for_grub(root: Path) -> None:
    config = install(root, Settings(directory="boot/grub2"))
    assert "menuentry" in config
    assert "set prefix=($root)/boot/grub2\n" in (root / "boot/efi/EFI/debian/grub.cfg").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "usr/lib/shim/shimaa64.efi.signed",
        "usr/lib/shim/mmaa64.efi.signed",
        "usr/lib/grub/arm64-efi-signed/grubaa64.efi.signed",
    ],
)
def test_a_boot_loader_that_is_missing_is_named(root: Path, path: str) -> None:
    (root / path).unlink()
    with pytest.raises(PipelineError, match=f"the tree has no {path}") as caught:
        install(root)
    assert "signed boot loaders in the profile" in caught.value.hint


def test_links_of_the_tree_do_not_lead_to_the_host(root: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (root / "boot").rename(root / "real-boot")
    (root / "boot").symlink_to("/real-boot")
    (root / "real-boot/grub").mkdir()
    (root / "real-boot/grub/grub.cfg").symlink_to(host / "grub.cfg")
    (root / "real-boot/efi").symlink_to(host)  # in the tree, that is a path of the tree
    boot.install(
        root, Architecture.ARM64,
        Boot(initramfs="initramfs-tools", efi_vendor="debian", grub_directory="boot/grub"), "Debian", IDENTITY,
    )  # fmt: skip
    assert list(host.iterdir()) == []
    assert "menuentry" in (root / "real-boot/grub/grub.cfg").read_text()


# --- initramfs -------------------------------------------------------------------------------------------------------


def _file(path: str) -> Callable[[Path], None]:
    def change(delta: Path) -> None:
        (delta / path).parent.mkdir(parents=True, exist_ok=True)
        (delta / path).write_text("changed")

    return change


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    found = tmp_path / "delta"
    for directory in ("etc/default", "etc/systemd", "usr/lib/systemd", "usr/share", "var/lib"):
        (found / directory).mkdir(parents=True)
    return found


@pytest.mark.parametrize("prefix", boot.NOT_IN_INITRAMFS)
def test_what_no_initramfs_holds_keeps_it(delta: Path, prefix: str) -> None:
    before = boot.initramfs_inputs(delta)
    _file(f"{prefix}/file")(delta)
    assert boot.initramfs_inputs(delta) == before


@pytest.mark.parametrize(
    "path",
    [
        "etc/modprobe.d/x.conf", "etc/modules-load.d/x.conf", "etc/modules", "etc/initramfs-tools/conf.d/x",
        "etc/initramfs-tools/hooks/x", "etc/udev/rules.d/x", "etc/systemd/network/10-x.link", "etc/default/grub",
        "etc/sysctl.dx/x", "usr/share/initramfs-tools/hooks/x", "usr/lib/modules/x", "boot/x", "etc/fstab",
    ],
)  # fmt: skip
def test_anything_else_makes_it_anew(delta: Path, path: str) -> None:
    before = boot.initramfs_inputs(delta)
    _file(path)(delta)
    assert boot.initramfs_inputs(delta) != before
