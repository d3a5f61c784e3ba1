"""The image as diskimage-builder makes it.

What is set and why: its Debian element brings ``linux-image-amd64`` by itself, and empties the package cache at each
build, so a copy is used without the one and the other; the profile's packages are in an element of our own. Its loop
devices work here, kpartx does not where the kernel has no device mapper: ``kpartx.sh`` then stands in. The ESP is
something it mounts, so without vfat in this kernel there is a disk for BIOS only.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Sample
from benchmarks.peers.made import Made
from benchmarks.peers.recipe import DISK_GB, SERVICES, Recipe
from benchmarks.peers.system import INSIDE, Peer
from pipeline.core import process

NAME = "diskimage-builder"
KPARTX = Path(__file__).with_name("kpartx.sh")
ELEMENTS = "usr/lib/python3/dist-packages/diskimage_builder/elements"
SYSTEM = "node-system"  # of another name: files of elements with the same name are merged
CLEAN = "$apt_get clean\n"
LOCALES = "/usr/share/i18n"  # its debootstrap element generates a locale
NEEDED = ("gnupg",)  # its own Debian element installs gnupg2


@dataclass(frozen=True)
class Dib(Peer):
    """diskimage-builder and its directory."""

    name: str = NAME
    package = "python3-diskimage-builder"

    def prepare(self) -> None:
        """Fill its caches: packages, and the tarball of a bootstrapped system.

        Raises:
            ToolError: it failed.
        """
        shutil.rmtree(self.root / "cache", ignore_errors=True)
        self._write()
        self._run({"DIB_DEBOOTSTRAP_CACHE": "1"})

    def cold(self) -> Made:
        """Build with nothing cached but packages."""
        return self._build({"DIB_DEBOOTSTRAP_CACHE": "0"})

    def rebuild(self, number: int) -> Made:
        """Build after an edit of a script, from the tarball of a bootstrapped system.

        Args:
            number: makes each edit another one.
        """
        self._write_script(number)
        return self._build({"DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE": "1"})

    def filtered(self) -> Made:
        """Build with nothing cached but packages, and leave out what the profile leaves out."""
        self._write(filtered=True)
        return self.cold()

    def _build(self, env: Mapping[str, str]) -> Made:
        return Made(self._run(env).seconds, self.root / "out/node.qcow2")

    def _run(self, env: Mapping[str, str]) -> Sample:
        for name in ("out", "tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(parents=True)
        words = ["disk-image-create", "-n", "-a", self.recipe.arch.deb, "-o", f"{INSIDE}/out/node", "-t", "qcow2"]
        words += ["--image-size", str(DISK_GB), "--qemu-img-options", "compression_type=zstd"]
        words += [SYSTEM, "vm", f"block-device-{firmware()}", "node"]
        binds = [] if has_device_mapper() else [(KPARTX, "/usr/sbin/kpartx")]
        return self.system.run(self.root, words, env=environment(self.recipe) | dict(env), binds=binds)

    def _write(self, *, filtered: bool = False) -> None:
        elements, node = self.root / "elements", self.root / "elements/node"
        shutil.rmtree(elements, ignore_errors=True)
        for name in ("cache/debootstrap", "home"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.system.tree / ELEMENTS / "debian-minimal", elements / SYSTEM, symlinks=True)
        (elements / SYSTEM / "package-installs.yaml").unlink()
        for script in (elements / SYSTEM / "root.d").iterdir():
            script.write_text(script.read_text().replace(CLEAN, ""))
        for path, text in element(self.recipe, filtered=filtered).items():
            (node / path).parent.mkdir(parents=True, exist_ok=True)
            (node / path).write_text(text)
            (node / path).chmod(0o755 if ".d/" in path else 0o644)
        self._write_script(0, filtered=filtered)

    def _write_script(self, number: int, *, filtered: bool = False) -> None:
        script = self.root / "elements/node/post-install.d/90-node"
        script.parent.mkdir(exist_ok=True)
        lines = ["#!/bin/bash", "set -eu", f"systemctl enable {' '.join(SERVICES)}"]
        if filtered:  # debootstrap knows no path filters
            lines += [f"rm -rf {pattern}" for pattern in self.recipe.exclude if "/doc/" not in pattern]
        script.write_text("\n".join([*lines, f"echo {number} >/usr/local/share/benchmark"]) + "\n")
        script.chmod(0o755)


def environment(recipe: Recipe) -> dict[str, str]:
    """Return what diskimage-builder is told by its environment."""
    return {
        "USER": "root",
        "HOME": f"{INSIDE}/home",
        "TMP_DIR": f"{INSIDE}/tmp",  # noqa: S108  its own, inside the sandbox
        "ELEMENTS_PATH": f"{INSIDE}/elements",
        "DIB_IMAGE_CACHE": f"{INSIDE}/cache",
        "DIB_RELEASE": recipe.codename,
        "DIB_DISTRIBUTION_MIRROR": recipe.archive,
        "DIB_DEBIAN_SECURITY_MIRROR": recipe.security,  # its own default is an archive of another layout
        "DIB_DEBIAN_SECURITY_SUBPATH": "",
        "DIB_APT_SOURCES_CONF": "\n".join(
            f"{suite}:deb {uri} {suite} {' '.join(recipe.components)}" for uri, suite in recipe.sources
        ),
        "DIB_DEBOOTSTRAP_EXTRA_ARGS": f"--cache-dir={INSIDE}/cache/debootstrap",
        "DIB_APT_LOCAL_CACHE": "1",
        "DIB_APT_MINIMAL_CREATE_INTERFACES": "0",  # cloud-init and networkd are the profile's
        "DIB_GRUB_TIMEOUT": "0",
        "DIB_SKIP_GRUB_PACKAGE_INSTALL": "True",  # grub is among the packages of the profile
    }


def element(recipe: Recipe, *, filtered: bool) -> dict[str, str]:
    """Return the files of the element with the profile's packages, and with its path filters if asked."""
    target = '"${TARGET_ROOT}"/etc'
    settings = [
        "#!/bin/bash",
        "set -eu",
        f"sudo mkdir -p {target}/dpkg/dpkg.cfg.d {target}/apt/preferences.d",
        f"sudo tee {target}/dpkg/dpkg.cfg.d/slim <<'END'",
        f"{recipe.path_filters(without=LOCALES) if filtered else ''}END",
        f"sudo tee {target}/apt/preferences.d/avoid <<'END'",
        f"{recipe.refusals(without=NEEDED)}END",
    ]
    return {
        "element-deps": f"{SYSTEM}\npackage-installs\n",
        "package-installs.yaml": "".join(f"{name}:\n" for name in recipe.packages),
        "root.d/10-node": "\n".join(settings) + "\n",
    }


def firmware() -> str:
    """Return the name of the block device element: ``efi`` (which boots both ways), or ``gpt`` (BIOS only)."""
    return "efi" if has_vfat(Path("/proc/filesystems").read_text()) else "gpt"


def has_vfat(filesystems: str) -> bool:
    """Whether the kernel can mount an ESP, from ``/proc/filesystems``; modules that could be loaded are asked for."""
    if any(line.split()[-1:] == ["vfat"] for line in filesystems.splitlines()):
        return True
    return process.run(["modprobe", "--dry-run", "--quiet", "vfat"], check=False, capture=True).returncode == 0


def has_device_mapper() -> bool:
    """Whether kpartx can work here."""
    return any(line.split()[-1:] == ["device-mapper"] for line in Path("/proc/devices").read_text().splitlines())
