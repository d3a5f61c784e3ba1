"""What users see of images: the resolved plan, the outcome of a build, the list of what there is."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.image.build import Built
from pipeline.image.plan import Plan
from pipeline.profile import Profile

MB = 1_000_000


@dataclass(frozen=True)
class Row:
    """One line of the list.

    Attributes:
        os: the profile.
        release: its release, with a star if it is the default.
        arch: the architecture.
        size: of the image in bytes; None if there is none.
        age: seconds since it was built; None if there is none.
    """

    os: str
    release: str
    arch: str
    size: int | None
    age: float | None


@dataclass(frozen=True)
class Published:
    """What is known of an image that is there.

    Attributes:
        size: of the qcow2 in bytes.
        created: when it was built.
        packages: how many it has; None if that cannot be read.
    """

    size: int
    created: datetime.datetime
    packages: int | None


def published(directory: Path) -> Published | None:
    """Return what is known of the image in a directory; None if there is none."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        created = datetime.datetime.fromisoformat(manifest["created"])
        size = (directory / manifest["image"]["file"]).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        packages = len(json.loads((directory / "packages.json").read_text()))
    except (OSError, ValueError, TypeError):
        packages = None
    return Published(size, created, packages)


def plan_text(plan: Plan) -> str:
    """Return the whole plan as YAML, for ``--dry-run``."""
    document = {"image": plan.name, "key": plan.key, **plan.inputs}
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def outcome(built: Built, command: str) -> str:
    """Return what a user needs to know after a build: where it is, its size, where the time went and what is next."""
    lines = [f"{built.image} ({built.size / MB:.1f} MB)"]
    if not built.times:
        lines[0] += " is up to date: nothing it is made of has changed; --refresh asks the package sources again"
    for step in built.times:
        remark = f"  {step.remark}" if step.remark else ""
        lines.append(f"{'  ' * step.depth}  {step.title:<{30 - 2 * step.depth}}{step.seconds:8.1f} s{remark}")
    if built.times:
        lines.append(f"  {'total':<30}{sum(step.seconds for step in built.times if step.depth == 0):8.1f} s")
    return "\n".join([*lines, f"next: {command}"])


def rows(profiles: Iterable[Profile], build_dir: Path) -> tuple[Row, ...]:
    """Return one row for every image that can be built."""
    found = []
    for profile in profiles:
        for name, release in profile.releases.items():
            for arch in release.arch:
                title = f"{name} *" if name == profile.default_release else name
                found.append(_row(profile.name, title, arch.value, build_dir / f"{profile.name}-{name}-{arch}"))
    return tuple(found)


def _row(os_name: str, release: str, arch: str, directory: Path) -> Row:
    found = published(directory)
    if found is None:
        return Row(os_name, release, arch, None, None)
    age = (datetime.datetime.now(datetime.UTC) - found.created).total_seconds()
    return Row(os_name, release, arch, found.size, age)


def print_rows(found: Sequence[Row]) -> None:
    """Print the list as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("OS", "RELEASE", "ARCH", "SIZE", "BUILT"):
        table.add_column(title, justify="right" if title == "SIZE" else "left")
    for row in found:
        size = f"{row.size / MB:.1f} MB" if row.size is not None else "-"
        table.add_row(row.os, row.release, row.arch, size, _age(row.age))
    Console().print(table)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "not built"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
