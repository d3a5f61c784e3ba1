"""A root tree from RPM repositories, by this machine's dnf and the target's own rpm.

Resolving, downloading and unpacking run on this machine whatever the target's architecture is; only scriptlets run
inside the tree, emulated if need be (decision D5). The package database is then written by the target's own rpm, and
read back by it (decision D3). Sources: dnf.conf(5), rpm(8); what newer hosts do to older databases was seen in runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core import download, namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError, ToolError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import kernels, rpm_keys
from pipeline.image.bases.deb import Package
from pipeline.image.bases.repositories import INDEX, Repository
from pipeline.profile import RpmBase

TOOLS = ("dnf", "rpm", "gpg")
RPMS_IN_TREE = "/run/rpms"
DNF_IN_TREE = "run/dnf"  # dnf takes its directories for those of the tree, wherever they are set
# What identifies an installed package beyond its name: the MD5 sum of its header and payload, which every rpm knows.
IDENTITY = "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH} %{SIGMD5}\\n"
ROW = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SIGMD5}\\t%{SOURCERPM}\\t%{VENDOR}\\n"
# What dnf says, the error that it is, and the next action.
TROUBLES: tuple[tuple[re.Pattern[str], type[PipelineError], str], ...] = (
    (
        re.compile("is not signed|Public key for .* is not installed|not correct for this package|GPG check FAILED"),
        VerificationError,
        "every package must be signed by a key of the profile's 'fingerprints'; ask who made this repository",
    ),
    (
        re.compile("Status code: 40[13]"),
        NetworkError,
        "put the repository's user and password into ~/.netrc (see netrc(5)), and check them",
    ),
    (
        re.compile("Failed to download metadata|Cannot download|Error downloading|All mirrors were|checksum"),
        NetworkError,
        "if the repository is being updated right now, try again later; or name another one with --mirror",
    ),
    (
        re.compile("Unable to find a match|No match for argument|nothing provides|conflicts with|cannot install"),
        InputError,
        "correct the packages in the profile, or add the repository that has them",
    ),
)


def check(repositories: Sequence[Repository]) -> None:
    """Check early what an installation needs.

    Raises:
        DependencyError: a tool is missing.
        NetworkError: a repository cannot be had.
    """
    for tool in TOOLS:
        process.require(tool, hint="run ./invoke once: it installs what is missing")
    for repository in repositories:
        if not download.exists(f"{repository.url}/{INDEX}"):
            raise NetworkError(
                f"there is no repository {repository.id!r} at {repository.url} (tried {INDEX})",
                hint="check the profile, or name a mirror with --mirror URL",
            )


def make(
    base: RpmBase,
    arch: Architecture,
    packages: Sequence[str],
    repositories: Sequence[Repository],
    target: Path,
    *,
    workspace: Path,
    package_cache: Path,
) -> None:
    """Make a tree; to be called in the private namespace.

    Args:
        base: where it comes from.
        arch: its architecture.
        packages: what is installed, besides dependencies.
        repositories: from :func:`pipeline.image.bases.repositories.resolve`.
        target: directory that gets ``tree/``, ``packages.json`` and ``origin.json``.
        workspace: empty directory for intermediate files.
        package_cache: downloaded packages and metadata, shared between builds.

    Raises:
        InputError: a package does not exist, or cannot be installed together with the others.
        DependencyError: a signing key was not found.
        NetworkError: something could not be fetched, or is not what the index says.
        VerificationError: a package is not signed by a pinned key, or the target's rpm does not see what was installed.
        ToolError: a tool failed for another reason.
    """
    root, home = target / "tree", workspace / "home"
    home.mkdir()
    _prepare(root, base)
    # Debian's rpm would put the database below the home directory; and languages count before anything is unpacked.
    (home / ".rpmmacros").write_text(f"%_dbpath /{base.database}\n{_languages(base)}")
    keys = rpm_keys.trusted(base, repositories, workspace)
    cache = package_cache / _cache_name(repositories)
    with _in_use(package_cache):
        config = _write_config(base, repositories, keys, workspace)
        _run_dnf(_command(base, arch, packages, config, root), root, home, cache)
        installed = _installed(root, home)
        files = _package_files(installed, [cache, *(item.directory for item in repositories if item.directory)], home)
        epoch = _newest_index(cache)
        _rewrite_database(root, base, _gathered(files, workspace / "rpms"), epoch)
        _check_database(root, set(installed))
        kernels.finish(root)
        rows = [_package(installed[identity], files[identity]) for identity in sorted(installed)]
    (target / "packages.json").write_text(json.dumps([row.model_dump() for row in rows], indent=1) + "\n")
    # It opens a log below /var/log even for this, whatever its configuration says (seen with dnf 4.14).
    words = ["bwrap", "--ro-bind", "/", "/", "--tmpfs", "/var/log", "--", "dnf", "--version"]
    version = process.run(words, capture=True, what="asking dnf for its version").stdout.splitlines()[0]
    (target / "origin.json").write_text(json.dumps({"epoch": epoch, "tool": f"dnf {version}"}, indent=1) + "\n")
    _tidy(root, base)


def _prepare(root: Path, base: RpmBase) -> None:
    for name in ("dev", "proc", "run", "etc/rpm", base.database):
        (root / name).mkdir(parents=True)
    tree.write(root, "etc/rpm/macros.langs", _languages(base))
    kernels.mask(root)


def _languages(base: RpmBase) -> str:
    return f"%_install_langs {':'.join(base.languages)}\n"


def _cache_name(repositories: Sequence[Repository]) -> str:
    return hashlib.sha256("\n".join(item.url for item in repositories).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _in_use(package_cache: Path) -> Iterator[None]:
    """Keep ``clean`` away for a while; the lock ends with its process, however that ends."""
    package_cache.mkdir(parents=True, exist_ok=True)
    lock = os.open(package_cache, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _write_config(base: RpmBase, repositories: Sequence[Repository], keys: Path, workspace: Path) -> Path:
    """Write dnf's whole configuration: nothing of this machine's own may count (dnf.conf(5))."""
    main = {f"{name}dir": f"/{DNF_IN_TREE}/{name}" for name in ("cache", "log", "persist")}
    main |= {
        "assumeyes": "1", "best": "1", "excludepkgs": ",".join(base.avoid), "gpgcheck": "1", "install_weak_deps": "0",
        "keepcache": "1", "localpkg_gpgcheck": "1", "max_parallel_downloads": "8", "metadata_expire": "0",
        "module_platform_id": base.module_platform_id or "", "pluginconfpath": "", "plugins": "0",
        "reposdir": str(workspace / "none"), "retries": "3", "tsflags": "nodocs", "varsdir": str(workspace / "none"),
    }  # fmt: skip
    common = {"gpgkey": keys.as_uri(), "gpgcheck": "1", "repo_gpgcheck": "0"}
    sections = [("main", main)]
    sections += [
        (item.id, {"name": item.id, "baseurl": item.url} | common | _credentials(item.url)) for item in repositories
    ]
    lines = []
    for name, settings in sections:
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in settings.items() if value != ""), ""]
    config = workspace / "dnf.conf"
    config.touch(mode=0o600)
    config.write_text("\n".join(lines))
    return config


def _credentials(url: str) -> dict[str, str]:
    """Return what netrc(5) knows of a repository's host, which dnf itself does not read."""
    import requests  # here, as nearly every command imports this module

    found = requests.utils.get_netrc_auth(url)
    return {"username": found[0], "password": found[1]} if found else {}


def _command(
    base: RpmBase, arch: Architecture, packages: Sequence[str], config: Path, root: Path
) -> list[process.Argument]:
    words: list[process.Argument] = ["dnf", f"--config={config}", f"--installroot={root}", f"--forcearch={arch.rpm}"]
    return [*words, f"--releasever={base.releasever}", "install", base.release_package, *packages]


def _run_dnf(words: Sequence[process.Argument], root: Path, home: Path, cache: Path) -> None:
    """Run dnf with devices and /proc in the tree, which scriptlets need; what it complains of is the error's kind."""
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        if "scriptlet failed" in line:  # dnf goes on, and exits with 0
            progress.note(line.strip())

    sandbox: list[process.Argument] = ["bwrap", "--dev-bind", "/", "/", "--dev", root / "dev", "--proc", root / "proc"]
    sandbox += [
        "--tmpfs",
        root / "run",
        "--bind",
        cache,
        root / DNF_IN_TREE / "cache",
        "--cap-add",
        "ALL",
        "--die-with-parent",
        "--",
    ]
    env = {"HOME": str(home)} | kernels.BYPASS
    cache.mkdir(exist_ok=True)
    try:
        process.run([*sandbox, *words], env=env, network=True, what="making the base tree", on_line=note)
    except ToolError as error:
        for pattern, kind, hint in TROUBLES:
            if found := next((line for line in lines if pattern.search(line)), None):
                raise kind(f"{found.strip()}\n{error.message}", hint=f"{hint}; {error.hint}") from error
        raise


def _installed(root: Path, home: Path) -> dict[str, list[str]]:
    """Return what this machine's rpm has installed: rows of fields, by identity."""
    words = ["rpm", f"--root={root}", "-qa", "--qf", ROW]
    listed = process.run(words, env={"HOME": str(home)}, capture=True, what="listing what was installed").stdout
    rows = [line.split("\t") for line in listed.splitlines() if not line.startswith("gpg-pubkey\t")]
    return {_identity(row): row for row in rows}


def _identity(row: Sequence[str]) -> str:
    return f"{row[0]}-{row[1].partition(':')[2]}.{row[2]} {row[3]}"


def _package_files(installed: dict[str, list[str]], places: Sequence[Path], home: Path) -> dict[str, Path]:
    """Find the file that each package was installed from, by what it is and not by its name."""
    wanted = {identity.partition(" ")[0] for identity in installed}
    candidates = sorted({file for place in places for file in place.rglob("*.rpm") if file.stem in wanted})
    if not candidates:
        raise PipelineError("none of the installed packages is in the cache", hint="try again with an empty cache")
    words: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--nodigest", "--qf", IDENTITY, *candidates]
    known = process.run(words, env={"HOME": str(home)}, capture=True, what="reading packages").stdout.splitlines()
    found = dict(zip(known, candidates, strict=True))
    if missing := sorted(set(installed) - set(found)):
        raise PipelineError(f"the file of {missing[0]} is not in the cache", hint="try again with an empty cache")
    return {identity: found[identity] for identity in installed}


def _gathered(files: dict[str, Path], target: Path) -> Path:
    """Put the packages into one directory, which the target's rpm is shown."""
    target.mkdir()
    for file in files.values():
        try:
            (target / file.name).hardlink_to(file)
        except OSError:  # another file system
            shutil.copyfile(file, target / file.name)
    return target


def _rewrite_database(root: Path, base: RpmBase, files: Path, epoch: int) -> None:
    """Have the target's own rpm write the database over the same files (decision D3).

    From rpm 4.17 the time of installation follows SOURCE_DATE_EPOCH; an older one writes that of this build.
    """
    tree.remove_below(tree.inside(root, base.database))
    script = (
        f"set -e; rpm --initdb; rpm -i --justdb --nodeps --noscripts --notriggers --nosignature --nodigest "
        f"--ignorearch --ignoreos --excludedocs {RPMS_IN_TREE}/*.rpm"
    )
    words = ["/bin/sh", "-c", script]
    env = {"SOURCE_DATE_EPOCH": str(epoch)}
    namespace.in_tree(root, words, env=env, binds=[(files, RPMS_IN_TREE)], what="writing the package database anew")


def _check_database(root: Path, installed: set[str]) -> None:
    """Ask the target's own rpm what it sees."""
    words = ["/bin/sh", "-c", f"rpm -qa --qf '{IDENTITY}'"]
    listed = namespace.in_tree(root, words, capture=True, what="reading the package database").stdout
    seen = {line for line in listed.splitlines() if not line.startswith("gpg-pubkey-")}
    if seen != installed:
        lost, strange = sorted(installed - seen), sorted(seen - installed)
        raise VerificationError(
            f"the target's rpm does not see what was installed: {len(lost)} packages are missing "
            f"({', '.join(lost[:3])}), {len(strange)} are unknown ({', '.join(strange[:3])})",
            hint="see the log of the base step; 'database' in the profile must be where the target's rpm looks",
        )


def _package(row: Sequence[str], file: Path) -> Package:
    name, version, architecture, _, source, vendor = row
    return Package(
        name=name,
        version=version.removeprefix("0:"),
        architecture=architecture,
        sha256=tree.file_sha256(file),
        source=source,
        maintainer=vendor,
    )


def _newest_index(cache: Path) -> int:
    """Return the newest time in the repositories' indexes, in seconds since 1970: the same indexes, the same time."""
    times = [
        int(float(element.text or "0"))
        for index in sorted(cache.glob(f"*/{INDEX}"))
        for element in ElementTree.parse(index).getroot().iterfind("{*}data/{*}timestamp")  # noqa: S314  checked by dnf
    ]
    return max(times)


def _tidy(root: Path, base: RpmBase) -> None:
    """Remove what only the installation needed; nothing of this machine may stay in the image."""
    for name in ("dev", "proc", "run", "var/cache/dnf", "var/cache/yum", "var/cache/ldconfig", "var/lib/dnf"):
        tree.remove_below(tree.inside(root, name))
    tree.remove_files_below(tree.inside(root, "var/log"))
    database = tree.inside(root, base.database)
    for pattern in ("__db.*", ".*.lock"):
        for path in database.glob(pattern):
            path.unlink()
