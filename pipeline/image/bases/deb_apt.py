"""An apt of its own, with a profile's sources and keys and none of this machine's settings.

It resolves as the apt does that mmdebstrap runs: it is set up alike. Sources: apt.conf(5), apt_preferences(5),
apt-get(8), and what mmdebstrap 1.3 writes.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError, ToolError
from pipeline.image.bases.sources import Source
from pipeline.profile import DebBase

NEVER_ASK = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}
NO_MORE_KEYS = "no-more-keys"
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


def private_apt(base: DebBase, arch: Architecture, sources: Sequence[Source], workspace: Path) -> dict[str, str]:
    """Set up an apt of its own, with the profile's sources and keys, and read its indexes.

    Args:
        base: the profile's base.
        arch: for which architecture.
        sources: from :func:`pipeline.image.bases.sources.resolve`.
        workspace: empty directory that holds it.

    Returns:
        Environment for ``apt-get`` and ``apt-cache``.

    Raises:
        NetworkError: the indexes cannot be had, or are not signed by a pinned key.
        ToolError: apt failed for another reason.
    """
    root = workspace / "apt"
    for name in (
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/lib/dpkg",
    ):
        (root / name).mkdir(parents=True)
    status(workspace).touch()
    (root / "etc/apt/sources.list").write_text("\n".join(source_lines(base, sources)) + "\n")
    (root / "etc/apt/preferences.d/avoid").write_text("".join(_never(name) for name in base.avoid))
    keys = trusted_keys(base, workspace)
    settings = {
        "Dir": root,
        "Dir::State::status": status(workspace),
        "Dir::Etc::Trusted": keys,
        "Dir::Etc::TrustedParts": keys.parent / NO_MORE_KEYS,
        "APT::Architecture": arch.deb,
        "APT::Architectures": arch.deb,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "pkgCacheGen::ForceEssential": ",",  # apt takes itself for essential
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()] + machine_connection()
    config = workspace / "apt.conf"
    config.write_text("\n".join(lines) + "\n")
    env = {"APT_CONFIG": str(config)}
    run(["apt-get", "--error-on=any", "update"], env, what="reading the package indexes")
    return env


def status(workspace: Path) -> Path:
    """Return the file that tells a private apt what is installed."""
    return workspace / "apt/var/lib/dpkg/status"


def lists(workspace: Path) -> Path:
    """Return the directory that has a private apt's indexes."""
    return workspace / "apt/var/lib/apt/lists"


def _never(package: str) -> str:
    return f"Package: {package}\nPin: release *\nPin-Priority: -1\n\n"


def run(
    words: Sequence[process.Argument],
    settings: Mapping[str, str],
    *,
    what: str,
    capture: bool = False,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Run a program that runs apt: what apt complains of decides what kind of error it is, and begins its message.

    Args:
        words: program and arguments.
        settings: variables of its environment.
        what: what it does for the user.
        capture: return what it prints.
        on_line: called with every line that is logged.

    Raises:
        InputError: packages do not exist, or cannot be installed together; all that do not exist are named.
        NetworkError: something cannot be had, or is not signed.
        ToolError: it failed for another reason.
    """
    complaints: list[str] = []

    def note(line: str) -> None:
        if line.startswith(("E: ", "W: GPG error")):
            complaints.append(line[3:])
        if on_line is not None:
            on_line(line)

    env = NEVER_ASK | dict(settings)
    try:
        return process.run(words, env=env, network=True, sync=False, what=what, on_line=note, capture=capture).stdout
    except ToolError as error:
        for pattern, kind, hint in TROUBLES:
            if found := [line for line in complaints if pattern.search(line)]:
                said = "\n".join(dict.fromkeys(found))
                raise kind(f"{said}\n{error.message}", hint=f"{hint}; {error.hint}") from error
        raise


def source_lines(base: DebBase, sources: Sequence[Source]) -> list[str]:
    """Return lines for sources.list."""
    return [f"deb {source.uri} {source.suite} {' '.join(base.components)}" for source in sources]


def machine_connection() -> list[str]:
    """Return how this machine's own apt reaches archives (proxies, certificates, credentials), as apt.conf lines."""
    words = ["apt-config", "dump", "--format", '%f "%v";%n']
    dump = process.run(words, capture=True).stdout.splitlines()
    wanted = re.compile(r"^Acquire::https?::\S*(Proxy|CaInfo|CaPath|SslCert|SslKey|Verify-Peer)\S* ", re.IGNORECASE)
    lines = [line for line in dump if wanted.match(line)]
    for key, places in CREDENTIALS.items():
        lines += [f'{key} "{place}";' for place in places if place.exists()][:1]
    return lines


def trusted_keys(base: DebBase, workspace: Path) -> Path:
    """Export the pinned keys, and only these, for apt to trust."""
    home, keys = workspace / "gnupg", workspace / "trusted.gpg"
    home.mkdir(mode=0o700)
    words: list[process.Argument] = ["gpg", "--homedir", home, "--batch", "--no-default-keyring"]
    words += ["--keyring", base.keyring]
    process.run([*words, "--output", keys, "--export", *base.fingerprints], what="exporting the trusted keys")
    (workspace / NO_MORE_KEYS).mkdir()
    return keys


def newest_date(releases: Sequence[Path]) -> int:
    """Return the newest ``Date`` of signed indexes, in seconds since 1970: the same indexes, the same time."""
    dates = [
        email.utils.parsedate_to_datetime(match[1]).timestamp()
        for file in releases
        if (match := re.search(r"^Date: (.+)$", file.read_text(), re.MULTILINE))
    ]
    return int(max(dates))
