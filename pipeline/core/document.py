"""YAML files as checked models: every problem with the file, line and key that it is in."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core.errors import InputError

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]
KEY_ITSELF = "[key]"  # pydantic's word for "the key is wrong, not its value"
SHOWN = 60
Check = Callable[[object], Iterable[tuple[Location, str]]]
T = TypeVar("T", bound="Model")


class Model(BaseModel):
    """Base of what is read from a file: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def load(path: Path, kind: type[T], *, missing: str, also: Check | None = None) -> T:
    """Read a file.

    Args:
        path: the file.
        kind: what it holds.
        missing: what to do if it is not there.
        also: looks at the file's data, which may be wrong in any way, for what the model cannot see: keys and problems.

    Raises:
        InputError: it cannot be read, or something in it is wrong; every problem is named with its line.
    """
    text = _read(path, missing)
    try:
        root = yaml.compose(text, yaml.CSafeLoader)
        problems = sorted(_duplicates(root)) if root else [(0, "the file is empty")]
        data = yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise _error(path, [(mark.line + 1 if mark else 0, f"this is not valid YAML: {what}")]) from error
    if root is None or problems:
        raise _error(path, problems)
    found = {(_line(root, key), f"{'.'.join(map(str, key))}: {what}") for key, what in (also(data) if also else ())}
    try:
        loaded = kind.model_validate(data)
    except ValidationError as error:
        found |= {(_line(root, detail["loc"]), _explain(kind, detail)) for detail in error.errors(include_url=False)}
        raise _error(path, sorted(found)) from error
    if found:
        raise _error(path, sorted(found))
    return loaded


def _read(path: Path, missing: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} is not there", hint=missing) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path and its mode") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this is not UTF-8 text", hint="save the file as UTF-8") from error


def _error(path: Path, problems: list[tuple[int, str]]) -> InputError:
    lines = [f"{path}:{line}: {what}" if line else f"{path}: {what}" for line, what in problems]
    return InputError("\n".join(lines), hint="correct the file and try again")


def _duplicates(root: yaml.Node) -> Iterator[tuple[int, str]]:
    """Find keys that stand twice in one mapping: the loader would take the last one and say nothing."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                    yield key.start_mark.line + 1, f"{key.value}: this key is there twice"
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _line(root: yaml.Node, location: Location) -> int:
    """Return the line of a location; what is not there has the line of what is around it."""
    node, line = root, int(root.start_mark.line) + 1
    for part in location:
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner = (node.value[part], node.value[part])
        if inner is not None:
            line, node = int(inner[0].start_mark.line) + 1, inner[1]
    return line


def _explain(kind: type[Model], detail: ErrorDetails) -> str:
    """Say in plain words what a validation error means."""
    location = tuple(part for part in detail["loc"] if part != KEY_ITSELF)
    key = ".".join(map(str, location))
    match detail["type"]:
        case "missing":
            return f"{key}: this key is missing"
        case "extra_forbidden":
            return f"{key}: unknown key; {_known(kind, location)}"
        case "string_type" if isinstance(detail["input"], int | float):
            return f'{key}: must be text, not a number; put it in quotes: "{detail["input"]}"'
        case "value_error":
            text = str(detail["ctx"]["error"])
            return f"{key}: {text}" if key else text
        case _:
            given = repr(detail["input"])
            shown = given if len(given) <= SHOWN else f"{given[:SHOWN]}…"
            return f"{key}: {detail['msg'][:1].lower()}{detail['msg'][1:]}, not {shown}"


def _known(kind: type[Model], location: Location) -> str:
    """Advise the nearest of the keys that there are; all of them if none is near."""
    model: object = kind
    for part in location[:-1]:
        model = _inside(model, part)
    known = tuple(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else ()
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _inside(annotation: object, part: str | int) -> object:
    """Follow one step of a location through the models' annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return field.annotation if field else None
    arguments = typing.get_args(annotation)
    return arguments[1 if typing.get_origin(annotation) is dict else 0] if arguments else None
