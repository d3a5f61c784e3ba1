"""What one vendor has of its own: release package, boot loaders, signing key, repositories, profile."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.arch import Architecture
from pipeline.profile import Profile, Release, RpmBase
from tests.standin import sets, specs
from tests.standin.cut import Rpm
from tests.standin.debian import run

# In a distribution of two repositories, what is in the second one.
APPSTREAM = (
    "chrony", "cloud-init", "cloud-utils-growpart", "conmon", "conntrack-tools", "crun", "docker-engine", "ipvsadm",
    "nfs-utils", "podman", "socat",
)  # fmt: skip
PRESETS = {
    "90-default.preset": "enable remote-fs.target\nenable getty@.service\nenable sshd.service\nenable chronyd.service\n"
    "enable NetworkManager.service\nenable NetworkManager-dispatcher.service\nenable dbus.socket\n"
    "enable cloud-init-local.service\nenable cloud-init.service\nenable cloud-config.service\n"
    "enable cloud-final.service\nenable systemd-pstore.service\n",
    "99-default-disable.preset": "disable *\n",
}
# What os-facts.md tells of a system that its overlay has to deal with: path -> content.
QUIRKS: dict[str, dict[str, str]] = {
    "kylin": {
        "etc/sysctl.conf": "# Kylin's own settings\nnet.ipv4.ip_forward = 0\nkernel.sysrq = 0\nvm.swappiness = 30\n",
        "etc/.productinfo": "Kylin Linux Advanced Server\nrelease {codename}\n",
        "etc/.kyinfo": "[dist]\nname=Kylin\n",
        "etc/bashrc": "TMOUT=300\nexport TMOUT\n",
        "etc/profile.d/tmout.sh": "readonly TMOUT=600\n",
    },
    "uos": {
        "etc/yum/vars/auth_u": "a-user\n",
        "etc/yum/vars/auth_p": "a-secret\n",
        "etc/yum/vars/StateMode": "ufu\n",
        "etc/UnionTech-release": "UnionTech OS Server release 20\n",
    },
    "centos": {"etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n"},
}
REPO_FILE = """\
[{id}]
name={id}
baseurl={url}
enabled=1
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/{key}
"""


@dataclass(frozen=True)
class Key:
    """A vendor's signing key: its GnuPG home and fingerprint."""

    home: Path
    fingerprint: str

    @property
    def public(self) -> str:
        return run("gpg", "--homedir", self.home, "--armor", "--export", self.fingerprint)


def key_name(system: str) -> str:
    return f"RPM-GPG-KEY-{system}"


def make_key(home: Path, name: str) -> Key:
    home.mkdir(mode=0o700)
    run("gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", "never")
    return read_key(home)


def read_key(home: Path) -> Key:
    listed = run("gpg", "--homedir", home, "--with-colons", "--list-keys")
    found = re.search(r"^fpr:::::::::(\w+):", listed, re.MULTILINE)
    assert found is not None
    return Key(home, found[1])


def sign(files: list[Path], key: Key) -> None:
    """Sign packages, two at a time."""
    words = ["rpmsign", "--addsign", "--define", f"_gpg_name {key.fingerprint}", "--define", "__gpg /usr/bin/gpg"]
    listing = key.home / "files"
    listing.write_text("\0".join(map(str, files)))
    run(
        "xargs",
        "--no-run-if-empty",
        "--null",
        "--max-procs=2",
        "--max-args=40",
        f"--arg-file={listing}",
        *words,
        GNUPGHOME=str(key.home),
    )


def publish(profile: Profile, release_name: str, arch: Architecture, packages: Path, key: Key, target: Path) -> None:
    """Make the repositories of one system for one architecture: ``<target>/<repository id>/``.

    Args:
        profile: the real profile.
        release_name: one of its releases.
        arch: the architecture.
        packages: a set, from :func:`tests.standin.sets.make`.
        key: the vendor's.
        target: directory that gets the repositories.

    Raises:
        RuntimeError: the profile names a package that the stand-in lacks.
    """
    release = profile.releases[release_name]
    assert isinstance(release.base, RpmBase)
    gathered = target / "all"
    shutil.copytree(packages / "rpms", gathered)
    _vendor_packages(profile, release_name, arch, packages, key, gathered)
    _check_names(release, arch, gathered)
    ids = [entry.id for entry in release.base.repositories if not entry.arch or arch in entry.arch]
    sign(sorted(gathered.glob("*.rpm")), key)
    for name in ids:
        (target / name).mkdir()
    for file in sorted(gathered.iterdir()):
        is_app = ids[:2] == ["BaseOS", "AppStream"] and file.name.rsplit("-", 2)[0] in APPSTREAM
        file.rename(target / ids[int(is_app)] / file.name)
    gathered.rmdir()
    updates = [shutil.copy(file, target / ids[-1]) for file in sorted((packages / "updates").glob("*.rpm"))]
    sign([Path(file) for file in updates], key)
    for name in ids:
        run("createrepo_c", "--quiet", target / name)


def _check_names(release: Release, arch: Architecture, rpms: Path) -> None:
    words = ["rpm", "-qp", "--nosignature", "--qf", "%{NAME}\\n[%{PROVIDENAME}\\n]"]
    known = set(run(*words, *sorted(rpms.glob("*.rpm"))).split())
    if missing := {*release.packages, *release.arch[arch].packages} - known:
        raise RuntimeError(f"the stand-in has no {', '.join(sorted(missing))}: add them to tests/standin/names.py")


def _vendor_packages(
    profile: Profile, release_name: str, arch: Architecture, packages: Path, key: Key, target: Path
) -> None:
    release = profile.releases[release_name]
    assert isinstance(release.base, RpmBase)
    work = target.with_name("vendor")
    root = work / "root"
    root.mkdir(parents=True)
    rpms = {
        "release": _release_package(profile, release_name, key, root),
        "grub": _grub_package(release, arch, packages / "tree", root),
        "shim": _shim_package(release, arch, packages / "tree", root),
    }
    made = {rpm.name: rpm for rpm in rpms.values()}
    specs.build(root, made, work / "rpms", arch, "w1.gzdio", specs.Accounts({}, {}))
    for file in (work / "rpms").iterdir():
        shutil.move(file, target / file.name)
    shutil.rmtree(work)


def _written(root: Path, files: Mapping[str, str | bytes]) -> list[str]:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(files)


def _release_package(profile: Profile, release_name: str, key: Key, root: Path) -> Rpm:
    release = profile.releases[release_name]
    base = release.base
    assert isinstance(base, RpmBase)
    known = {"NAME": profile.title, "PRETTY_NAME": f"{profile.title} {release_name} (stand-in)"}
    known |= release.verify.os_release
    text = f"{profile.title} release {release_name} ({release.codename})\n"
    files: dict[str, str | bytes] = {
        "usr/lib/os-release": "".join(f'{name}="{value}"\n' for name, value in known.items()),
        f"etc/{profile.name}-release": text,
        "etc/system-release": text,
        f"etc/pki/rpm-gpg/{key_name(profile.name)}": key.public,
        f"etc/yum.repos.d/{profile.name}.repo": "\n".join(
            REPO_FILE.format(id=entry.id, url=entry.url, key=key_name(profile.name)) for entry in base.repositories
        ),
        "etc/rpm/macros.place": f"%_dbpath /{base.database}\n",
    }
    files |= {f"usr/lib/systemd/system-preset/{name}": content for name, content in PRESETS.items()}
    for path, content in QUIRKS.get(profile.name, {}).items():
        files[path] = content.replace("{codename}", release.codename)
    paths = _written(root, files)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    version = release.verify.os_release.get("VERSION_ID", base.releasever)
    return Rpm(base.release_package, f"{version}-1", {"basesystem"}, (), [*paths, "etc/os-release"])


def _grub_package(release: Release, arch: Architecture, tree: Path, root: Path) -> Rpm:
    path = f"boot/efi/EFI/{release.boot.efi_vendor}/grub{arch.efi}.efi"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    sets.grub_image(tree / f"usr/lib/grub/{arch.grub_efi}", arch, release.boot.efi_vendor, root / path)
    return Rpm(f"grub2-efi-{arch.efi}", "2.06-1", {"grub2-tools"}, ("grub2-efi",), [path])


def _shim_package(release: Release, arch: Architecture, tree: Path, root: Path) -> Rpm:
    signed, suffix = tree / "usr/lib/shim", arch.efi
    vendor, fallback = f"boot/efi/EFI/{release.boot.efi_vendor}", "boot/efi/EFI/BOOT"
    shim = f"shim{suffix}.efi"
    entry = f"{shim},{release.boot.efi_vendor},,This is the boot entry for {release.boot.efi_vendor}\n"
    files: dict[str, str | bytes] = {
        f"{vendor}/{shim}": (signed / f"{shim}.signed").read_bytes(),
        f"{vendor}/mm{suffix}.efi": (signed / f"mm{suffix}.efi.signed").read_bytes(),
        f"{vendor}/BOOT{suffix.upper()}.CSV": entry.encode("utf-16"),
        f"{fallback}/BOOT{suffix.upper()}.EFI": (signed / f"{shim}.signed").read_bytes(),
        f"{fallback}/fb{suffix}.efi": (signed / f"fb{suffix}.efi.signed").read_bytes(),
    }
    return Rpm(f"shim-{suffix}", "15.8-1", set(), ("shim",), _written(root, files))


def stand_in_profile(real: Path, places: Mapping[str, Path], target: Path) -> None:
    """Write a profile that is the real one, but for where its packages are and who signed them.

    Args:
        real: the profile's file.
        places: by release, the directory with ``key/`` and ``<arch as rpm says>/<repository id>``; no other release is
            kept, and the first is the default.
        target: directory that gets the file.
    """
    data: dict[str, Any] = yaml.safe_load(real.read_text())
    data["releases"] = {name: copy.deepcopy(data["releases"][name]) for name in places}
    data["default_release"] = next(iter(places))
    for name, place in places.items():
        key, base = read_key(place / "key"), data["releases"][name]["base"]
        url, file = f"{place.as_uri()}/$basearch", place / key_name(data["name"])
        file.write_text(key.public)
        base["repositories"] = [{**entry, "url": f"{url}/{entry['id']}"} for entry in base["repositories"]]
        base["keys"] = [file.as_uri()]
        base["fingerprints"] = [key.fingerprint]
    written = target / f".{real.name}"
    written.write_text(yaml.dump(data, Dumper=_PlainDumper, sort_keys=False))
    written.rename(target / real.name)


class _PlainDumper(yaml.SafeDumper):
    """Writes no aliases: what one release has changed must not be another's."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  the signature is yaml's
        return True
