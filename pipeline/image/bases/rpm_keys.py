"""Signing keys of RPM packages: accepted by fingerprint, wherever they were found (decision D10)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import download, process, progress
from pipeline.core.errors import DependencyError, NetworkError, ToolError, VerificationError
from pipeline.core.network import HASTY
from pipeline.image import tree
from pipeline.image.bases import indexes, rpmdb
from pipeline.image.bases.repositories import Repository
from pipeline.profile import RpmBase


@dataclass(frozen=True)
class Key:
    """A primary key.

    Attributes:
        fingerprint: 40 hexadecimal digits, capitals.
        expires: seconds since 1970; None if it does not.
        revoked: whether its owner took it back.
    """

    fingerprint: str
    expires: int | None
    revoked: bool


def trusted(base: RpmBase, repositories: Sequence[Repository], workspace: Path, *, files: Sequence[Path] = ()) -> Path:
    """Collect the pinned keys, and only these.

    Args:
        base: the profile's base, with the fingerprints.
        repositories: which may have key files beside them.
        workspace: directory for intermediate files.
        files: more files that may hold keys.

    Returns:
        A file with the keys, armored, as rpm imports them.

    Raises:
        DependencyError: a key was not found, has expired or is revoked.
        NetworkError: a repository cannot be asked for packages that hold keys.
    """
    home, result = workspace / "gnupg", workspace / "trusted.asc"
    home.mkdir(mode=0o700)
    words: list[process.Argument] = ["gpg", "--homedir", home, "--batch", "--no-autostart"]
    tried: list[Path] = []
    found: dict[str, Key] = {}
    for more in itertools.chain([list(files)], _files(base, repositories, workspace)):
        tried += more
        found = _imported(words, more)
        if found.keys() >= set(base.fingerprints):
            break
    _check(base, found, tried)
    process.run([*words, "--armor", "--output", result, "--export", *base.fingerprints], what="exporting trusted keys")
    return result


def _imported(words: Sequence[process.Argument], files: Sequence[Path]) -> dict[str, Key]:
    """Read key files into a GnuPG home; returns which keys are in it then."""
    if files:
        # gpg fails if any file holds something else; what counts is which keys are there in the end.
        process.run([*words, "--import", *files], check=False, what="reading the signing keys")
    listed = process.run([*words, "--with-colons", "--list-keys"], capture=True, what="listing the signing keys")
    return parse(listed.stdout)


def check_signatures(files: Sequence[Path], keys: Path, workspace: Path) -> None:
    """Have rpm check every signature against the pinned keys, and nothing else (rpmkeys(8)).

    Args:
        files: packages.
        keys: from :func:`trusted`.
        workspace: directory for intermediate files.

    Raises:
        VerificationError: a package is not signed, or by another key, or damaged.
    """
    keyring = workspace / "keyring"
    keyring.mkdir()
    words: list[process.Argument] = ["rpmkeys", f"--define=_dbpath {keyring}", "--define=_pkgverify_level all"]
    process.run([*words, "--import", keys], what="reading the trusted keys")
    bad: list[str] = []

    def note(line: str) -> None:
        if "NOT OK" in line:
            bad.append(line.strip())

    try:
        process.run([*words, "--checksig", *files], what="checking signatures", on_line=note)
    except ToolError as error:
        raise VerificationError(
            f"{Path(bad[0]).name if bad else 'a package'} is not signed by a key of the profile\n{error.message}",
            hint="every package must be signed by a key of the profile's 'fingerprints'; ask who made this repository",
        ) from error


def in_packages(repositories: Sequence[Repository], workspace: Path) -> list[Path]:
    """Return the key files that packages of repositories bring: a distribution's release package has its keys.

    They prove nothing by being there; what counts is their fingerprints.

    Args:
        repositories: where to look.
        workspace: directory for intermediate files.

    Raises:
        NetworkError: an index or a package cannot be had.
    """
    found: list[Path] = []
    for repository in repositories:
        fetch = indexes.fetcher(repository, workspace)
        having = [item for item in indexes.packages(fetch) if any(map(_is_key, item.files))]
        for name in sorted({item.name for item in having}):
            newest = max((item for item in having if item.name == name), key=lambda item: item.built)
            root = rpmdb.unpacked([fetch(newest.path)], workspace / f"keys-{repository.id}-{name}", workspace)
            places = [tree.inside(root, path) for path in newest.files if _is_key(path)]
            found += [place for place in places if place.is_file()]
    return found


def in_files(files: Sequence[Path], workspace: Path) -> list[Path]:
    """Return the key files that packages on this machine bring; see :func:`in_packages`.

    Args:
        files: the packages.
        workspace: directory for intermediate files.
    """
    form = r"[%{=NVRA}\t%{FILENAMES}\n]"
    words: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--nodigest", "--qf", form, *files]
    listing = process.run(words, capture=True, what="listing files of packages").stdout
    rows = [line.partition("\t") for line in listing.splitlines()]
    paths = [(name, path) for name, _, path in rows if _is_key(path)]
    having = [file for file in files if file.stem in {name for name, _ in paths}]
    if not having:
        return []
    root = rpmdb.unpacked(having, workspace / "keys-in-packages", workspace)
    places = [tree.inside(root, path) for _, path in paths]
    return [place for place in places if place.is_file()]


def _is_key(path: str) -> bool:
    return path.startswith(indexes.KEY_DIRECTORY)


def _files(base: RpmBase, repositories: Sequence[Repository], workspace: Path) -> Iterator[list[Path]]:
    """Yield key files from one kind of place after the other, those that cost nothing first."""
    yield sorted({key for repository in repositories for key in repository.keys})
    here = [item for item in repositories if item.directory or item.proxy]
    yield in_packages(here, workspace)
    for number, url in enumerate(base.keys):
        target = workspace / f"key-{number}"
        try:
            download.fetch(url, target, patience=HASTY)
        except NetworkError as error:  # the keys may be in a package, too
            progress.log(f"{error.message}; other places are tried")
            continue
        yield [target]
    yield in_packages([item for item in repositories if item not in here], workspace)


def parse(listing: str) -> dict[str, Key]:
    """Read ``gpg --with-colons --list-keys`` (doc/DETAILS of GnuPG): primary keys by fingerprint."""
    found: dict[str, Key] = {}
    primary: list[str] | None = None
    for line in listing.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub"):
            primary = fields if fields[0] == "pub" else None
        elif fields[0] == "fpr" and primary is not None:
            expires = int(primary[6]) if primary[6] else None
            found[fields[9]] = Key(fields[9], expires, primary[1] == "r")
            primary = None
    return found


def _check(base: RpmBase, found: dict[str, Key], files: Sequence[Path]) -> None:
    hint = "compare the vendor's announcement of keys with 'keys' and 'fingerprints' in the profile"
    missing = [fingerprint for fingerprint in base.fingerprints if fingerprint not in found]
    if len(missing) == len(base.fingerprints):
        where = f"{len(files)} key files hold {', '.join(sorted(found)) or 'no key'}" if files else "no key file found"
        raise DependencyError(f"the signing key {', '.join(missing)} was not found: {where}", hint=hint)
    if missing:  # a medium of one architecture need not have the other's; a package that is signed by it is refused
        progress.note(f"the signing key {', '.join(missing)} was not found; packages that it signed will be refused")
    for key in (found[fingerprint] for fingerprint in base.fingerprints if fingerprint in found):
        if key.revoked:
            raise DependencyError(f"the signing key {key.fingerprint} is revoked", hint=hint)
        if key.expires is not None and key.expires < time.time():
            day = time.strftime("%Y-%m-%d", time.gmtime(key.expires))
            raise DependencyError(f"the signing key {key.fingerprint} expired on {day}", hint=hint)
