"""Packages: which differ between two images, and which package a file belongs to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.image.compare.entries import Tree
from pipeline.image.compare.model import PackageChange

STATUS = "var/lib/dpkg/status"
LISTS = "var/lib/dpkg/info/"
LARGEST_DATABASE = 64 << 20  # bytes


def known(image: Path, tree: Tree) -> list[dict[str, Any]] | None:
    """Return the packages of an image: from packages.json beside it, else from dpkg's database inside.

    Returns:
        Rows with name, architecture, version and perhaps sha256 and size; None if nothing says which packages it has.
    """
    beside = image.with_name("packages.json")
    try:
        rows = json.loads(beside.read_text())
        if all(isinstance(row["name"], str) and isinstance(row["version"], str) for row in rows):
            return list(rows)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not ours
    return _of_dpkg(tree)


def _of_dpkg(tree: Tree) -> list[dict[str, Any]] | None:
    text = read_text(tree, STATUS)
    if text is None:
        return None
    rows = []
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            rows.append(
                {
                    "name": fields["Package"],
                    "version": fields["Version"],
                    "architecture": fields.get("Architecture", ""),
                }
            )
    return rows


def read_text(tree: Tree, path: str) -> str | None:
    """Return a text file of a tree; None if there is none, or it is none, or larger than 64 MiB."""
    entry = tree.get(path)
    if entry is None or entry.content is None or entry.size > LARGEST_DATABASE:
        return None
    with entry.content.file.open("rb") as stream:
        return b"".join(entry.content.chunks(stream)).decode("utf-8", "surrogateescape")


def compare(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> tuple[PackageChange, ...]:
    """Return the packages that differ, by name; one that is there several times is taken as its versions together."""
    old, new = _by_name(a), _by_name(b)
    found = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        versions = [" ".join(str(row["version"]) for row in rows or ()) for rows in (before, after)]
        note = "" if versions[0] != versions[1] else _note(before or [], after or [])
        if versions[0] != versions[1] or note:
            found.append(PackageChange(name, versions[0], versions[1], note, _size(after) - _size(before)))
    return tuple(found)


def _by_name(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (str(row["name"]), str(row["version"]))):
        found.setdefault(str(row["name"]), []).append(row)
    return found


def _size(rows: list[dict[str, Any]] | None) -> int:
    return sum(size for row in rows or () if isinstance(size := row.get("size"), int))


def _note(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    differ = [
        f"{field}: {old[field]} -> {new[field]}"
        for old, new in zip(before, after, strict=False)
        for field in ("architecture", "sha256", "maintainer")
        if field in old and field in new and old[field] != new[field]
    ]
    return "; ".join(differ)


def owners(*trees: Tree) -> dict[str, str]:
    """Return the package of every file that dpkg's lists name, for the trees of both images."""
    found: dict[str, str] = {}
    for tree in trees:
        moved = {name: entry.target for name, entry in tree.items() if "/" not in name and entry.kind == "link"}
        for path in [path for path in tree if path.startswith(LISTS)]:
            package, _, kind = path.removeprefix(LISTS).rpartition(".")
            found[path] = package.partition(":")[0]
            for line in (read_text(tree, path) or "").splitlines() if kind == "list" else ():
                found.setdefault(_merged(line.strip("/"), moved), package.partition(":")[0])
    return found


def _merged(path: str, moved: Mapping[str, str]) -> str:
    """Return where a file really is, in a tree whose /bin and /lib are links into /usr."""
    first, slash, rest = path.partition("/")
    return f"{moved[first].strip('/')}/{rest}" if slash and first in moved else path
