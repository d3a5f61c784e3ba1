"""Which of two versions is the later one: the package systems' own tools know.

Sources: deb-version(7), dpkg(1) ``--compare-versions``; rpm's manual on Lua, ``rpm.vercmp``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.core import process

HINT = "run ./invoke once: it installs what is missing"


def compare(family: Literal["deb", "rpm"], pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Compare versions.

    Args:
        family: whose versions they are.
        pairs: two versions each, of letters, digits and ``.+_~:^-`` only.

    Returns:
        For each pair -1 if the first is the earlier one, 0 if both are the same, 1 if it is the later one.

    Raises:
        DependencyError: the tool that knows is missing.
    """
    if not pairs:
        return []
    return [_of_debs(*pair) for pair in pairs] if family == "deb" else _of_rpms(pairs)


def _of_debs(one: str, other: str) -> int:
    if one == other:
        return 0
    dpkg = process.require("dpkg", hint=HINT)
    words = [dpkg, "--compare-versions", one, "lt", other]
    return -1 if process.run(words, check=False, what="comparing versions").returncode == 0 else 1


def _of_rpms(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Ask rpm, part by part: an older one does not know what an epoch is."""
    parts = [part for one, other in pairs for part in zip(_parts(one), _parts(other), strict=True)]
    script = " ".join(f'print(rpm.vercmp("{one}", "{other}"), "")' for one, other in parts)
    rpm = process.require("rpm", hint=HINT)
    printed = process.run([rpm, "--eval", f"%{{lua: {script}}}"], capture=True, what="comparing versions").stdout
    found = [int(word) for word in printed.split()]
    return [next((sign for sign in found[at : at + 3] if sign), 0) for at in range(0, len(found), 3)]


def _parts(version: str) -> tuple[str, str, str]:
    """Split ``[epoch:]version-release``."""
    epoch, _, rest = version.rpartition(":")
    number, _, release = rest.partition("-")
    return epoch or "0", number, release or "0"
