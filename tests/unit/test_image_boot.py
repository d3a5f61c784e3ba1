"""Boot: which kernel is the newest, what GRUB is told, what goes into the EFI system partition."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import profile
from pipeline.core import namespace
from pipeline.core.arch import Architecture
from pipeline.core.errors import PipelineError
from pipeline.image import boot, tree
from pipeline.profile import Boot, DebBase, Release, RpmBase
from tests.unit.projects import ROOT

IDENTITY = boot.Identity(root="11111111-2222-3333-4444-555555555555", esp="ABCD-1234")
VERSION = "6.1.0-37-cloud-arm64"
RPM_VERSION = "4.19.90-89.11.v2401.ky10.aarch64"
AS_PACKAGED = {  # by shim-aa64 and grub2-efi-aa64, relative to EFI/
    "kylin/shimaa64.efi": b"shim \x00\xff", "kylin/shimaa64-kylin.efi": b"vendor's shim",
    "kylin/mmaa64.efi": b"MokManager", "kylin/BOOTAA64.CSV": "\ufeffshimaa64.efi,Kylin".encode("utf-16-le"),
    "kylin/grubaa64.efi": b"grub", "kylin/fonts/unicode.pf2": b"font",
    "BOOT/BOOTAA64.EFI": b"shim \x00\xff", "BOOT/fbaa64.efi": b"fallback",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a profile may say about booting."""

    title: str = "Debian"
    arguments: tuple[str, ...] = ()
    directory: str = "boot/grub"
    lineage: str = ""

    @property
    def release(self) -> Release:
        """Debian's, or what an RPM system of that lineage has in its place."""
        found = profile.load(ROOT / "osprofiles/debian.yaml").releases["12"]
        how = Boot(
            initramfs="dracut" if self.lineage else "initramfs-tools",
            efi_vendor="kylin" if self.lineage else "debian",
            grub_directory=self.directory,
            kernel_arguments=self.arguments,
        )
        base: DebBase | RpmBase = found.base
        if self.lineage:
            base = RpmBase.model_validate(
                {
                    "kind": "rpm", "lineage": self.lineage, "releasever": "1", "fingerprints": ["A" * 40],
                    "database": "var/lib/rpm", "release_package": "x-release",
                    "repositories": [{"id": "os", "url": "https://example.org/os"}],
                }
            )  # fmt: skip
        return found.model_copy(update={"boot": how, "base": base})


RPM = Settings(title="Kylin", directory="boot/grub2", lineage="openeuler")


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


@pytest.fixture
def rpm_root(tmp_path: Path) -> Path:
    """A tree of an RPM system for arm64, whose packages have put boot loaders in place."""
    found = tmp_path / "rpm-tree"
    content = {f"boot/efi/EFI/{path}": data for path, data in AS_PACKAGED.items()}
    content |= {f"boot/vmlinuz-{RPM_VERSION}": b"", f"boot/initramfs-{RPM_VERSION}.img": b"", "etc/os-release": b""}
    for path, data in content.items():
        (found / path).parent.mkdir(parents=True, exist_ok=True)
        (found / path).write_bytes(data)
    return found


def install(root: Path, settings: Settings = Settings(), arch: Architecture = Architecture.ARM64) -> str:
    """Make a tree bootable; returns GRUB's configuration."""
    boot.install(root, arch, settings.release, settings.title, IDENTITY)
    return (root / settings.directory / "grub.cfg").read_text()


def esp_files(root: Path) -> dict[str, bytes]:
    """Return what the EFI system partition gets, by path below EFI/."""
    esp = root / "boot/efi/EFI"
    return {path: (esp / path).read_bytes() for path, _ in tree.walk(esp) if (esp / path).is_file()}


def check_script(config: str) -> None:
    """Have GRUB's own parser read a configuration, where it is installed."""
    if shutil.which("grub-script-check"):
        checked = subprocess.run(["grub-script-check"], input=config, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


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
    check_script(config)


def test_an_initramfs_by_dracut_has_its_name(rpm_root: Path) -> None:
    config = install(rpm_root, RPM)
    assert f"\n  linux /boot/vmlinuz-{RPM_VERSION} root=UUID={IDENTITY.root} ro " in config
    assert f"\n  initrd /boot/initramfs-{RPM_VERSION}.img\n" in config
    assert "initrd.img" not in config
    check_script(config)


@pytest.fixture
def bios_root(rpm_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same for amd64, with GRUB's modules for BIOS; its programs are not run."""
    for name in ("var/tmp", "usr/lib/grub/i386-pc"):
        (rpm_root / name).mkdir(parents=True)
    for name in ("boot.img", "normal.mod", "kernel.img"):
        (rpm_root / "usr/lib/grub/i386-pc" / name).write_text(name)
    for path in sorted((rpm_root / "boot/efi/EFI").rglob("*aa64*")) + sorted(rpm_root.rglob("BOOTAA64.EFI")):
        path.rename(path.with_name(path.name.replace("aa64", "x64").replace("AA64", "X64")))

    def note(_root: Path, words: Sequence[str], **_: object) -> None:
        (rpm_root.parent / "words").write_text("\n".join(words))

    monkeypatch.setattr(namespace, "in_tree", note)
    return rpm_root


def test_el7_loads_a_kernel_by_another_command_where_uefi_started_it(bios_root: Path) -> None:
    config = install(bios_root, Settings(directory="boot/grub2", lineage="el7"), Architecture.AMD64)
    assert '\nif [ "$grub_platform" = efi ]; then\n  set efi=efi\nfi\n' in config
    assert config.count("efi=efi") == 1  # nowhere else, so it is "linux" with a BIOS
    assert config.index("efi=efi") < config.index("menuentry")
    assert f"\n  linux$efi /boot/vmlinuz-{RPM_VERSION} " in config
    assert f"\n  initrd$efi /boot/initramfs-{RPM_VERSION}.img\n" in config
    check_script(config)


@pytest.mark.parametrize("lineage", ["el8", "el9", "el10", "openeuler", ""])
def test_other_lineages_have_one_command_for_both(bios_root: Path, lineage: str) -> None:
    settings = Settings(directory="boot/grub2", lineage=lineage)
    config = install(bios_root, settings, Architecture.AMD64)
    assert "$efi" not in config
    assert "efi=efi" not in config
    assert f"\n  linux /boot/vmlinuz-{RPM_VERSION} " in config
    assert "\n  initrd /boot/init" in config
    check_script(config)


def test_el7_on_arm64_has_one_command_too(rpm_root: Path) -> None:
    config = install(rpm_root, Settings(directory="boot/grub2", lineage="el7"))
    assert "$efi" not in config
    assert f"\n  linux /boot/vmlinuz-{RPM_VERSION} " in config


@pytest.mark.parametrize(("there", "program"), [(True, "grub2-mkimage"), (False, "grub-mkimage")])
def test_the_core_image_for_bios_is_made_by_the_trees_own_program(bios_root: Path, there: bool, program: str) -> None:
    if there:
        (bios_root / "usr/bin").mkdir()
        (bios_root / "usr/bin/grub2-mkimage").touch()
    install(bios_root, RPM, Architecture.AMD64)
    words = (bios_root.parent / "words").read_text().splitlines()
    assert words[0] == program
    assert "--prefix=/boot/grub2" in words
    assert "--output=/boot/grub2/i386-pc/core.img" in words
    assert {path.name for path in (bios_root / "boot/grub2/i386-pc").iterdir()} == {"boot.img", "normal.mod"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(title="Bob's Linux"), f"""menuentry 'Bob'"'"'s Linux, with Linux {VERSION}' --id"""),
        (Settings(title="a }; reboot; {"), f"menuentry 'a }}; reboot; {{, with Linux {VERSION}' --id"),
        (Settings(arguments=("dyndbg=a;b", "x=$root")), " ro 'dyndbg=a;b' 'x=$root' console=tty0"),
    ],
)
def test_what_grub_would_take_for_its_own_is_quoted(root: Path, settings: Settings, expected: str) -> None:
    config = install(root, settings)
    assert expected in config
    check_script(config)


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


def test_boot_loaders_that_packages_brought_stay_byte_for_byte(rpm_root: Path) -> None:
    install(rpm_root, RPM)
    files = esp_files(rpm_root)
    config = files.pop("kylin/grub.cfg").decode()
    assert files == AS_PACKAGED
    assert config.splitlines() == [
        f"search.fs_uuid {IDENTITY.root} root",
        "set prefix=($root)/boot/grub2",
        "configfile $prefix/grub.cfg",
    ]
    check_script(config)


def test_the_same_holds_for_amd64(bios_root: Path) -> None:
    before = esp_files(bios_root)
    assert {"kylin/grubx64.efi", "kylin/shimx64.efi", "BOOT/BOOTX64.EFI", "BOOT/fbx64.efi"} <= set(before)
    install(bios_root, RPM, Architecture.AMD64)
    after = esp_files(bios_root)
    assert after.pop("kylin/grub.cfg").startswith(b"search.fs_uuid ")
    assert after == before


def test_the_packages_word_for_the_vendors_directory_counts(rpm_root: Path) -> None:
    """The signed GRUB looks where its package is, whatever the profile calls that."""
    (rpm_root / "boot/efi/EFI/kylin").rename(rpm_root / "boot/efi/EFI/UOS")
    install(rpm_root, RPM)
    assert "UOS/grub.cfg" in esp_files(rpm_root)
    assert not (rpm_root / "boot/efi/EFI/kylin").exists()


def test_a_fallback_that_no_package_brought_is_an_error(rpm_root: Path) -> None:
    (rpm_root / "boot/efi/EFI/BOOT/BOOTAA64.EFI").unlink()
    with pytest.raises(PipelineError, match=r"the tree has no /boot/efi/EFI/BOOT/BOOTAA64\.EFI") as caught:
        install(rpm_root, RPM)
    assert "signed boot loaders in the profile" in caught.value.hint


@pytest.mark.parametrize("name", ["BOOT", "boot", "Boot"])
def test_the_fallback_path_is_no_vendors_directory(rpm_root: Path, name: str) -> None:
    """GRUB there alone is not where the fallback program, or an entry of the firmware, would look for it."""
    shutil.rmtree(rpm_root / "boot/efi/EFI")
    (rpm_root / "boot/efi/EFI" / name).mkdir(parents=True)
    for file in ("BOOTAA64.EFI", "grubaa64.efi"):
        (rpm_root / "boot/efi/EFI" / name / file).touch()
    with pytest.raises(PipelineError, match=r"the tree has no usr/lib/shim/shimaa64\.efi\.signed"):
        install(rpm_root, RPM)


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
    boot.install(root, Architecture.ARM64, Settings().release, "Debian", IDENTITY)
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


@pytest.mark.parametrize(
    "path",
    [
        "etc/NetworkManager/conf.d/10-node.conf", "etc/default/grub", "etc/default/grub.d/50-x.cfg",
        "etc/dnf/dnf.conf", "etc/kernel/install.d/95-node-boot.install", "etc/kernel/postinst.d/95-node-boot",
        "etc/chrony.conf", "etc/yum.repos.d/x.repo", "etc/systemd/system-preset/20-node-rpm.preset",
        "usr/lib/cluster/update-boot",
    ],
)  # fmt: skip
def test_what_no_generator_reads_keeps_the_initramfs(delta: Path, path: str) -> None:
    before = boot.initramfs_inputs(delta)
    _file(path)(delta)
    assert boot.initramfs_inputs(delta) == before


@pytest.mark.parametrize("prefix", boot.NOT_IN_INITRAMFS)
def test_what_no_initramfs_holds_keeps_it(delta: Path, prefix: str) -> None:
    before = boot.initramfs_inputs(delta)
    _file(f"{prefix}/file")(delta)
    assert boot.initramfs_inputs(delta) == before


@pytest.mark.parametrize(
    "path",
    [
        "etc/modprobe.d/x.conf", "etc/modules-load.d/x.conf", "etc/modules", "etc/initramfs-tools/conf.d/x",
        "etc/initramfs-tools/hooks/x", "etc/udev/rules.d/x", "etc/systemd/network/10-x.link", "etc/default/keyboard",
        "etc/sysctl.dx/x", "usr/share/initramfs-tools/hooks/x", "usr/lib/modules/x", "boot/x", "etc/fstab",
        "etc/dracut.conf", "etc/dracut.conf.d/50-x.conf", "usr/lib/dracut/modules.d/99x/module-setup.sh",
        "etc/vconsole.conf", "etc/default/grubx", "etc/kernelx", "usr/lib/systemd/systemd", "etc/lvm/lvm.conf",
    ],
)  # fmt: skip
def test_anything_else_makes_it_anew(delta: Path, path: str) -> None:
    before = boot.initramfs_inputs(delta)
    _file(path)(delta)
    assert boot.initramfs_inputs(delta) != before
