"""Resolve a profile into a lock, without installing anything; and say what a lock, or an update of it, means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core import namespace, progress
from pipeline.core.cache import Cache, cache_root
from pipeline.core.errors import InputError
from pipeline.image import lock
from pipeline.image.bases import deb_lock, rpm_lock
from pipeline.image.bases.locked import LockedIndex, LockedPackage
from pipeline.image.lock import Changed, Changes, Lock
from pipeline.image.plan import Plan, check_sources
from pipeline.profile import DebBase

Found = tuple[tuple[LockedPackage, ...], tuple[LockedIndex, ...], int]
UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class Locked:
    """The outcome of ``./invoke lock``.

    Attributes:
        path: of the lock.
        lock: what the profile resolves to now.
        changes: how it differs from the lock that was there.
        is_new: there was none.
        is_written: it was written.
    """

    path: Path
    lock: Lock
    changes: Changes
    is_new: bool
    is_written: bool

    @property
    def is_stale(self) -> bool:
        """Whether the lock that is there is another one than would be made now."""
        return bool(self.changes) and not self.is_written


def update(plan: Plan, path: Path, log: Path, *, write: bool) -> Locked:
    """Resolve a plan into a lock, and write it.

    Args:
        plan: from :func:`pipeline.image.plan.resolve`, without a lock.
        path: of the lock.
        log: file that takes the log.
        write: also over a lock that is there and differs; without one there it is always written.

    Raises:
        InputError: the lock that is there is damaged, or packages do not exist or do not fit together.
        NetworkError: a package source cannot be had, or is not signed by a pinned key.
        StorageError: the lock cannot be written.
    """
    if plan.medium is not None:
        raise InputError("a medium needs no lock: its digest is in the plan", hint="leave out --base and --medium")
    old = lock.read(path) if path.exists() else None
    with progress.session(log), progress.step(f"resolve {plan.name}"):
        new = make(plan)
        changes = lock.changes(old, new)
    is_written = old is None or (write and bool(changes))
    if is_written:
        lock.write(path, new)
    return Locked(path, new, changes, old is None, is_written)


def make(plan: Plan) -> Lock:
    """Resolve a plan into a lock, through the resolver that a build uses.

    Raises:
        PipelineError: as :func:`update`.
    """
    with Cache(cache_root()) as cache, cache.workspace() as workspace:
        check_sources(plan, cache_root=cache_root())
        packages, indexes, epoch = _resolve(plan, workspace)
    return Lock.of(
        os=plan.os, release=plan.release_name, arch=plan.arch, family=_family(plan), asked=plan.packages,
        epoch=epoch, indexes=indexes, packages=packages,
    )  # fmt: skip


def _family(plan: Plan) -> Literal["deb", "rpm"]:
    return plan.release.base.kind


def _resolve(plan: Plan, workspace: Path) -> Found:
    base = plan.release.base
    if isinstance(base, DebBase):
        return deb_lock.resolve(base, plan.arch, plan.packages, plan.sources, workspace=workspace)
    return namespace.run_private(
        lambda: rpm_lock.resolve(
            base, plan.arch, plan.packages, plan.repositories,
            workspace=workspace, package_cache=cache_root() / "packages/rpm",
        )
    )  # fmt: skip


# --- what is said of it


def text(found: Locked) -> str:
    """Return what a user needs to know: what changes, and what to do."""
    total = sum(package.size for package in found.lock.packages)
    summary = f"{len(found.lock.packages)} packages, {_size(total)}"
    if found.is_new:
        return f"{found.path}: written; {summary}"
    if not found.changes:
        return f"{found.path}: nothing has changed; {summary}"
    lines = [f"{found.path}: {'updated' if found.is_written else 'would change'}; {summary}", *_lines(found.changes)]
    if found.is_stale:
        lines.append("nothing is written: --update does that")
    return "\n".join(lines)


def _lines(changes: Changes) -> Iterator[str]:
    if changes.asked:
        yield f"  the profile asks for: {' '.join(changes.asked)}"
    for title, rows in (
        ("upgraded", changes.upgraded),
        ("DOWNGRADED", changes.downgraded),
        ("SAME VERSION, OTHER BYTES OR PLACE", changes.replaced),
        ("added", changes.added),
        ("removed", changes.removed),
    ):
        if rows:
            yield f"  {title}: {len(rows)} packages, {_growth(sum(row.growth for row in rows))}"
            yield from (f"    {_row(row)}" for row in rows)
    if changes.indexes:
        yield f"  other indexes: {', '.join(changes.indexes)}"


def _row(row: Changed) -> str:
    package = row.after or row.before
    assert package is not None
    versions = " -> ".join(version for version in dict.fromkeys(row.version) if version)
    where = ""
    if row.before and row.after and row.before.version == row.after.version:
        same = row.before.sha256 == row.after.sha256
        where = f" (from {row.after.origin})" if same else f" (sha256 {row.before.sha256} -> {row.after.sha256})"
    return f"{package.name} {versions} {package.architecture}  {_growth(row.growth)}{where}"


def _growth(count: int) -> str:
    return f"{'-' if count < 0 else '+'}{_size(abs(count))}"


def _size(count: int) -> str:
    """Return a size in decimal units, with three digits at most before the unit changes."""
    power = min(int(math.log10(count)) // 3, len(UNITS) - 1) if count else 0
    return f"{count / 1000**power:.{1 if power else 0}f} {UNITS[power]}"
