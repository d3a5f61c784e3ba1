"""A distribution of a few RPMs, made of this machine's own shell and rpm: enough for a real transaction."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ARCH = os.uname().machine
OS_RELEASE = 'ID="tiny"\nNAME=Tiny\nPRETTY_NAME="Tiny 1 (One)"\nVERSION_ID=1\n'
LINKS = ("bin", "sbin", "lib", "lib64")
PROGRAMS = {"bash": ("/usr/bin/bash",), "rpm": ("/usr/bin/rpm", "/usr/bin/rpmdb", "/usr/bin/rpmkeys")}
SPEC = """\
Name: tiny
Version: 1
Release: 1.ty1
Summary: tiny
License: none
Vendor: Tiny
AutoReqProv: no
%define __os_install_post %{nil}
%define _build_id_links none
%define debug_package %{nil}
%description
tiny
"""
SECTION = """
%package -n @name@
Summary: @name@
Version: @version@
AutoReqProv: no
@requires@
%description -n @name@
@name@
@script@
%files -n @name@ -f @list@
"""
SCRIPTS = {
    "greeter": "%post -n greeter\necho hello from $HOSTTYPE >/etc/greeting </dev/null\n",
    # As an old one does it, whatever plugins of kernel-install say.
    "kernel": "%posttrans -n kernel\necho $KERNEL_INSTALL_BYPASS >/boot/initramfs-2-1.ty1.img </dev/null\n",
}
VERSIONS = {"kernel": "2", "kernel-old": "1.9"}
KERNELS = {name: f"{version}-1.ty1.{ARCH}" for name, version in VERSIONS.items()}
REQUIRES = {
    "greeter": "Requires: bash",
    "bash": "Requires: filesystem\nRequires: libraries\nProvides: /bin/sh",
    "rpm": "Requires: libraries",
    "impossible": "Requires: nobody-has-this",
    "kernel": "Requires: bash",
    "kernel-old": "Requires: bash",
}


@dataclass(frozen=True)
class Distribution:
    """Signed packages with their metadata, not to be changed, and the keys."""

    repository: Path
    home: Path
    key: str
    other_key: str

    def copy(self, target: Path) -> Path:
        shutil.copytree(self.repository, target)
        return target


def make_distribution(work: Path) -> Distribution:
    """Make keys, packages and a repository of them."""
    home = work / "gnupg"
    key, other = make_key(home, "Tiny"), make_key(home, "Somebody else")
    made = make_rpms(work, run("gpg", "--homedir", home, "--armor", "--export", key))
    publish(made, work / "repository", home, key)
    return Distribution(work / "repository", home, key, other)


def run(*words: str | Path, **settings: str) -> str:
    env = dict(os.environ) | settings
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, env=env)
    return done.stdout


def make_key(home: Path, name: str, expires: str = "never") -> str:
    """Make a signing key in a GnuPG home; returns its fingerprint."""
    home.mkdir(mode=0o700, exist_ok=True)
    run("gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-gen-key", name, "rsa2048", "sign", expires)
    listed = run("gpg", "--homedir", home, "--with-colons", "--list-keys", name)
    found = re.search(r"^fpr:::::::::(\w+):", listed, re.MULTILINE)
    assert found is not None
    return found[1]


def make_rpms(work: Path, key: str, arch: str = ARCH) -> Path:
    """Build the packages, unsigned, with the public key in the release package; returns their directory.

    Those of another architecture say that they are; their programs are this machine's.
    """
    root, specs = work / "root", SPEC
    lists: dict[str, list[str]] = {"impossible": [], "gone": [], "filesystem": [], "libraries": []}
    for link in LINKS:
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
        lists["filesystem"].append(f"/{link}")
    for name, programs in PROGRAMS.items():
        lists[name] = [_copied(Path(program), root) for program in programs]
        libraries = re.findall(r"(/\S+) \(0x", run("ldd", *programs))
        lists["libraries"] += [_copied(Path(library), root) for library in libraries]
    (root / "usr/bin/sh").symlink_to("bash")
    lists["bash"].append("/usr/bin/sh")
    shutil.copytree("/usr/lib/rpm", root / "usr/lib/rpm", symlinks=True)
    lists["rpm"] += ["/usr/lib/rpm", _written(root, "etc/rpm/macros.place", "%_dbpath /var/lib/rpm\n")]
    lists["tiny-release"] = [
        _written(root, "etc/os-release", OS_RELEASE),
        _written(root, "etc/pki/rpm-gpg/RPM-GPG-KEY-in-package", key),
    ]
    lists["shim"] = [_written(root, f"boot/efi/EFI/{name}/shim.efi", "MZ") for name in ("BOOT", "Tiny")]
    lists["odd-firmware"] = [_written(root, "usr/lib/firmware/odd.bin", "x")]
    for name, version in KERNELS.items():
        files = {"vmlinuz": name, "kernel/one.ko": "x", "modules.dep": ""}
        for path, text in files.items():
            _written(root, f"usr/lib/modules/{version}/{path}", text)
        lists[name] = [f"/usr/lib/modules/{version}"]
    lists["greeter"] = [_written(root, "etc/greeter.conf", "hello\n")]
    for name, paths in lists.items():
        paths.append(_written(root, f"usr/share/tiny/{name}", "no list of files may be empty\n"))
        listing = work / f"{name}.list"
        listing.write_text("".join(f"{path}\n" for path in sorted(set(paths))))
        values = {
            "name": name,
            "version": VERSIONS.get(name, "1"),
            "requires": REQUIRES.get(name, ""),
            "script": SCRIPTS.get(name, ""),
            "list": str(listing),
        }
        section = SECTION
        for word, value in values.items():
            section = section.replace(f"@{word}@", value)
        specs += section
    (work / "tiny.spec").write_text(specs + f"\n%install\ncp -a {root}/. %{{buildroot}}/\n")
    words = ["rpmbuild", "-bb", "--define", f"_topdir {work}/top", "--define", f"_dbpath {work}/db"]
    run(*words, "--define", "_binary_payload w1.gzdio", "--target", f"{arch}-linux", work / "tiny.spec")
    return work / "top/RPMS" / arch


def _copied(source: Path, root: Path) -> str:
    """Copy a program or library, to where a merged /usr has it; returns its path in the tree."""
    path = source if source.parts[1] == "usr" else Path("/usr") / source.relative_to("/")
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source.resolve(), target)
    return str(path)


def _written(root: Path, path: str, text: str) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return f"/{path}"


def sign(files: list[Path], home: Path, key: str) -> None:
    """Sign packages."""
    run(
        "rpmsign",
        "--addsign",
        "--define",
        f"_gpg_name {key}",
        "--define",
        "__gpg /usr/bin/gpg",
        *files,
        GNUPGHOME=str(home),
    )


def publish(rpms: Path, target: Path, home: Path, key: str) -> None:
    """Make a repository of signed packages, with the key beside it."""
    shutil.copytree(rpms, target)
    sign(sorted(target.glob("*.rpm")), home, key)
    index(target)
    (target / "RPM-GPG-KEY-tiny").write_text(run("gpg", "--homedir", home, "--armor", "--export", key))


def index(repository: Path) -> None:
    """Make a repository's metadata."""
    run("createrepo_c", "--quiet", repository)


def make_other(work: Path, name: str, version: str, more: str = "") -> Path:
    """Build a package of a name that the distribution has, with other content and more lines in its specification.

    Returns the unsigned file.
    """
    section = SECTION.partition("%files")[0] + "%files -n @name@\n"
    for word, value in {"name": name, "version": version, "requires": more, "script": ""}.items():
        section = section.replace(f"@{word}@", value)
    (work / "other.spec").write_text(SPEC + section)
    words = ["rpmbuild", "-bb", "--define", f"_topdir {work}/other", "--define", f"_dbpath {work}/db"]
    run(*words, "--target", f"{ARCH}-linux", work / "other.spec")
    (made,) = (work / "other/RPMS" / ARCH).glob(f"{name}-{version}-*.rpm")
    return made
