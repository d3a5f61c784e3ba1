"""A comparison as text: short enough to be read, however much differs; everything if that is asked for."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.image.compare.model import Aspect, Change, Difference, How, PackageChange, Times

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_WIDTH = 160  # columns where there is no terminal
SHOWN_GROUPS = 30
SHOWN_IN_GROUP = 8
SHOWN_MEMBERS = 8
SHOWN_PACKAGES = 40
SHOWN_DIFF = 12  # lines of one file
SHOWN_DIFFS = 120  # lines of all files
MARKS = {How.ADDED: "+", How.REMOVED: "-", How.CHANGED: "~"}
STYLES = {How.ADDED: "green", How.REMOVED: "red", How.CHANGED: "yellow"}
ENDLESS = 1 << 60


@dataclass
class _Limits:
    """How much is shown; ``diffs`` is what is left of the lines of all diffs."""

    groups: int = SHOWN_GROUPS
    in_group: int = SHOWN_IN_GROUP
    members: int = SHOWN_MEMBERS
    packages: int = SHOWN_PACKAGES
    diff: int = SHOWN_DIFF
    diffs: int = SHOWN_DIFFS


@dataclass(frozen=True)
class Folded:
    """A change, and how many below it are of its kind, for a directory that only one image has."""

    change: Change
    below: int


def text(found: Difference, *, everything: bool = False) -> str:
    """Return a comparison as plain text.

    Args:
        found: the comparison.
        everything: leave nothing out.
    """
    from rich.console import Console

    stream = io.StringIO()
    _print(Console(file=stream, width=PLAIN_WIDTH), found, everything=everything)
    return stream.getvalue()


def print_text(found: Difference, *, everything: bool = False) -> None:
    """Print a comparison: with colours on a terminal, plain elsewhere."""
    from rich.console import Console

    _print(Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH), found, everything=everything)


def safe(value: str) -> str:
    """Return a text as it may be shown on a terminal: what is not printable, and bytes that are no text, as escapes."""
    return "".join(
        character if character.isprintable() or character == "\t" else _escape(character) for character in value
    )


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8 (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def verdict(found: Difference) -> str:
    """Return the outcome in one line."""
    if found.is_same:
        return "the same, byte for byte"
    if not found.blocks:
        return "the disks are the same, byte for byte: only how the qcow2 stores them differs"
    counts = {
        "packages": len(found.packages),
        "files": len(found.files),
        "of boot": len(found.boot) + len(found.boot_files),
        "of the disk": len(found.disk),
    }
    if any(counts.values()):
        return "differences: " + ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    if found.times:
        return "nothing but times differs, and what follows from them"
    return "packages, files, boot and layout are the same: only where things lie on the disk differs"


def fold(changes: Iterable[Change]) -> list[Folded]:
    """Put what is below a directory that only one image has into that directory's line; paths must be sorted."""
    found: list[Folded] = []
    for change in changes:
        last = found[-1] if found else None
        is_below = last is not None and change.path.startswith(f"{last.change.path}/")
        if last is not None and is_below and last.change.how is change.how is not How.CHANGED:
            found[-1] = Folded(last.change, last.below + 1)
        else:
            found.append(Folded(change, 0))
    return found


def grouped(changes: Sequence[Change]) -> list[tuple[str, list[Change]]]:
    """Return changes by the package or directory that they belong to."""
    groups = _grouped([Folded(change, 0) for change in changes])
    return [(group, [one.change for one in members]) for group, members in groups]


def tally(changes: Sequence[Change]) -> str:
    """Return how many changes are of each kind."""
    return _tally([Folded(change, 0) for change in changes])


def packages_tally(changes: Sequence[PackageChange]) -> str:
    """Return how many packages came, went or changed."""
    kinds = Counter("only in B" if not one.before else "only in A" if not one.after else "differ" for one in changes)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _print(console: Console, found: Difference, *, everything: bool) -> None:
    limits = _Limits(*[ENDLESS] * 6) if everything else _Limits()
    from rich.text import Text

    for part in _parts(found, limits):
        if isinstance(part, Text) and not console.is_terminal:
            console.file.write(f"{part.plain}\n")  # not wrapped, and many times as fast
        else:
            console.print(part, highlight=False)


def _parts(found: Difference, limits: _Limits) -> Iterator[RenderableType]:
    from rich.text import Text

    for name, side in (("A", found.a), ("B", found.b)):
        yield Text(f"{name}: {safe(str(side.image))}, {side.size} bytes, sha256 {side.sha256}")
    yield Text(verdict(found), style="bold green" if found.is_same else "bold")
    if found.packages:
        yield from _title("Packages", packages_tally(found.packages))
        yield _packages_table(found.packages, limits)
    if found.boot or found.boot_files:
        yield from _title("Boot", tally(found.boot_files))
        yield from _rows(found.boot)
        yield from _changes(found.boot_files, limits)
    if found.files:
        yield from _title("Files", tally(found.files))
        yield from _changes(found.files, limits)
    if found.disk:
        yield from _title("Disk", "")
        yield from _rows(found.disk)
    if found.times:
        yield from _title("Times", "of entries that both have")
        yield from _rows([_time_row(one) for one in found.times])
    if found.blocks:
        yield from _title("Bytes", "blocks of 4 KiB that differ")
        for one in found.blocks:
            use = f", {one.what}" if one.what else ""
            yield Text(f"  {safe(one.part + use)}: {one.count}, the first at byte {one.first}")
    for note in found.notes:
        yield Text(f"note: {safe(note)}", style="dim")


def _time_row(one: Times) -> Aspect:
    return Aspect(f"{one.kind} of {one.count}, as {one.example.name}", one.example.before, one.example.after)


def _title(title: str, remark: str) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text("")
    yield Text.assemble((title, "bold"), f": {remark}" if remark else "")


def _packages_table(changes: Sequence[PackageChange], limits: _Limits) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("  PACKAGE", "A", "B", "BYTES", ""):
        table.add_column(heading, justify="right" if heading == "BYTES" else "left", overflow="fold")
    # Those that both have come first: what came or went is seldom the question.
    for one in sorted(changes, key=lambda one: not (one.before and one.after))[: limits.packages]:
        size = f"{one.bytes:+d}" if one.bytes else ""
        cells = (f"  {one.name}", one.before or "-", one.after or "-", size, one.note)
        table.add_row(*(_cell(cell) for cell in cells))
    if len(changes) > limits.packages:
        table.add_row(f"  ... {len(changes) - limits.packages} more; --all or --html shows them")
    return table


def _cell(value: str) -> RenderableType:
    from rich.text import Text

    return Text(safe(value))


def _rows(rows: Sequence[Aspect]) -> Iterator[RenderableType]:
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("  WHAT", "A", "B"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(_cell(f"  {row.name}"), _cell(row.before or "-"), _cell(row.after or "-"))
    yield table


def _changes(changes: Sequence[Change], limits: _Limits) -> Iterator[RenderableType]:
    from rich.text import Text

    groups = _grouped(fold(changes) if limits.in_group < ENDLESS else [Folded(change, 0) for change in changes])
    for group, members in groups[: limits.groups]:
        yield Text(f"  {safe(group)}: {_tally(members)}", style="bold")
        yield from _lines(members, limits, limits.in_group, "    ")
    if left := groups[limits.groups :]:
        count = sum(1 + one.below for _, members in left for one in members)
        yield Text(f"  ... {len(left)} more packages or directories with {count} files; --all or --html shows them")


def _grouped(folded: Sequence[Folded]) -> list[tuple[str, list[Folded]]]:
    ordered = sorted(folded, key=lambda one: one.change.group)
    return [(group, list(members)) for group, members in groupby(ordered, key=lambda one: one.change.group)]


def _tally(folded: Sequence[Folded]) -> str:
    counts: Counter[How] = Counter()
    for one in folded:
        counts[one.change.how] += 1 + one.below
    return ", ".join(f"{counts[how]} {how.value}" for how in How if counts[how])


def _lines(folded: Sequence[Folded], limits: _Limits, count: int, indent: str) -> Iterator[RenderableType]:
    from rich.text import Text

    for one in folded[:count]:
        change = one.change
        below = f" and {one.below} below it" if one.below else ""
        yield Text.assemble(
            f"{indent}{MARKS[change.how]} ", (safe(change.path), STYLES[change.how]), f"{below}{_said(change)}"
        )
        yield from _diff(change, limits, f"{indent}    ")
        inside = fold(change.members) if count < ENDLESS else [Folded(member, 0) for member in change.members]
        yield from _lines(inside, limits, limits.members, f"{indent}    ")
    if len(folded) > count:
        yield Text(f"{indent}... {len(folded) - count} more")


def _said(change: Change) -> str:
    said = []
    for aspect in change.aspects:
        values = [safe(value) for value in (aspect.before, aspect.after)]
        if change.how is How.CHANGED:
            said.append(f"{safe(aspect.name)} {values[0] or 'none'} -> {values[1] or 'none'}")
        else:
            said.append(values[0] or values[1])
    return f"  {'; '.join(said)}" if said else ""


def _diff(change: Change, limits: _Limits, indent: str) -> Iterator[RenderableType]:
    from rich.text import Text

    count = min(limits.diff, limits.diffs)
    limits.diffs -= min(count, len(change.diff))
    for line in change.diff[:count]:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        yield Text(f"{indent}{safe(line)}", style=style)
    if len(change.diff) > count > 0:
        yield Text(f"{indent}... {len(change.diff) - count} more lines; --all or --html shows them", style="dim")
