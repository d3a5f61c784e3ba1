"""Where the packages of a Debian tree come from: this machine's own apt sources, or a mirror."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from pipeline.core import download, process
from pipeline.core.errors import DependencyError, InputError
from pipeline.core.network import redact
from pipeline.profile import DebBase


class Source(BaseModel):
    """One line of sources.list, resolved.

    Attributes:
        uri: the archive's root, without credentials.
        suite: directory below ``dists/``.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    suite: str

    @property
    def release_url(self) -> str:
        """URL of the suite's signed index."""
        return f"{self.uri.rstrip('/')}/dists/{self.suite}/InRelease"


def resolve(base: DebBase, mirror: str | None) -> tuple[Source, ...]:
    """Find where each suite of a profile comes from.

    Args:
        base: the profile's base.
        mirror: archive that replaces this machine's apt sources, or None. Security suites are looked for in the
            directory ``debian-security`` beside it, then in the archive itself.

    Raises:
        InputError: the mirror's URL carries a password.
        DependencyError: this machine has no apt, or its sources lack a suite.
    """
    if mirror is not None:
        return tuple(_on_mirror(mirror, suite) for suite in base.suites)
    known = _machine_sources()
    missing = [suite for suite in base.suites if suite not in known]
    if missing:
        raise DependencyError(
            f"this machine's apt sources do not offer {', '.join(missing)}",
            hint="name a Debian archive with --mirror URL, or add the suite to the apt sources ('apt-get update')",
        )
    return tuple(Source(uri=known[suite], suite=suite) for suite in base.suites)


def _machine_sources() -> dict[str, str]:
    """Return the archive of each suite that this machine's own apt knows.

    apt parses its sources itself: it prints what an update would fetch, which needs no privileges and no network.
    """
    process.require("apt-get", hint="this machine has no apt of its own: name a Debian archive with --mirror URL")
    printed = process.run(["apt-get", "update", "--print-uris"], capture=True, what="asking apt for its sources").stdout
    found: dict[str, str] = {}
    for uri, suite in re.findall(r"^'(\S+?/)dists/(\S+)/InRelease'", printed, re.MULTILINE):
        if redact(uri) != uri:
            raise InputError(
                f"this machine's apt source for {suite} carries a password", hint="put it in /etc/apt/auth.conf instead"
            )
        found.setdefault(suite, uri)
    return found


def _on_mirror(mirror: str, suite: str) -> Source:
    if redact(mirror) != mirror:
        raise InputError(
            "--mirror must not carry a password or a query", hint="put the credentials in ~/.netrc (see netrc(5))"
        )
    archive = mirror.rstrip("/")
    if suite.endswith("-security"):
        beside = Source(uri=f"{archive.rpartition('/')[0]}/debian-security", suite=suite)
        return Source(uri=archive, suite=suite) if not download.exists(beside.release_url) else beside
    return Source(uri=archive, suite=suite)
