"""Trees of Debian packages, which the stand-in distributions are cut from.

The tree of this machine's architecture is configured: its maintainer scripts have run. The other architecture's is only
unpacked, natively, and takes what those scripts generate from the first one, so nothing is emulated.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from pipeline.image.bases import sources
from pipeline.profile import DebBase

ARCHIVE_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = {"11": "bullseye", "12": "bookworm"}
SUPPORTED = "12"
# What the profiles name, under Debian's names.
PACKAGES = (
    "apt", "ca-certificates", "chrony", "cloud-guest-utils", "cloud-init", "conntrack", "curl", "dbus", "dnf",
    "dosfstools", "dracut", "dracut-core", "e2fsprogs", "ebtables", "efibootmgr", "ethtool", "file", "grub-common",
    "grub-efi-amd64-bin", "grub-pc-bin", "grub2-common", "iproute2", "ipset", "iptables", "iputils-ping", "ipvsadm",
    "kmod", "less", "libpam-systemd", "login", "mount", "netbase", "network-manager", "nfs-common", "nftables",
    "openssh-client", "openssh-server", "passwd", "podman", "procps", "psmisc", "rpm", "rsync", "shim-signed",
    "socat", "sudo", "systemd-sysv", "tzdata", "udev", "zstd",
)  # fmt: skip
EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/locale/*", "/usr/share/man/*")
TRIPLETS = {Architecture.AMD64: "x86_64-linux-gnu", Architecture.ARM64: "aarch64-linux-gnu"}
MERGE = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh"
# A second kernel for the update test: the newest but the one that is installed.
OTHER_KERNEL = r"""
set -e
names=$(chroot "$1" apt-cache pkgnames linux-image- | grep -E '^linux-image-[0-9.]+-[0-9]+-cloud-@arch@$' | sort -V)
for name in $names; do [ -e "$1/var/lib/dpkg/info/$name.list" ] || other=$name; done
[ -z "$other" ] || chroot "$1" sh -c 'cd /var/cache && apt-get download "$0"' "$other"
"""


@dataclass(frozen=True)
class Deb:
    """A Debian package of a tree.

    Attributes:
        name: its name.
        version: Debian's version.
        depends: names of the packages it needs; of alternatives, all of them.
        essential: whether every system has it.
        paths: what it brought, relative to the root, merged into ``usr``.
    """

    name: str
    version: str
    depends: tuple[tuple[str, ...], ...]
    essential: bool
    paths: tuple[str, ...]


def run(*words: str | Path, **settings: str) -> str:
    env = dict(os.environ) | {"LC_ALL": "C.UTF-8"} | settings
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words[:4]))} … failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def merged(path: str) -> str:
    """Return where a file that a package puts below /bin, /lib or /sbin really is."""
    path = path.removeprefix(".").strip("/")
    first, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and first in {"bin", "sbin", "lib", "lib32", "lib64", "libx32"} else path


def archive(release: str) -> list[str]:
    """Return sources.list lines of a Debian release, from wherever this machine has its packages."""
    base = DebBase.model_validate(
        {"kind": "deb", "suites": ["bookworm", "bookworm-security"], "components": ["main"],
         "keyring": str(ARCHIVE_KEYS), "fingerprints": ["0" * 40]}
    )  # fmt: skip
    main, security = (source.uri for source in sources.resolve(base, None))
    lines = [f"deb {main} {SUITES[release]} main"]
    # The security archive of a release that is no longer supported lists packages that are gone.
    return [*lines, f"deb {security} {SUITES[release]}-security main"] if release == SUPPORTED else lines


def configured(release: str, target: Path, packages: Sequence[str], arch: Architecture) -> list[Deb]:
    """Make a configured tree of this machine's architecture; a second kernel's package lies in its var/cache."""
    hook = target.with_name(f"{target.name}-other-kernel.sh")
    hook.write_text("#!/bin/sh" + OTHER_KERNEL.replace("@arch@", arch.deb))
    hook.chmod(0o755)
    words = ["mmdebstrap", "--mode=root", "--variant=essential", f"--setup-hook={MERGE}"]
    words += [f"--include={','.join([*PACKAGES, *packages, f'linux-image-cloud-{arch.deb}'])}"]
    words += ["--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED)]
    words += [f"--customize-hook={hook}", SUITES[release], str(target), *archive(release)]
    run(*words, INITRD="No", DEBIAN_FRONTEND="noninteractive")
    return list(_installed(target))


def _installed(root: Path) -> Iterator[Deb]:
    form = "${Package}\t${Architecture}\t${Version}\t${Essential}\t${Pre-Depends}\t${Depends}\n"
    info = root / "var/lib/dpkg/info"
    for line in run("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", form).splitlines():
        name, architecture, version, essential, before, depends = line.split("\t")
        listing = info / f"{name}.list"
        if not listing.exists():
            listing = info / f"{name}:{architecture}.list"
        paths = [merged(path) for path in listing.read_text().splitlines()]
        yield Deb(name, version, _depends(before, depends), essential == "yes", _present(root, paths))


def unpacked(release: str, target: Path, like: Sequence[Deb], own: Architecture, arch: Architecture) -> list[Deb]:
    """Unpack the same packages for another architecture; nothing of them is run."""
    debs = target.with_name(f"{target.name}-debs")
    debs.mkdir()
    names = [_other_name(deb.name, own, arch) for deb in like]
    wanted = [name for name in names if not name.startswith(("grub-pc", "usr-is-merged", "linux-image-"))]
    hook = f'cp "$1"/var/cache/apt/archives/*.deb {debs}/'
    words = ["mmdebstrap", "--mode=root", "--variant=extract", f"--architectures={arch.deb}", f"--setup-hook={MERGE}"]
    words += [f"--include={','.join([*wanted, f'linux-image-cloud-{arch.deb}'])}", f"--extract-hook={hook}"]
    run(*words, SUITES[release], target, *archive(release))
    for pattern in EXCLUDED:
        shutil.rmtree(target / pattern.strip("/*"), ignore_errors=True)
    found = [_read(deb, target) for deb in sorted(debs.glob("*.deb"))]
    shutil.rmtree(debs)
    (version,) = [path.name for path in (target / "usr/lib/modules").iterdir()]
    run("depmod", "--basedir", target, version)
    return found


def _other_name(name: str, own: Architecture, other: Architecture) -> str:
    return name.replace(own.deb, other.deb)


def _read(deb: Path, root: Path) -> Deb:
    form = "${Package}\t${Version}\t${Essential}\t${Pre-Depends}\t${Depends}\n"
    shown = run("dpkg-deb", "-W", f"--showformat={form}", deb).rstrip("\n")
    name, version, essential, before, depends = shown.split("\t")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as reader,
        tarfile.open(fileobj=reader.stdout, mode="r|") as content,
    ):
        paths = [merged(member.name) for member in content]
    return Deb(name, version, _depends(before, depends), essential == "yes", _present(root, paths))


def _depends(*fields: str) -> tuple[tuple[str, ...], ...]:
    groups = [group for field in fields for group in field.split(",") if group.strip()]
    return tuple(tuple(re.split(r"[\s(:]", name.strip())[0] for name in group.split("|")) for group in groups)


def _present(root: Path, paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if path and (root / path).exists() | (root / path).is_symlink())
