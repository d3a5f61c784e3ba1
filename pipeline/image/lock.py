"""Lock files: every package of an image by version, sha256 and origin, in ``osprofiles/locks/`` (decision D7).

A lock is written by ``./invoke lock`` and never by hand: its digest covers everything in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from pipeline.core import document, files
from pipeline.core.arch import Architecture
from pipeline.core.document import Model
from pipeline.core.errors import InputError
from pipeline.image.bases import versions
from pipeline.image.bases.locked import LockedIndex, LockedPackage, Sha256, Text
from pipeline.profile import DebBase, Release

__all__ = ["Changed", "Changes", "Lock", "LockedIndex", "LockedPackage", "changes", "check", "path_of", "read", "write"]

MB = 1_000_000
EARLIEST, LATEST = 315532800, 2**31 - 1  # the times that an image's file systems can hold


class Lock(Model):
    """What a profile resolved to, once, for one release and one architecture.

    Attributes:
        schema_: version of this form; ``schema`` in the file.
        os: the profile.
        release: its release.
        arch: the architecture.
        family: the package system.
        asked: the packages that the profile asked for, sorted.
        epoch: time of the newest index, in seconds since 1970; it becomes that of the image.
        indexes: of the repositories, sorted.
        packages: everything that is installed, sorted.
        digest: sha256 over canonical JSON of all else.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    os: Text
    release: Text
    arch: Architecture
    family: Literal["deb", "rpm"]
    asked: tuple[Text, ...]
    epoch: Annotated[int, Field(ge=EARLIEST, le=LATEST)]
    indexes: tuple[LockedIndex, ...]
    packages: Annotated[tuple[LockedPackage, ...], Field(min_length=1)]
    digest: Sha256

    @classmethod
    def of(
        cls,
        *,
        os: str,
        release: str,
        arch: Architecture,
        family: Literal["deb", "rpm"],
        asked: Sequence[str],
        epoch: int,
        indexes: Sequence[LockedIndex],
        packages: Sequence[LockedPackage],
    ) -> Self:
        """Make a lock: sorted, and with its digest."""
        made = cls(
            os=os, release=release, arch=arch, family=family, asked=tuple(sorted(set(asked))), epoch=epoch,
            indexes=tuple(sorted(indexes, key=lambda item: (item.repository, item.url))),
            packages=tuple(sorted(packages, key=lambda item: (item.name, item.architecture, item.version))),
            digest="0" * 64,
        )  # fmt: skip
        return made.model_copy(update={"digest": made.expected_digest})

    @property
    def expected_digest(self) -> str:
        """What the digest must be."""
        text = json.dumps(self._document() | {"digest": ""}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the image that it is for."""
        return f"{self.os}-{self.release}-{self.arch}"

    @property
    def text(self) -> str:
        """The file's content: one line for each package, so that a difference between two versions can be read."""
        lines = []
        for key, value in self._document().items():
            if key in ("indexes", "packages"):
                rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
                lines.append(f'"{key}": [\n{rows}\n ]')
            else:
                lines.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
        return "{\n " + ",\n ".join(lines) + "\n}\n"

    def _document(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


def path_of(directory: Path, os: str, release: str, arch: Architecture) -> Path:
    """Return where the lock of an image is.

    Args:
        directory: of the profiles.
        os: the profile.
        release: the release's name.
        arch: the architecture.
    """
    return directory / "locks" / f"{os}-{release}-{arch}.json"


def read(path: Path) -> Lock:
    """Read a lock.

    Raises:
        InputError: it is not there, is damaged or was edited by hand; every problem is named with its line.
    """
    command = _command(path)
    try:
        lock = Lock.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # the slow way knows the line and the words for it
        lock = document.load(path, Lock, missing=f"make it: {command}")
    if lock.digest != lock.expected_digest:
        raise InputError(
            f"{path}: was edited by hand, or damaged: its content has sha256 {lock.expected_digest}, its digest says"
            f" {lock.digest}",
            hint=f"take it back from git, or make it anew: {command} --update",
        )
    return lock


def _command(path: Path) -> str:
    os, _, rest = path.stem.partition("-")
    release, _, arch = rest.rpartition("-")
    return f"./invoke lock --os {os} --release {release} --arch {arch}"


def check(lock: Lock, name: str, release: Release, asked: Sequence[str]) -> None:
    """Hold a lock against the profile that an image is to be built of.

    Args:
        lock: the lock.
        name: of the image: ``debian-12-amd64``.
        release: of the profile.
        asked: the packages that the profile asks for.

    Raises:
        InputError: the lock is another image's, or the profile has changed since it was made.
    """
    again = f"./invoke lock --os {lock.os} --release {lock.release} --arch {lock.arch} --update"
    base = release.base
    if (lock.name, lock.family) != (name, base.kind):
        raise InputError(
            f"the lock is of {lock.name} ({lock.family}); {name} ({base.kind}) is to be built",
            hint=f"a lock is never renamed: take the file back, and make the other one: {again}",
        )
    found = [f"packages: {' '.join(changed)}"] if (changed := _asked(lock.asked, asked)) else []
    if avoided := sorted({package.name for package in lock.packages} & {*base.avoid}):
        found.append(f"avoid: {' '.join(avoided)} is locked")
    if isinstance(base, DebBase) and (moved := _asked([item.repository for item in lock.indexes], base.suites)):
        found.append(f"suites: {' '.join(moved)}")
    if found:
        raise InputError(
            "\n  ".join([f"the profile has changed since the lock of {name} was made:", *found]),
            hint=f"look at what it changes: {again}",
        )


def write(path: Path, lock: Lock) -> None:
    """Write a lock, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with files.storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, lock.text.encode())


# --- what an update changes


@dataclass(frozen=True)
class Changed:
    """One package before and after.

    Attributes:
        before: None if it is new.
        after: None if it is gone.
    """

    before: LockedPackage | None
    after: LockedPackage | None

    @property
    def version(self) -> tuple[str, str]:
        """The version before and after; empty if there is none."""
        return self.before.version if self.before else "", self.after.version if self.after else ""

    @property
    def growth(self) -> int:
        """How many bytes larger its archive is."""
        return (self.after.size if self.after else 0) - (self.before.size if self.before else 0)


@dataclass(frozen=True)
class Changes:
    """How two locks differ.

    Attributes:
        upgraded: packages with a later version.
        downgraded: packages with an earlier version.
        replaced: packages of the same version with other bytes, or from another place.
        added: packages that are new.
        removed: packages that are gone.
        asked: what the profile asks for now and did not (``+name``), or no longer does (``-name``).
        indexes: repositories whose index is another one.
    """

    upgraded: tuple[Changed, ...] = ()
    downgraded: tuple[Changed, ...] = ()
    replaced: tuple[Changed, ...] = ()
    added: tuple[Changed, ...] = ()
    removed: tuple[Changed, ...] = ()
    asked: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is any difference at all."""
        return any(vars(self).values())


def changes(old: Lock | None, new: Lock) -> Changes:
    """Compare two locks of one image.

    Args:
        old: the one before; None if there was none.
        new: the one after.

    Raises:
        DependencyError: the package system's own tool, which knows which version is later, is missing.
    """
    before, after = _grouped(old), _grouped(new)
    both, added, removed = [], [], []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, []), after.get(key, [])
        if len(was) == len(now) == 1:
            both += [Changed(was[0], now[0])] if was != now else []
        else:  # several versions side by side, as of kernels
            removed += [Changed(package, None) for package in was if package not in now]
            added += [Changed(None, package) for package in now if package not in was]
    order = versions.compare(new.family, [(one.version[0], one.version[1]) for one in both])
    sorts: dict[int, tuple[Changed, ...]] = {
        sign: tuple(one for one, found in zip(both, order, strict=True) if found == sign) for sign in (-1, 0, 1)
    }
    return Changes(
        upgraded=sorts[-1],
        downgraded=sorts[1],
        replaced=sorts[0],
        added=tuple(added),
        removed=tuple(removed),
        asked=_asked(old.asked if old else (), new.asked),
        indexes=tuple(sorted({item.repository for item in {*new.indexes} ^ {*(old.indexes if old else ())}})),
    )


def _grouped(lock: Lock | None) -> dict[tuple[str, str], list[LockedPackage]]:
    found: dict[tuple[str, str], list[LockedPackage]] = {}
    for package in lock.packages if lock else ():
        found.setdefault((package.name, package.architecture), []).append(package)
    return found


def _asked(before: Sequence[str], after: Sequence[str]) -> tuple[str, ...]:
    """Return the difference between what a profile asked for and asks for."""
    added, removed = sorted({*after} - {*before}), sorted({*before} - {*after})
    return (*(f"+{name}" for name in added), *(f"-{name}" for name in removed))
