"""Why a package is in an image: the chain of dependencies that leads to it from what the profile asks for."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Installed:
    """A package in a database of dpkg.

    Attributes:
        name: its name.
        essential: it is part of every system.
        needs: each dependency, as the names of which any one will do.
        provides: other names that it answers to.
    """

    name: str
    essential: bool
    needs: tuple[tuple[str, ...], ...]
    provides: tuple[str, ...]


def read_status(text: str) -> tuple[Installed, ...]:
    """Read ``/var/lib/dpkg/status`` (deb-control(5))."""
    return tuple(_installed(fields) for block in text.strip().split("\n\n") if (fields := _fields(block)))


def _fields(block: str) -> dict[str, str]:
    unfolded = re.sub(r"\n[ \t]", " ", block)
    return dict(line.split(": ", 1) for line in unfolded.splitlines() if ": " in line)


def _installed(fields: Mapping[str, str]) -> Installed:
    wanted = ", ".join(fields[name] for name in ("Pre-Depends", "Depends") if fields.get(name))
    needs = tuple(_names(group.replace("|", ",")) for group in wanted.split(",") if group.strip())
    return Installed(
        fields["Package"], fields.get("Essential") == "yes", needs, _names(fields.get("Provides", ""))
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[ (:]", word.strip())[0] for word in text.split(",") if word.strip())


def reasons(installed: Sequence[Installed], asked: Sequence[str]) -> dict[str, str]:
    """Say of each package why it is there.

    Args:
        installed: every package.
        asked: what the profile names.

    Returns:
        By name: ``the profile``, ``essential``, or the shortest chain from one of these, ``podman → libc6``. What
        nothing leads to has no reason.
    """
    known = {package.name: package for package in installed}
    answers: dict[str, list[str]] = {}
    for package in installed:
        for name in (package.name, *package.provides):
            answers.setdefault(name, []).append(package.name)
    found = {name: "the profile" for name in asked if name in known}
    found |= {name: "essential" for name in sorted(known) if known[name].essential and name not in found}
    chains = {name: name for name in found}
    pending = collections.deque(chains)
    while pending:
        name = pending.popleft()
        for needed in (one for group in known[name].needs for word in group for one in answers.get(word, ())):
            if needed not in chains:
                chains[needed] = f"{chains[name]} → {needed}"
                found[needed] = chains[needed]
                pending.append(needed)
    return found
