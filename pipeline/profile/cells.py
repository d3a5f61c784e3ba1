"""Which images a command is about: cells of the table of operating systems, releases and architectures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.profile.load import find, names
from pipeline.profile.model import Profile

ALL = "all"


@dataclass(frozen=True)
class Cell:
    """One image that can be built.

    Attributes:
        profile: its operating system.
        release: the release's name.
        arch: its architecture.
    """

    profile: Profile
    release: str
    arch: Architecture

    @property
    def name(self) -> str:
        """Name of the image and of its directory."""
        return f"{self.profile.name}-{self.release}-{self.arch}"


def cells(directory: Path, os: str, release: str, arch: str) -> tuple[Cell, ...]:
    """Return the cells that a user's words stand for, by operating system, release and architecture.

    A release or an architecture that only some of the chosen systems have leaves the others out.

    Args:
        directory: where the profiles are.
        os: names of profiles with commas between them, or ``all``.
        release: names of releases, or ``all``; empty for each profile's default.
        arch: names of architectures, or ``all``; empty for this machine's.

    Raises:
        InputError: a name is not known, or there is no such image at all.
    """
    profiles = [find(name, directory) for name in (names(directory) if os == ALL else _words(os, "--os"))]
    wanted = set() if release in ("", ALL) else set(_words(release, "--release"))
    if unknown := sorted(wanted - {name for profile in profiles for name in profile.releases}):
        known = sorted({name for profile in profiles for name in profile.releases})
        raise InputError(
            f"no chosen profile has a release {unknown[0]!r}; known: {', '.join(known)}", hint="see ./invoke list"
        )
    arches = tuple(Architecture) if arch == ALL else tuple(Architecture.parse(word) for word in _arch_words(arch))
    found = tuple(
        Cell(profile, name, one)
        for profile in profiles
        for name, described in profile.releases.items()
        if (name in wanted if wanted else release == ALL or name == profile.default_release)
        for one in described.arch
        if one in arches
    )
    if not found:
        raise InputError(
            f"nothing is built for --os {os} --release {release or 'default'} --arch {arch or 'default'}",
            hint="see ./invoke list",
        )
    return found


def _arch_words(text: str) -> tuple[str, ...]:
    return _words(text, "--arch") if text else (Architecture.host(),)


def _words(text: str, option: str) -> tuple[str, ...]:
    """Split a list with commas; a word that stands twice counts once."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if "" in words or ALL in words:
        raise InputError(f"{option} {text!r} is no list of names", hint=f"write {option} a,b or {option} {ALL}")
    return words
