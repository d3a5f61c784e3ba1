"""A root tree from Debian package repositories, by mmdebstrap.

Resolving, downloading and unpacking run on this machine whatever the target's architecture is; only maintainer
scripts run inside the tree, emulated if need be (decision D5). Sources: mmdebstrap(1), apt-get(8) ``indextargets``,
dpkg(1) ``--root``.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.core import download, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, NetworkError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import deb_apt, deb_lock, downloads, native, plain
from pipeline.image.bases.locked import LockedPackage
from pipeline.image.bases.sources import Source
from pipeline.profile import DebBase

HOOKS = Path(__file__).parent / "deb"
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh"
OFFERED = "I: downloading packages with apt..."  # what mmdebstrap says next after offer.sh has run
TOOLS = ("mmdebstrap", "apt-get", "dpkg", "dpkg-deb", "dpkg-query", "gpg")
# What scripts of packages make at random, for each machine to have its own: the same packages, the same tree.
RANDOM = ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id")
NO_INITRAMFS = {"INITRD": "No"}  # the boot step makes it once, when everything that goes into it is there
KEEP_PACKAGES_SECONDS = 90 * 24 * 3600


class Package(BaseModel):
    """An installed package.

    Attributes:
        name: its name.
        version: its full version.
        architecture: its own architecture, which may be ``all``.
        sha256: of the archive it was installed from.
        source: the source package it was built from.
        maintainer: who packages it.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    architecture: str
    sha256: str
    source: str
    maintainer: str


def check(base: DebBase, sources: Sequence[Source]) -> None:
    """Check early what a download needs.

    Raises:
        DependencyError: a tool, the keyring or one of its keys is missing.
        NetworkError: a suite cannot be had.
    """
    check_tools()
    _check_keys(base)
    for source in sources:
        if not download.exists(source.release_url):
            raise NetworkError(
                f"there is no suite {source.suite!r} at {source.uri} (tried {source.release_url})",
                hint="check the mirror, or name another one with --mirror URL",
            )


def check_tools() -> None:
    """Raise DependencyError if a tool is missing."""
    for tool in TOOLS:
        process.require(tool, hint="run ./invoke once: it installs what is missing")


def _check_keys(base: DebBase) -> None:
    if not Path(base.keyring).exists():
        raise DependencyError(
            f"the keyring {base.keyring} is missing", hint="install the package debian-archive-keyring"
        )
    with tempfile.TemporaryDirectory() as home:
        words = ["gpg", "--homedir", home, "--no-default-keyring", "--keyring", base.keyring, "--with-colons"]
        listed = process.run([*words, "--list-keys"], capture=True, what="reading the keyring").stdout
    missing = [key for key in base.fingerprints if f"fpr:::::::::{key}:" not in listed]
    if missing:
        raise DependencyError(
            f"{base.keyring} lacks the signing key {', '.join(missing)}",
            hint="update the package debian-archive-keyring, or correct 'fingerprints' in the profile",
        )


def make(
    base: DebBase,
    arch: Architecture,
    packages: Sequence[str],
    sources: Sequence[Source],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
    locked: Sequence[LockedPackage] | None = None,
    programs: Path | None = None,
) -> None:
    """Make a tree; to be called in the private namespace.

    Args:
        base: where it comes from.
        arch: its architecture.
        packages: what is installed, besides Essential packages and dependencies.
        sources: from :func:`resolve_sources`.
        target: directory that gets ``tree/``, ``packages.json`` and ``origin.json``.
        workspace: empty directory for intermediate files.
        package_cache: downloaded packages, shared between builds.
        locked: exactly what is installed, and where it is fetched from; None for what the sources have now.
        programs: those of this machine's architecture that scripts in a foreign tree get, from :mod:`native`.

    Raises:
        InputError: a package does not exist, or cannot be installed together with the others.
        NetworkError: something could not be fetched, is not signed, or is not what the signed index says.
        VerificationError: a package is not what was locked, or something else got into the tree.
        ToolError: mmdebstrap failed for another reason; its last lines are in the message.
    """
    releases = workspace / "releases"
    releases.mkdir()
    with downloads.in_use(package_cache):
        if locked is None:
            keys = deb_apt.trusted_keys(base, workspace)
            # The directory takes the place of /etc/apt/trusted.gpg.d, whose keys would else be trusted besides.
            words = [f"--keyring={keys}", f"--keyring={keys.parent / deb_apt.NO_MORE_KEYS}"]
            words += [f"--aptopt={line}" for line in deb_apt.machine_connection()]
            command = _command(arch, target / "tree", words, deb_apt.source_lines(base, sources))
            installed = _install(base, packages, command, target, workspace, package_cache, programs)
        else:
            archive = deb_lock.archive(base, arch, locked, sources, workspace=workspace, package_cache=package_cache)
            command = _command(arch, target / "tree", [], [deb_lock.source_line(archive)])
            installed = _install(base, packages, command, target, workspace, archive, programs)
            _check(installed, locked)
        _prune(package_cache)
    (target / "packages.json").write_text(json.dumps([package.model_dump() for package in installed], indent=1) + "\n")
    version = process.run(["mmdebstrap", "--version"], capture=True).stdout.strip()
    epoch = deb_apt.newest_date(sorted(releases.iterdir())) if locked is None else 0  # a lock has its own
    (target / "origin.json").write_text(json.dumps({"epoch": epoch, "tool": version}, indent=1) + "\n")
    _tidy(target / "tree")


def _install(
    base: DebBase,
    packages: Sequence[str],
    command: Sequence[process.Argument],
    target: Path,
    workspace: Path,
    package_cache: Path,
    programs: Path | None,
) -> tuple[Package, ...]:
    """Run mmdebstrap; returns what is installed then."""
    slim = workspace / "slim"
    slim.write_text(_slim_config(base))
    root, decompressed = target / "tree", workspace / "decompressed"
    settings = {
        "PACKAGES": " ".join(packages),
        "AVOID": " ".join(base.avoid),
        "PACKAGE_CACHE": str(package_cache),
        "SLIM_CONFIG": str(slim),
        "RELEASES": str(workspace / "releases"),
        "DPKG_SPLIT": str(HOOKS / "dpkg-split.sh"),
        "OFFER": str(HOOKS / "offer.sh"),
        "TREE": str(root),
        "DECOMPRESSED": str(decompressed),
        "NATIVE": _native_list(workspace, programs),
        "SCRATCH": str(workspace),
        "TMPDIR": str(workspace),
    }
    with plain.ahead(root / "var/cache/apt/archives", decompressed) as begin:

        def follow(line: str) -> None:
            if line == OFFERED:
                begin()

        deb_apt.run(command, NO_INITRAMFS | settings, what="making the base tree", on_line=follow)
    return installed_packages(root, package_cache)


def _native_list(workspace: Path, programs: Path | None) -> str:
    """Write down for dpkg-split.sh what is shown where, and return the file; empty for nothing."""
    if programs is None:
        return ""
    listed = workspace / "native"
    listed.write_text("".join(f"{path}\t{place}\n" for path, place in native.binds(programs, Architecture.host())))
    return str(listed)


def _command(
    arch: Architecture, root: Path, options: Sequence[process.Argument], sources: Sequence[str]
) -> list[process.Argument]:
    words: list[process.Argument] = [
        "mmdebstrap", "--mode=root", "--format=directory", "--variant=essential", f"--architectures={arch.deb}",
        "--skip=essential/unlink,cleanup/reproducible", "--dpkgopt=force-unsafe-io",
        "--aptopt=Acquire::Retries \"3\"", f"--setup-hook={MERGED_USR}", *options,
    ]  # fmt: skip
    words += ['--aptopt=APT::Update::Post-Invoke-Success {"set -f; IFS=; $OFFER";}']  # any path is one word then
    words += [f"--setup-hook={HOOKS / 'setup.sh'}", f"--extract-hook={HOOKS / 'slim.sh'}"]
    words += [f"--essential-hook={HOOKS / 'install.sh'}", f"--customize-hook={HOOKS / 'collect.sh'}", "", str(root)]
    return [*words, *sources]


def _check(installed: Sequence[Package], locked: Sequence[LockedPackage]) -> None:
    """Refuse a tree that holds anything but what is locked."""
    found = {(item.name, item.version, item.architecture, item.sha256) for item in installed}
    wanted = {(item.name, item.version, item.architecture, item.sha256) for item in locked}
    if found != wanted:
        lost = ", ".join(sorted(" ".join(item[:3]) for item in wanted - found)) or "nothing"
        strange = ", ".join(sorted(" ".join(item[:3]) for item in found - wanted)) or "nothing"
        raise VerificationError(
            f"the tree is not what is locked: it lacks {lost}; it has besides {strange}",
            hint="this machine's apt resolves in another way: make the lock with it, ./invoke lock --update",
        )


def _slim_config(base: DebBase) -> str:
    lines = ["# What is left out of this image stays out when packages are updated."]
    lines += [f"path-exclude={pattern}" for pattern in base.exclude]
    lines += [f"path-include={pattern}" for pattern in base.keep]
    return "\n".join(lines) + "\n"


def installed_packages(root: Path, package_cache: Path | None = None) -> tuple[Package, ...]:
    """Read a tree's package database.

    Args:
        root: the tree.
        package_cache: archives that the packages were installed from, to hash; without it ``sha256`` stays empty.
    """
    form = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${Maintainer}\t${db:Status-Status}\n"
    words = ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat", form]
    packages = []
    for line in process.run(words, capture=True, what="reading the package database").stdout.splitlines():
        name, version, architecture, source, maintainer, status = line.split("\t")
        if status != "installed":
            raise DependencyError(f"package {name} is {status}, not installed", hint="see the log of the base step")
        archive = deb_lock.archive_name(name, version, architecture)
        sha256 = tree.file_sha256(package_cache / archive) if package_cache else ""
        packages.append(
            Package(name=name, version=version, architecture=architecture, sha256=sha256, source=source,
                    maintainer=maintainer)
        )  # fmt: skip
    return tuple(packages)


def _tidy(root: Path) -> None:
    """Remove what only the installation needed; nothing of this machine may stay in the image."""
    for name in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/apt/preferences.d/avoid"):
        (root / name).unlink(missing_ok=True)
    for name in ("etc/hostname", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
    # The same packages, the same tree: logs and caches have times and inode numbers, and only root can make devices,
    # which a running system finds in the kernel's own /dev.
    for name in ("dev", "var/cache/apt/archives", "var/cache/ldconfig", "var/lib/apt/lists"):
        tree.remove_below(root / name)
    tree.remove_files_below(root / "var/log")
    for pattern in RANDOM:
        for path in root.glob(pattern):
            path.unlink()
    if (root / "etc/machine-id").exists():
        (root / "etc/machine-id").write_text("")
    (root / "etc/apt/sources.list").write_text(
        "# No archive is set here: the site names its own (see cloud-init's 'apt').\n"
    )


def _prune(package_cache: Path) -> None:
    """Remove archives that no build has used for a long time."""
    oldest = time.time() - KEEP_PACKAGES_SECONDS
    for archive in package_cache.glob("*.deb"):
        if max(archive.stat().st_atime, archive.stat().st_ctime) < oldest:
            progress.log(f"removing {archive.name} from the package cache: unused")
            archive.unlink(missing_ok=True)
