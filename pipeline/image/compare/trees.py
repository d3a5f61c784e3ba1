"""Two trees, entry by entry: mode, owner, group, link target, device, hard links, attributes, content, times."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipeline.image.compare.entries import Content, Entry, Tree
from pipeline.image.compare.model import Aspect, Change, How, Times

BLOCK = 4096
LONGEST_TEXT = 256 << 10  # bytes of a file that is compared line by line: difflib's time grows with the square
LINES = 200  # of a diff that are kept
LONGEST_LINE = 400  # characters of a line that are kept
ALL_TEXTS = 8 << 20  # bytes of all files that are compared line by line
OTHER_NAMES = 3  # hard links that are named


@dataclass
class Comparer:
    """Compares trees; knows how much has been spent on line by line comparisons, and which times differed.

    Attributes:
        left: bytes of text that may still be compared line by line.
    """

    left: int = ALL_TEXTS
    _examples: dict[str, Aspect] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def times(self) -> tuple[Times, ...]:
        """Return which times differed so far, among entries that both trees have."""
        return tuple(Times(kind, self._counts[kind], self._examples[kind]) for kind in sorted(self._counts))

    def compare(self, a: Tree, b: Tree, prefix: str = "") -> Iterator[Change]:
        """Yield every entry that differs, by path; but those that differ in their times only.

        Args:
            a: one tree.
            b: the other.
            prefix: put before every path that is told.
        """
        names_a, names_b = _hard_links(a), _hard_links(b)
        for path in sorted({*a, *b}):
            before, after = a.get(path), b.get(path)
            name = prefix + (path or "/")
            if before is None or after is None:
                how = How.ADDED if before is None else How.REMOVED
                yield Change(name, how, tuple(_summary(before, after)))
                continue
            aspects = [*_aspects(before, after), *_links(before, after, names_a, names_b, path)]
            diff: tuple[str, ...] = ()
            if before.kind == after.kind == "file" and (found := _content(before, after)):
                aspects.append(found)
                diff = self._diff(before, after)
            self._note_times(name, before, after)
            if aspects:
                yield Change(name, How.CHANGED, tuple(aspects), diff)

    def _note_times(self, name: str, before: Entry, after: Entry) -> None:
        others = dict(after.times)
        for kind, value in before.times:
            other = others.get(kind, value)
            if other != value:
                self._counts[kind] += 1
                self._examples.setdefault(kind, Aspect(name, value, other))

    def _diff(self, before: Entry, after: Entry) -> tuple[str, ...]:
        size = before.size + after.size
        if max(before.size, after.size) > LONGEST_TEXT or size > self.left:
            return ()
        old, new = _lines(before.content), _lines(after.content)
        if old is None or new is None:
            return ()
        self.left -= size
        return bounded(itertools.islice(difflib.unified_diff(old, new, n=2, lineterm=""), 2, None))


def bounded(lines: Iterable[str], limit: int = LINES) -> tuple[str, ...]:
    """Return the first lines of a text, cut to a width; a last line says if there were more."""
    found = [line[:LONGEST_LINE] for line in itertools.islice(lines, limit + 1)]
    return (*found[:limit], "... and more") if len(found) > limit else tuple(found)


def _lines(content: Content | None) -> list[str] | None:
    """Return a text's lines, None for anything that is no text."""
    data = content.read() if content is not None else b""
    if b"\0" in data:
        return None
    try:
        return data.decode().split("\n")
    except UnicodeDecodeError:
        return None


def _hard_links(tree: Tree) -> dict[int, list[str]]:
    """Return all names of what has more than one, by inode."""
    found = defaultdict(list)
    for path, entry in tree.items():
        if entry.kind != "directory" and entry.inode:
            found[entry.inode].append(path)
    return {inode: sorted(paths) for inode, paths in found.items() if len(paths) > 1}


def _links(
    before: Entry, after: Entry, names_a: dict[int, list[str]], names_b: dict[int, list[str]], path: str
) -> Iterator[Aspect]:
    old = [name for name in names_a.get(before.inode, ()) if name != path]
    new = [name for name in names_b.get(after.inode, ()) if name != path]
    if old != new:
        yield Aspect("hard links", _named(old), _named(new))


def _named(names: list[str]) -> str:
    more = f" and {len(names) - OTHER_NAMES} more" if len(names) > OTHER_NAMES else ""
    return ", ".join(names[:OTHER_NAMES]) + more or "none"


def _summary(before: Entry | None, after: Entry | None) -> Iterator[Aspect]:
    """Say in short what an entry is that only one tree has."""
    for entry in (before, after):
        if entry is not None:
            shown = f"{entry.size} bytes" if entry.kind == "file" else entry.kind
            shown += f" to {entry.target}" if entry.kind == "link" else ""
            yield Aspect("is", shown if entry is before else "", shown if entry is after else "")


def _aspects(before: Entry, after: Entry) -> Iterator[Aspect]:
    pairs = [
        ("type", before.kind, after.kind),
        ("mode", f"{before.mode:04o}", f"{after.mode:04o}"),
        ("owner", str(before.owner), str(after.owner)),
        ("group", str(before.group), str(after.group)),
        ("link target", before.target, after.target),
        ("device", before.device, after.device),
    ]
    old, new = dict(before.attributes), dict(after.attributes)
    pairs += [(f"attribute {name}", old.get(name, ""), new.get(name, "")) for name in sorted({*old, *new})]
    yield from (Aspect(*pair) for pair in pairs if pair[1] != pair[2])


def _content(before: Entry, after: Entry) -> Aspect | None:
    assert before.content is not None
    assert after.content is not None
    if before.size != after.size:
        return Aspect("content", f"{before.size} bytes", f"{after.size} bytes")
    first, count = differing(before.content, after.content)
    if first is None:
        return None
    where = f"of {-(-before.size // BLOCK)} blocks of {BLOCK} bytes, {count} differ, the first at byte {first}"
    return Aspect("content", f"{before.size} bytes", f"{after.size} bytes; {where}")


def differing(a: Content, b: Content) -> tuple[int | None, int]:
    """Return the first byte in which two contents of one size differ, and how many blocks of 4 KiB do."""
    first, count, at = None, 0, 0
    with a.file.open("rb") as stream_a, b.file.open("rb") as stream_b:
        for one, other in zip(a.chunks(stream_a), b.chunks(stream_b), strict=True):
            if one != other:
                if first is None:
                    first = at + next(place for place, (x, y) in enumerate(zip(one, other, strict=True)) if x != y)
                count += sum(one[i : i + BLOCK] != other[i : i + BLOCK] for i in range(0, len(one), BLOCK))
            at += len(one)
    return first, count
