"""Boot: initramfs, GRUB's configuration, the EFI system partition's files and the BIOS core image.

Boot loaders are files (decision D6): the distribution's own signed shim and GRUB are copied, never installed by a
program that would ask the build machine for its disks. The configuration written here is replaced by the distribution's
own generator at the first kernel update inside a node; ``/etc/default/grub.d`` gives that the same arguments.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import PipelineError, ToolError
from pipeline.image import tree
from pipeline.profile import Boot, Release, RpmBase

TEMPLATES = Path(__file__).parent / "templates"
ESP = "boot/efi"  # where the EFI system partition is mounted
GRUBENV_SIZE = 1024  # GRUB reads and writes exactly this block, and never grows it
BOOT_LOADERS_HINT = "name the packages of the signed boot loaders in the profile"
BIOS_MODULES = ("biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal")
# Prints which of the files after the first are in the initramfs that the first is, as they are in the sandbox.
FIND_SHOWN = """\
unmkinitramfs "$1" /tmp/unpacked
shift
for file; do
  for top in /tmp/unpacked /tmp/unpacked/*; do
    ! cmp --silent "$top$file" "$file" || echo "$file"
  done
done
"""
# Parts of a tree that no initramfs generator reads: a change there keeps the initramfs.
NOT_IN_INITRAMFS = (
    "etc/NetworkManager", "etc/apt", "etc/chrony", "etc/chrony.conf", "etc/cloud", "etc/cluster", "etc/containers",
    "etc/default/grub", "etc/default/grub.d", "etc/dnf", "etc/dpkg", "etc/hosts", "etc/issue", "etc/kernel", "etc/motd",
    "etc/profile.d", "etc/ssh", "etc/sysctl.conf", "etc/sysctl.d", "etc/systemd/journald.conf.d", "etc/systemd/system",
    "etc/systemd/system-preset", "etc/yum.repos.d", "usr/lib/cluster", "usr/lib/systemd/system", "usr/local",
    "usr/share/doc", "var/cache", "var/lib/dpkg", "var/lib/systemd", "var/log",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """The names that disks and file systems of one image carry.

    Attributes:
        root: UUID of the root file system.
        esp: volume id of the EFI system partition, as ``blkid`` prints it (``1234-ABCD``).
    """

    root: str
    esp: str


def kernels(root: Path) -> tuple[str, ...]:
    """Return the versions of the kernels in a tree, the newest first.

    Raises:
        PipelineError: there is none.
    """
    found = [file.name.removeprefix("vmlinuz-") for file in tree.inside(root, "boot").glob("vmlinuz-*")]
    if not found:
        raise PipelineError("the tree has no kernel", hint="name a kernel package in the profile")
    return newest_first(found)


def newest_first(versions: Iterable[str]) -> tuple[str, ...]:
    """Sort kernel versions by their numbers, the newest first."""
    return tuple(sorted(versions, key=_version_key, reverse=True))


def _version_key(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.-]", version)]


def initramfs_inputs(overlay_delta: Path) -> str:
    """Return the sha256 of what overlays changed, as far as an initramfs could hold it."""
    return tree.digest(overlay_delta, ignore=_is_outside_initramfs)


def _is_outside_initramfs(path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in NOT_IN_INITRAMFS)


def make_initramfs(root: Path, boot: Boot, epoch: int, binds: Sequence[tuple[Path, str]] = ()) -> None:
    """Make the initramfs of every kernel of a mounted tree with the tree's own generator.

    Args:
        root: the tree.
        boot: which generator it has.
        epoch: latest modification time, in seconds since 1970.
        binds: (path on this machine, path in the tree) of what is shown in place of the tree's own.

    Raises:
        PipelineError: there is no kernel.
        ToolError: the generator failed.
    """
    env = {"SOURCE_DATE_EPOCH": str(epoch), "TMPDIR": "/tmp"}  # noqa: S108  inside the sandbox
    for version in kernels(root):
        if boot.initramfs == "dracut":
            words = ["dracut", "--force", "--no-hostonly", "--kver", version, f"/{_initramfs_path(boot, version)}"]
        else:
            words = ["update-initramfs", "-c", "-k", version]
        _generate(root, words, env, _initramfs_path(boot, version), binds)
        if not tree.inside(
            root, _initramfs_path(boot, version)
        ).is_file():  # switched off by its settings, dracut ends with 0
            raise ToolError(f"{words[0]} made no initramfs for {version}", hint="see the log of the boot step")


def _generate(
    root: Path, words: Sequence[str], env: dict[str, str], path: str, binds: Sequence[tuple[Path, str]]
) -> None:
    """Run a generator; once more without the programs of another architecture if it took one of them in."""
    namespace.in_tree(root, words, env=env, binds=binds, what="making the initramfs")
    if not binds:
        return
    search = ["bash", "-c", FIND_SHOWN, "bash", f"/{path}", *(place for _, place in binds)]
    found = namespace.in_tree(root, search, binds=binds, capture=True, what="looking into the initramfs").stdout
    if found:
        progress.note(f"the initramfs took in {', '.join(found.split())}: it is made again, with the tree's own")
        namespace.in_tree(root, words, env=env, what="making the initramfs")


def _initramfs_path(boot: Boot, version: str) -> str:
    return f"boot/initramfs-{version}.img" if boot.initramfs == "dracut" else f"boot/initrd.img-{version}"


def install(root: Path, arch: Architecture, release: Release, title: str, identity: Identity) -> None:
    """Write everything a firmware and GRUB need into a mounted tree.

    Args:
        root: the tree.
        arch: its architecture.
        release: what it is, and how it boots.
        title: name of the menu entry.
        identity: of its file systems.

    Raises:
        PipelineError: the tree lacks a boot loader file.
        ToolError: GRUB's image could not be made.
    """
    boot = release.boot
    tree.write(root, "etc/fstab", _template("fstab.j2", identity=identity))
    _write_grub_config(root, arch, release, title, identity)
    _fill_esp(root, arch, boot, identity)
    if arch.has_bios:
        _make_bios_core(root, boot, identity)


def _template(name: str, **variables: object) -> str:
    import jinja2  # here, as nearly every command imports this module and few render

    environment = jinja2.Environment(  # noqa: S701  configuration files, not HTML
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quote"] = shlex.quote  # GRUB's language quotes as a shell does
    return environment.get_template(name).render(variables)


def _find_root(boot: Boot, identity: Identity, *, standalone: bool) -> str:
    """Return the commands that lead GRUB to its directory; inside a core image GRUB goes on to its menu by itself."""
    return _template("find-root.cfg.j2", identity=identity, directory=boot.grub_directory, standalone=standalone)


def _write_grub_config(root: Path, arch: Architecture, release: Release, title: str, identity: Identity) -> None:
    boot = release.boot
    tree.inside(root, boot.grub_directory).mkdir(exist_ok=True)
    arguments = ["ro", *boot.kernel_arguments, "console=tty0", f"console={arch.serial},115200"]
    config = _template(
        "grub.cfg.j2",
        kernels={version: _initramfs_path(boot, version) for version in kernels(root)},
        title=title,
        identity=identity,
        arguments=arguments,
        has_serial=arch.has_bios,  # elsewhere the firmware's console is the serial one already
        # GRUB of this lineage has no command "linux" for UEFI on amd64.
        has_linuxefi=isinstance(release.base, RpmBase) and release.base.lineage == "el7" and arch.has_bios,
    )
    tree.write(root, f"{boot.grub_directory}/grub.cfg", config)
    block = b"# GRUB Environment Block\n"
    tree.write(root, f"{boot.grub_directory}/grubenv", block.ljust(GRUBENV_SIZE, b"#"))


def _fill_esp(root: Path, arch: Architecture, boot: Boot, identity: Identity) -> None:
    """Have signed shim and GRUB in the vendor's directory and the fallback path of the EFI system partition.

    RPM packages bring them in place, complete with the program that the fallback path starts; they stay untouched.
    Debian's packages have them elsewhere.
    """
    suffix = arch.efi
    if packaged := _packaged_vendor(root, suffix):
        fallback = tree.inside(root, f"{ESP}/EFI/BOOT/BOOT{suffix.upper()}.EFI")
        if not fallback.is_file():
            raise PipelineError(f"the tree has no /{ESP}/EFI/BOOT/{fallback.name}", hint=BOOT_LOADERS_HINT)
        (packaged / "grub.cfg").write_text(_find_root(boot, identity, standalone=True))
        return
    files = {
        f"shim{suffix}.efi": _find(root, f"usr/lib/shim/shim{suffix}.efi.signed"),
        f"mm{suffix}.efi": _find(root, f"usr/lib/shim/mm{suffix}.efi.signed"),
        f"grub{suffix}.efi": _find(root, f"usr/lib/grub/{arch.grub_efi}-signed/grub{suffix}.efi.signed"),
    }
    vendor, fallback = (tree.inside(root, f"{ESP}/EFI/{name}") for name in (boot.efi_vendor, "BOOT"))
    for directory in (vendor, fallback):
        directory.mkdir(parents=True)
        for name, source in files.items():
            is_first = directory is fallback and name.startswith("shim")
            shutil.copyfile(source, directory / (f"BOOT{suffix.upper()}.EFI" if is_first else name))
    # The signed GRUB looks into the vendor's directory, wherever it was started from.
    (vendor / "grub.cfg").write_text(_find_root(boot, identity, standalone=True))


def _packaged_vendor(root: Path, suffix: str) -> Path | None:
    """Return the directory of the EFI system partition in which a package has put GRUB; None if none has."""
    found = sorted(tree.inside(root, f"{ESP}/EFI").glob(f"*/grub{suffix}.efi"))
    return next((path.parent for path in found if path.parent.name.upper() != "BOOT"), None)


def _find(root: Path, path: str) -> Path:
    found = tree.inside(root, path)
    if not found.is_file():
        raise PipelineError(f"the tree has no {path}", hint=BOOT_LOADERS_HINT)
    return found


def _make_bios_core(root: Path, boot: Boot, identity: Identity) -> None:
    """Make GRUB's core image for BIOS with the tree's own GRUB, and keep the modules it was made of beside it."""
    modules = tree.inside(root, "usr/lib/grub/i386-pc")
    target = tree.inside(root, f"{boot.grub_directory}/i386-pc")
    if not modules.is_dir():
        raise PipelineError("the tree has no GRUB modules for BIOS", hint="name their package in the profile")
    # Copies, not links: modules of a later package would not fit the core image that is on the disk.
    shutil.copytree(modules, target, ignore=shutil.ignore_patterns("*.img", "*.image"))
    shutil.copyfile(modules / "boot.img", target / "boot.img")
    early = tree.write(root, "var/tmp/early.cfg", _find_root(boot, identity, standalone=False))
    program = "grub2-mkimage" if tree.inside(root, "usr/bin/grub2-mkimage").exists() else "grub-mkimage"
    words = [program, "--format=i386-pc", "--directory=/usr/lib/grub/i386-pc", "--config=/var/tmp/early.cfg"]
    words += [f"--prefix=/{boot.grub_directory}", f"--output=/{boot.grub_directory}/i386-pc/core.img", *BIOS_MODULES]
    namespace.in_tree(root, words, what="making GRUB's core image")
    early.unlink()
