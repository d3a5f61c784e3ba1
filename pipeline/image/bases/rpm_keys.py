"""Signing keys of RPM packages: accepted by fingerprint, wherever they were found (decision D10)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import download, process
from pipeline.core.errors import DependencyError, NetworkError
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


def trusted(base: RpmBase, repositories: Sequence[Repository], workspace: Path) -> Path:
    """Collect the pinned keys, and only these.

    Args:
        base: the profile's base, with the fingerprints.
        repositories: which may have key files beside them.
        workspace: directory for intermediate files.

    Returns:
        A file with the keys, armored, as rpm imports them.

    Raises:
        DependencyError: a key was not found, has expired or is revoked.
        NetworkError: a key file cannot be had.
    """
    home, result = workspace / "gnupg", workspace / "trusted.asc"
    home.mkdir(mode=0o700)
    words: list[process.Argument] = ["gpg", "--homedir", home, "--batch", "--no-autostart"]
    files = _files(base, repositories, workspace)
    if files:
        # gpg fails if any file holds something else; what counts is which keys are there in the end.
        process.run([*words, "--import", *files], check=False, what="reading the signing keys")
    listed = process.run([*words, "--with-colons", "--list-keys"], capture=True, what="listing the signing keys")
    _check(base, parse(listed.stdout), files)
    process.run([*words, "--armor", "--output", result, "--export", *base.fingerprints], what="exporting trusted keys")
    return result


def _files(base: RpmBase, repositories: Sequence[Repository], workspace: Path) -> list[Path]:
    files = sorted({key for repository in repositories for key in repository.keys})
    for number, url in enumerate(base.keys):
        target = workspace / f"key-{number}"
        try:
            download.fetch(url, target)
        except NetworkError:
            if not files:  # what a mirror has beside it may be all that is needed
                raise
            continue
        files.append(target)
    return files


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
    if missing := [fingerprint for fingerprint in base.fingerprints if fingerprint not in found]:
        where = f"{len(files)} key files hold {', '.join(sorted(found)) or 'no key'}" if files else "no key file found"
        raise DependencyError(f"the signing key {', '.join(missing)} was not found: {where}", hint=hint)
    for key in (found[fingerprint] for fingerprint in base.fingerprints):
        if key.revoked:
            raise DependencyError(f"the signing key {key.fingerprint} is revoked", hint=hint)
        if key.expires is not None and key.expires < time.time():
            day = time.strftime("%Y-%m-%d", time.gmtime(key.expires))
            raise DependencyError(f"the signing key {key.fingerprint} expired on {day}", hint=hint)
