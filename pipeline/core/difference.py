"""How the inputs of two cache entries differ, in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
_Leaf: TypeAlias = "str | tuple[str, ...]"  # a scalar as JSON, or a list of such

SHOWN_WORDS, SHOWN_LETTERS = 8, 40


def difference(old: Mapping[str, Json], new: Mapping[str, Json]) -> list[tuple[int, str]]:
    """Return what changed, sorted by name: the number of leaves, and words such as ``packages +foo -bar``.

    Lists of scalars are compared as sets.
    """
    before, after = (dict(_leaves(json.loads(json.dumps(side)))) for side in (old, new))
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [_change(name, before.get(name), after.get(name)) for name in names]


def _leaves(value: Json, name: str = "") -> Iterator[tuple[str, _Leaf]]:
    if isinstance(value, dict) and (value or not name):
        for inner in value:
            yield from _leaves(value[inner], f"{name}.{inner}" if name else inner)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name, tuple(map(json.dumps, value)) if isinstance(value, list) else json.dumps(value)


def _change(name: str, old: _Leaf | None, new: _Leaf | None) -> tuple[int, str]:
    if isinstance(old, tuple) and isinstance(new, tuple):
        words = [f"+{_show(item, '')}" for item in new if item not in old]
        words += [f"-{_show(item, '')}" for item in old if item not in new]
        more = [f"({len(words) - SHOWN_WORDS} more)"] if len(words) > SHOWN_WORDS else []
        return max(1, len(words)), " ".join([name, *(words[:SHOWN_WORDS] or ["in another order"]), *more])
    if old is None or new is None:
        return 1, f"+{name} {_show(new)}" if old is None else f"-{name} {_show(old)}"
    return 1, f"{name} {_show(old)} -> {_show(new)}"


def _show(leaf: _Leaf | None, quote: str = "'") -> str:
    if not isinstance(leaf, str):
        return f"({len(leaf or ())} items)"
    text = json.loads(leaf) if leaf.startswith('"') else leaf
    text = text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS // 2]}…"
    return f"{quote}{text}{quote}" if leaf.startswith('"') else text
