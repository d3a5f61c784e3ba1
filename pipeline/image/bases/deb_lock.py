"""What a Debian profile resolves to without installing anything; and an archive of exactly what a lock pins.

mmdebstrap asks apt twice: for the essential packages in an empty system, then for the profile's in one that has these.
So does :func:`resolve`, with an apt that is set up alike. Sources: mmdebstrap(1), apt-get(8) ``--print-uris``,
apt-patterns(7), apt-cache(8), Debian's wiki on the format of repositories.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.core import parallel, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import NetworkError
from pipeline.image import tree
from pipeline.image.bases import deb_apt, locked
from pipeline.image.bases.locked import LockedIndex, LockedPackage
from pipeline.image.bases.sources import Source
from pipeline.profile import DebBase

AT_A_TIME = 8  # programs that look into archives
PRINTED = re.compile(r"^'\S+' ([^_\s]+)_([^_\s]+)_([^_\s]+)\.deb \d+", re.MULTILINE)


def resolve(
    base: DebBase, arch: Architecture, packages: Sequence[str], sources: Sequence[Source], *, workspace: Path
) -> tuple[tuple[LockedPackage, ...], tuple[LockedIndex, ...], int]:
    """Find out what a build would install, without installing it.

    Args:
        base: where it comes from.
        arch: the architecture.
        packages: what is asked for, besides Essential packages and dependencies.
        sources: from :func:`pipeline.image.bases.sources.resolve`.
        workspace: empty directory for intermediate files.

    Returns:
        Every package; the signed index of each suite; and the time of the newest, in seconds since 1970.

    Raises:
        InputError: packages do not exist, or cannot be installed together.
        NetworkError: an index cannot be had, or is not signed by a pinned key.
    """
    env = deb_apt.private_apt(base, arch, sources, workspace)
    # The very words of mmdebstrap, of which the architecture alone may differ.
    essential = _stanzas(env, _wanted(env, [f"?narrow(?architecture({arch.deb}),?essential)"]))
    installed = [text.replace("\n", "\nStatus: install ok installed\n", 1) for text in essential]
    deb_apt.status(workspace).write_text("\n\n".join(installed) + "\n")
    found = [_fields(text) for text in [*essential, *_stanzas(env, _wanted(env, packages))]]
    suites = _suites(env, sources, [fields["Package"] for fields in found])
    releases = [_release_file(source, workspace) for source in sources]
    indexes = tuple(
        LockedIndex(repository=source.suite, url=source.release_url, sha256=tree.file_sha256(file))
        for source, file in zip(sources, releases, strict=True)
    )
    return tuple(_package(fields, suites) for fields in found), indexes, deb_apt.newest_date(releases)


def offered(
    base: DebBase, arch: Architecture, sources: Sequence[Source], names: Sequence[str], workspace: Path
) -> dict[str, str]:
    """Return the versions that would be installed now of packages, by name; one that is not offered is not there.

    Raises:
        PipelineError: the sources cannot be asked.
    """
    env = deb_apt.private_apt(base, arch, sources, workspace)
    words = ["apt-cache", "show", "--no-all-versions", *names]
    shown = process.run(words, env=env, capture=True, check=False, what="asking for versions").stdout
    return {fields["Package"]: fields["Version"] for fields in map(_fields, _split(shown))}


def _wanted(env: Mapping[str, str], words: Sequence[str]) -> list[str]:
    """Return what apt would install for these words, as ``name:architecture=version``."""
    command = ["apt-get", "--yes", "--print-uris", "install", *words]
    printed = deb_apt.run(command, env, what="resolving the packages", capture=True)
    return [f"{name}={unquote(version)}" for name, version, _ in PRINTED.findall(printed)]


def _stanzas(env: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """Return what the indexes say of packages."""
    if not wanted:
        return []
    return _split(deb_apt.run(["apt-cache", "show", *wanted], env, what="reading the package indexes", capture=True))


def _split(text: str) -> list[str]:
    return [stanza for stanza in text.strip().split("\n\n") if stanza]


def _fields(stanza: str) -> dict[str, str]:
    """Return the fields of a stanza that have one line."""
    return dict(re.findall(r"^(\S+): *(.*)$", stanza, re.MULTILINE))


def _suites(env: Mapping[str, str], sources: Sequence[Source], names: Iterable[str]) -> dict[tuple[str, str], Source]:
    """Return where each version of packages comes from, by name and version; the first source that has it counts."""
    listed = deb_apt.run(["apt-cache", "madison", *names], env, what="asking for versions", capture=True)
    known = {(source.uri.rstrip("/"), source.suite): source for source in sources}
    found: dict[tuple[str, str], Source] = {}
    for line in listed.splitlines():
        name, version, place = (word.strip() for word in line.split("|"))
        uri, suite = place.split()[:2]
        source = known.get((uri.rstrip("/"), suite.rpartition("/")[0]))
        if source is not None:
            found.setdefault((name, version), source)
    return found


def _release_file(source: Source, workspace: Path) -> Path:
    """Return the signed index that apt has fetched from a source, by the end of the name that apt gives it."""
    ending = f"_dists_{source.suite.replace('/', '_')}_InRelease"
    found = [file for file in deb_apt.lists(workspace).iterdir() if file.name.endswith(ending)]
    if len(found) != 1:
        raise NetworkError(f"{source.release_url} was not fetched", hint="name another archive with --mirror URL")
    return found[0]


def _package(fields: Mapping[str, str], suites: Mapping[tuple[str, str], Source]) -> LockedPackage:
    source = suites[fields["Package"], fields["Version"]]
    return LockedPackage(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        sha256=fields["SHA256"],
        size=int(fields["Size"]),
        origin=f"{source.uri.rstrip('/')}/{quote(fields['Filename'].removeprefix('./'), safe='/~')}",
        repository=source.suite,
    )


# --- an archive of what is locked


def archive_name(name: str, version: str, architecture: str) -> str:
    """Return how apt calls a downloaded archive."""
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"


def archive(
    base: DebBase,
    arch: Architecture,
    packages: Sequence[LockedPackage],
    sources: Sequence[Source],
    *,
    workspace: Path,
    package_cache: Path,
) -> Path:
    """Fetch what is locked and make an archive of exactly that, for apt to install from.

    Args:
        base: the profile's base, for its keys if the sources are asked what they have instead.
        arch: the architecture.
        packages: what is locked, with where it is fetched from.
        sources: are asked what they have instead.
        workspace: directory for intermediate files.
        package_cache: downloaded packages, shared between builds.

    Returns:
        The archive: a directory that holds packages by apt's names for them, and a flat index.

    Raises:
        NetworkError: packages cannot be had; all of them are named.
        VerificationError: packages have other bytes than when they were locked.
    """

    def place(package: LockedPackage) -> Path:
        return package_cache / archive_name(package.name, package.version, package.architecture)

    def instead(names: Sequence[str]) -> dict[str, str]:
        scratch = workspace / "offered"
        scratch.mkdir()
        return offered(base, arch, sources, names, scratch)

    with progress.step("fetch packages"):
        files = locked.fetch(packages, place, instead)
    target = workspace / "archive"
    target.mkdir()
    ordered = sorted(files, key=lambda package: (package.name, package.version))
    # A name of its own for each file: what another build does to the cache meanwhile does not matter.
    mine = [_linked(files[package], target) for package in ordered]
    index = "\n".join(parallel.each(AT_A_TIME, list(zip(ordered, mine, strict=True)), _stanza)).encode()
    (target / "Packages").write_bytes(index)
    checksum = f"{hashlib.sha256(index).hexdigest()} {len(index)} Packages"
    (target / "Release").write_text(f"Suite: locked\nCodename: locked\nSHA256:\n {checksum}\n")
    return target


def source_line(directory: Path) -> str:
    """Return the line of sources.list for an archive of our own: what it holds was checked by us."""
    return f"deb [trusted=yes] copy:{quote(str(directory))} ./"


def _linked(file: Path, directory: Path) -> Path:
    target = directory / file.name
    try:
        target.hardlink_to(file)
    except OSError:  # another file system
        shutil.copyfile(file, target)
    return target


def _stanza(item: tuple[LockedPackage, Path]) -> str:
    package, file = item
    control = process.run(["dpkg-deb", "--field", file], capture=True, what="reading a package").stdout
    return f"{control}Filename: ./{file.name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
