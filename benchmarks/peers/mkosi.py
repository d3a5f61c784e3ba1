"""The image as mkosi makes it.

What is set and why: the packages of the profile, and its own switch against documentation; grub with the signed shim,
as both kinds of firmware are wanted and the profile has grub; the distribution's own initramfs, made in the step that
the incremental mode caches, as mkosi's own way (an image of systemd as initramfs, from packages) takes longer and is
larger.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from benchmarks.measure import Sample
from benchmarks.peers.made import Made, pack
from benchmarks.peers.recipe import DISK_GB, SERVICES, Recipe
from benchmarks.peers.system import INSIDE, Peer

NAME = "mkosi"
ESP_MB = 256
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"  # type of grub's own partition on a GPT disk
PREPARE = """\
#!/bin/sh
set -eu
[ "$1" = final ] || exit 0
for kernel in /usr/lib/modules/*; do
  mkinitramfs -o /usr/lib/modules/initrd.img "${kernel##*/}"
done
"""
INITRD = """\
mkdir -p "${ARTIFACTDIR}/io.mkosi.initrd"
mv /usr/lib/modules/initrd.img "${ARTIFACTDIR}/io.mkosi.initrd/"
"""


@dataclass(frozen=True)
class Mkosi(Peer):
    """mkosi and its directory."""

    name: str = NAME
    package = "mkosi"

    def prepare(self) -> None:
        """Fill its package cache and the cache of its incremental mode, from today's archive.

        Raises:
            ToolError: it failed.
        """
        self._write()
        self._run("--cache-only=never", "--incremental=yes", "--force", "--force")

    def cold(self) -> Made:
        """Build with nothing cached but packages and indexes."""
        # Without a cache directory of its own it would remove what the incremental mode has.
        own = f"--cache-directory={INSIDE}/cold"
        return self._build("--cache-only=always", "--incremental=no", own, "--force")

    def rebuild(self, number: int) -> Made:
        """Build with everything cached after an edit of a script.

        Args:
            number: makes each edit another one.
        """
        self._write_script(number)
        return self._build("--cache-only=always", "--incremental=yes", "--force")

    def filtered(self) -> Made:
        """Build with nothing cached but packages and indexes, and leave out what the profile leaves out."""
        self._write(filters=self.recipe.path_filters())
        return self.cold()

    def _build(self, *words: str) -> Made:
        sample = self._run(*words)
        return pack(sample.seconds, self.root / "out/node.raw", self.root / "out/node.qcow2")

    def _run(self, *words: str) -> Sample:
        return self.system.run(self.root, ["mkosi", "--directory", f"{INSIDE}/project", *words, "build"])

    def _write(self, filters: str = "") -> None:
        project, sandbox = self.root / "project", self.root / "sandbox/etc"
        for path in (project, sandbox):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("cache", "cold", "packages", "out", "work"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        files = {
            project / "mkosi.conf": configuration(self.recipe),
            project / "mkosi.prepare.chroot": PREPARE,
            sandbox / "apt/sources.list.d/mkosi.sources": self.recipe.source_list(),
            sandbox / "apt/preferences.d/avoid": self.recipe.refusals(),
            sandbox / "dpkg/dpkg.cfg.d/slim": filters,
        } | {project / "mkosi.repart" / name: text for name, text in partitions().items()}
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (project / "mkosi.prepare.chroot").chmod(0o755)
        self._write_script(0)

    def _write_script(self, number: int) -> None:
        script = self.root / "project/mkosi.postinst.chroot"
        lines = ["#!/bin/sh", "set -eu", INITRD.rstrip(), f"systemctl enable {' '.join(SERVICES)}"]
        script.write_text("\n".join([*lines, f"echo {number} >/usr/local/share/benchmark"]) + "\n")
        script.chmod(0o755)


def configuration(recipe: Recipe) -> str:
    """Return ``mkosi.conf`` (mkosi(1))."""
    sections = {
        "Distribution": {
            "Distribution": "debian",
            "Release": recipe.codename,
            "Architecture": "x86-64",
            "Repositories": ",".join(recipe.components),
        },
        # Without SectorSize the ESP gets sectors of 4096 bytes, which OVMF does not boot from on such a disk.
        "Output": {
            "Format": "disk",
            "SectorSize": "512",
            "Output": "node",
            "OutputDirectory": f"{INSIDE}/out",
            "CompressOutput": "no",
        },
        "Build": {
            "CacheDirectory": f"{INSIDE}/cache",
            "PackageCacheDirectory": f"{INSIDE}/packages",
            "WorkspaceDirectory": f"{INSIDE}/work",
            "SandboxTrees": f"{INSIDE}/sandbox",
            "History": "no",
        },
        # KernelModulesInitrd=no is not heeded with grub; a pattern that excludes every module is.
        "Content": {
            "Bootable": "yes",
            "Bootloader": "grub",
            "ShimBootloader": "signed",
            "BiosBootloader": "grub",
            "UnifiedKernelImages": "no",
            "KernelModulesInitrdExclude": ".*",
            "KernelCommandLine": "console=ttyS0 rw",
            "WithDocs": "no",
            "CleanPackageMetadata": "no",
            "Packages": "\n".join(["", *(f"  {name}" for name in recipe.packages)]),
        },
    }
    parts = [
        f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())
        for title, settings in sections.items()
    ]
    return "\n".join(parts)


def partitions() -> dict[str, str]:
    """Return the files of ``mkosi.repart`` (repart.d(5)): a disk of DISK_GB GiB that boots both ways."""
    root = DISK_GB * 1024 - ESP_MB - 8
    return {
        "00-esp.conf": "[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/boot:/\nCopyFiles=/efi:/\n"
        f"SizeMinBytes={ESP_MB}M\nSizeMaxBytes={ESP_MB}M\n",
        "05-bios.conf": f"[Partition]\nType={BIOS_BOOT}\nSizeMinBytes=1M\nSizeMaxBytes=1M\n",
        "10-root.conf": "[Partition]\nType=root\nFormat=ext4\nCopyFiles=/\n"
        f"SizeMinBytes={root}M\nSizeMaxBytes={root}M\n",
    }
