"""A root tree from Debian package repositories, by mmdebstrap.

Resolving, downloading and unpacking run on this machine whatever the target's architecture is; only maintainer
scripts run inside the tree, emulated if need be (decision D5). Sources: mmdebstrap(1), apt-get(8) ``indextargets``,
dpkg(1) ``--root``.
"""

from __future__ import annotations

import email.utils
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.core import download, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, NetworkError, PipelineError, ToolError
from pipeline.image import tree
from pipeline.image.bases import downloads
from pipeline.image.bases.sources import Source
from pipeline.profile import DebBase

HOOKS = Path(__file__).parent / "deb"
TOOLS = ("mmdebstrap", "apt-get", "dpkg", "dpkg-query", "gpg")
NEVER_ASK = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
NO_MORE_KEYS = "no-more-keys"
NO_INITRAMFS = {"INITRD": "No"}  # the boot step makes it once, when everything that goes into it is there
CREDENTIALS = {  # where apt looks for names and passwords; of each, the first one that exists counts
    "Dir::Etc::netrc": (Path.home() / ".netrc", Path("/etc/apt/auth.conf")),
    "Dir::Etc::netrcparts": (Path("/etc/apt/auth.conf.d"),),
}
# What apt says, the error that it is, and the next action.
TROUBLES: tuple[tuple[re.Pattern[str], type[PipelineError], str], ...] = (
    (
        re.compile("Unable to locate package|no installation candidate|held broken packages|Unmet dependencies"),
        InputError,
        "correct the packages in the profile",
    ),
    (
        re.compile("GPG error|is not signed|Failed to fetch|Unable to fetch"),
        NetworkError,
        "if the archive is being updated right now, try again later; or name another one with --mirror URL",
    ),
)
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
    for tool in TOOLS:
        process.require(tool, hint="run ./invoke once: it installs what is missing")
    _check_keys(base)
    for source in sources:
        if not download.exists(source.release_url):
            raise NetworkError(
                f"there is no suite {source.suite!r} at {source.uri} (tried {source.release_url})",
                hint="check the mirror, or name another one with --mirror URL",
            )


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


def private_apt(base: DebBase, arch: Architecture, sources: Sequence[Source], workspace: Path) -> list[str]:
    """Set up an apt of its own, with the profile's sources and keys, and read its indexes.

    Args:
        base: the profile's base.
        arch: for which architecture.
        sources: from :func:`resolve_sources`.
        workspace: empty directory that holds it.

    Returns:
        Options for ``apt-get`` and ``apt-cache``.

    Raises:
        ToolError: the indexes cannot be had.
    """
    root = workspace / "apt"
    for name in (
        "etc/apt/preferences.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg",
    ):
        (root / name).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "etc/apt/sources.list").write_text("\n".join(_source_lines(base, sources)) + "\n")
    settings = {
        "Dir": root,
        "Dir::State::status": root / "var/lib/dpkg/status",
        "Dir::Etc::Trusted": _trusted_keys(base, workspace),
        "APT::Architecture": arch.deb,
        "APT::Architectures": arch.deb,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    words = [f"--option={name}={value}" for name, value in settings.items()]
    process.run(["apt-get", *words, "update"], network=True, what="reading the package indexes")
    return words


def make(
    base: DebBase,
    arch: Architecture,
    packages: Sequence[str],
    sources: Sequence[Source],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
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

    Raises:
        InputError: a package does not exist, or cannot be installed together with the others.
        NetworkError: something could not be fetched, is not signed, or is not what the signed index says.
        ToolError: mmdebstrap failed for another reason; its last lines are in the message.
    """
    with downloads.in_use(package_cache):
        _make(base, arch, packages, sources, target, workspace=workspace, package_cache=package_cache)


def _make(
    base: DebBase,
    arch: Architecture,
    packages: Sequence[str],
    sources: Sequence[Source],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
) -> None:
    releases = workspace / "releases"
    releases.mkdir()
    slim = workspace / "slim"
    slim.write_text(_slim_config(base))
    root = target / "tree"
    settings = {
        "PACKAGES": " ".join(packages),
        "AVOID": " ".join(base.avoid),
        "PACKAGE_CACHE": str(package_cache),
        "SLIM_CONFIG": str(slim),
        "RELEASES": str(releases),
        "DPKG_SPLIT": str(HOOKS / "dpkg-split.sh"),
        "OFFER": str(HOOKS / "offer.sh"),
        "TREE": str(root),
        "SCRATCH": str(workspace),
        "TMPDIR": str(workspace),
    }
    _run_mmdebstrap(_command(base, arch, sources, root, _trusted_keys(base, workspace)), settings)
    installed = installed_packages(root, package_cache)
    (target / "packages.json").write_text(json.dumps([package.model_dump() for package in installed], indent=1) + "\n")
    version = process.run(["mmdebstrap", "--version"], capture=True).stdout.strip()
    origin = {"epoch": _newest_date(releases), "tool": version}
    (target / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")
    _tidy(root)
    _prune(package_cache)


def _run_mmdebstrap(words: Sequence[process.Argument], settings: Mapping[str, str]) -> None:
    """Run mmdebstrap; what apt complains of decides what kind of error it is, and stands in its first line."""
    complaints: list[str] = []

    def note(line: str) -> None:
        if line.startswith(("E: ", "W: GPG error")):
            complaints.append(line[3:])

    env = NEVER_ASK | NO_INITRAMFS | dict(settings)
    try:
        process.run(words, env=env, network=True, what="making the base tree", on_line=note)
    except ToolError as error:
        for pattern, kind, hint in TROUBLES:
            if found := next((line for line in complaints if pattern.search(line)), None):
                raise kind(f"{found}\n{error.message}", hint=f"{hint}; {error.hint}") from error
        raise


def _command(
    base: DebBase, arch: Architecture, sources: Sequence[Source], root: Path, keys: Path
) -> list[process.Argument]:
    words: list[process.Argument] = [
        "mmdebstrap", "--mode=root", "--format=directory", "--variant=essential", f"--architectures={arch.deb}",
        "--skip=essential/unlink,cleanup/reproducible", "--dpkgopt=force-unsafe-io",
        "--aptopt=Acquire::Retries \"3\"", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    ]  # fmt: skip
    # The directory takes the place of /etc/apt/trusted.gpg.d, whose keys would else be trusted besides.
    words += [f"--keyring={keys}", f"--keyring={keys.parent / NO_MORE_KEYS}"]
    words += [f"--aptopt={line}" for line in _machine_connection()]
    words += ['--aptopt=APT::Update::Post-Invoke-Success {"set -f; IFS=; $OFFER";}']  # any path is one word then
    words += [f"--setup-hook={HOOKS / 'setup.sh'}", f"--essential-hook={HOOKS / 'install.sh'}"]
    words += [f"--customize-hook={HOOKS / 'collect.sh'}", "", str(root)]
    return words + _source_lines(base, sources)


def _source_lines(base: DebBase, sources: Sequence[Source]) -> list[str]:
    return [f"deb {source.uri} {source.suite} {' '.join(base.components)}" for source in sources]


def _machine_connection() -> list[str]:
    """Return how this machine's own apt reaches archives (proxies, certificates, credentials), as apt.conf lines."""
    words = ["apt-config", "dump", "--format", '%f "%v";%n']
    dump = process.run(words, capture=True).stdout.splitlines()
    wanted = re.compile(r"^Acquire::https?::\S*(Proxy|CaInfo|CaPath|SslCert|SslKey|Verify-Peer)\S* ", re.IGNORECASE)
    lines = [line for line in dump if wanted.match(line)]
    for key, places in CREDENTIALS.items():
        lines += [f'{key} "{place}";' for place in places if place.exists()][:1]
    return lines


def _trusted_keys(base: DebBase, workspace: Path) -> Path:
    """Export the pinned keys, and only these, for apt to trust."""
    home, keys = workspace / "gnupg", workspace / "trusted.gpg"
    home.mkdir(mode=0o700)
    words: list[process.Argument] = ["gpg", "--homedir", home, "--batch", "--no-default-keyring"]
    words += ["--keyring", base.keyring]
    process.run([*words, "--output", keys, "--export", *base.fingerprints], what="exporting the trusted keys")
    (workspace / NO_MORE_KEYS).mkdir()
    return keys


def _slim_config(base: DebBase) -> str:
    lines = ["# What is left out of this image stays out when packages are updated."]
    lines += [f"path-exclude={pattern}" for pattern in base.exclude]
    lines += [f"path-include={pattern}" for pattern in base.keep]
    return "\n".join(lines) + "\n"


def _newest_date(releases: Path) -> int:
    """Return the newest ``Date`` of the signed indexes, in seconds since 1970: the same indexes, the same time."""
    dates = [
        email.utils.parsedate_to_datetime(match[1]).timestamp()
        for file in sorted(releases.iterdir())
        if (match := re.search(r"^Date: (.+)$", file.read_text(), re.MULTILINE))
    ]
    return int(max(dates))


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
        archive = f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
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
