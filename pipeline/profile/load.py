"""From ``osprofiles/*.yaml`` to models, with errors that name file, line and key.

A profile is read twice over: as a tree of YAML nodes, which know their lines, and as data for the models, whose
errors name keys; the line of an error is found by following its key through the nodes. All that is wrong with a
file is told at once.
"""

from __future__ import annotations

import difflib
import re
import typing
from dataclasses import dataclass

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.core.errors import InputError
from pipeline.profile.model import PATTERN_MEANINGS, Profile, Release

if typing.TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from pipeline.core.arch import Architecture

SUFFIX = ".yaml"
TAG = "tag:yaml.org,2002:"
TEXT, MAPPING, LIST = TAG + "str", TAG + "map", TAG + "seq"
KEY_ITSELF = "[key]"  # pydantic's word for "the key is wrong, not its value"

Location = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class _Problem:
    """One thing that is wrong with a file.

    Attributes:
        line: where, counted from 1; 0 for the file as a whole.
        key: path of the key, or empty.
        what: what is wrong.
        advice: what to write instead, or empty.
    """

    line: int
    key: str
    what: str
    advice: str = ""

    def show(self, path: Path) -> str:
        place = f"{path}:{self.line}" if self.line else str(path)
        return f"{place}: {self.key}: {self.what}" if self.key else f"{place}: {self.what}"


def load(path: Path) -> Profile:
    """Read one profile.

    Args:
        path: the file; its stem must be the profile's name.

    Returns:
        The profile, checked.

    Raises:
        InputError: the file cannot be read, or something in it is wrong; every problem is named with its line.
    """
    text = _read(path)
    loader = _NodeLoader(text)
    try:
        root = loader.get_single_node()
        problems = sorted(_node_problems(loader, root))
        if root is None or problems:
            raise _error(path, problems or [_Problem(0, "", "the file is empty", "see docs/adding-an-os.md")])
        data = loader.construct_document(root)  # also resolves merge keys in the nodes, so that they have lines too
    except RecursionError as error:
        problem = _Problem(0, "", "this is nested without end", "remove the alias that holds itself")
        raise _error(path, [problem]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise _error(path, [_syntax_problem(error, text)]) from error
    finally:
        loader.dispose()
    return _validate(path, root, data)


def names(directory: Path) -> tuple[str, ...]:
    """Return the names of the profiles in a directory, sorted.

    Raises:
        InputError: there is no such directory.
    """
    try:
        found = sorted(directory.iterdir())
    except OSError as error:
        raise InputError(
            f"{directory}: the directory of profiles cannot be read: {error.strerror}",
            hint="run the command in a checkout of this project",
        ) from error
    return tuple(path.stem for path in found if path.suffix == SUFFIX and not path.name.startswith("."))


def find(name: str, directory: Path) -> Profile:
    """Read the profile of an operating system.

    Args:
        name: what the user typed after ``--os``.
        directory: where the profiles are.

    Raises:
        InputError: no profile is called so (the message lists those there are), or it is not usable.
    """
    known = names(directory)
    if name not in known:
        raise InputError(f"unknown OS {name!r}; known: {_listed(known)}", hint=_choose(name, known, "--os"))
    return load(directory / f"{name}{SUFFIX}")


def select(profile: Profile, release: str | None, arch: Architecture) -> Release:
    """Return the release to build.

    Args:
        profile: the operating system.
        release: what the user typed after ``--release``; the profile's default if None.
        arch: the architecture, which the release must have.

    Raises:
        InputError: the profile has no such release, or the release has no such architecture.
    """
    wanted = profile.default_release if release is None else release
    found = profile.releases.get(wanted)
    if found is None:
        known = tuple(profile.releases)
        raise InputError(
            f"{profile.name} has no release {wanted!r}; known: {_listed(known)}",
            hint=_choose(wanted, known, "--release"),
        )
    if arch not in found.arch:
        raise InputError(
            f"{profile.name} {wanted} is not built for {arch}; it is for: {_listed(found.arch)}",
            hint=f"choose one of them with --arch, or describe {arch} under releases.{wanted}.arch of the profile",
        )
    return found


# --- reading -----------------------------------------------------------------------------------------------


class _NodeLoader(yaml.CSafeLoader):
    """The safe loader without timestamps: no key holds one, and an impossible date would end in a bare ValueError."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - a copy of the class's own, never changed
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TAG + "timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path and its mode") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: this is not UTF-8 text", hint="save the file as UTF-8") from error


def _syntax_problem(error: yaml.YAMLError | ValueError, text: str) -> _Problem:
    what, line, advice = str(error), 0, "check indentation, colons and quotes there and just above"
    if isinstance(error, yaml.MarkedYAMLError):
        what = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        if error.context_mark and error.context_mark.line + 1 != line:
            what += f" (it begins on line {error.context_mark.line + 1})"
    elif isinstance(error, yaml.reader.ReaderError):
        what, advice = f"a control character (#x{error.character:02x})", "remove it"
        line = text[: text.find(chr(error.character))].count("\n") + 1
    return _Problem(line, "", f"this is not valid YAML: {what}", advice)


def _node_problems(loader: _NodeLoader, root: yaml.Node | None) -> Iterator[_Problem]:
    """Find what the construction of data would swallow: duplicate keys, and tags that do not fit."""
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node, Location]] = [] if root is None else [(root, ())]
    while waiting:
        node, location = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if not _tag_fits(loader, node):
            yield _Problem(_line(node), _key(location), f"tag {node.tag!r} is not used in profiles", "remove it")
        if isinstance(node, yaml.MappingNode):
            yield from _duplicates(node, location)
            waiting += [(value, (*location, str(key.value))) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(item, (*location, index)) for index, item in enumerate(node.value)]


def _tag_fits(loader: _NodeLoader, node: yaml.Node) -> bool:
    if isinstance(node, yaml.ScalarNode):
        return node.tag in (TEXT, _plain_tag(loader, node.value))
    return bool(node.tag == (MAPPING if isinstance(node, yaml.MappingNode) else LIST))


def _plain_tag(loader: _NodeLoader, value: str) -> str:
    return str(loader.resolve(yaml.ScalarNode, value, (True, False)))  # type: ignore[no-untyped-call]


def _duplicates(node: yaml.MappingNode, location: Location) -> Iterator[_Problem]:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue  # refused when the data is made
        identity = (key.tag, key.value)
        if identity in first:
            what = f"duplicate key, first seen on line {first[identity]}"
            yield _Problem(_line(key), _key((*location, key.value)), what, "keep one of them")
        first.setdefault(identity, _line(key))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


# --- checking ----------------------------------------------------------------------------------------------


def _validate(path: Path, root: yaml.Node, data: object) -> Profile:
    try:
        profile = Profile.model_validate(data)
        problems = []
    except ValidationError as error:
        profile = None
        problems = [_problem(root, detail) for detail in error.errors(include_url=False)]
    name = data.get("name") if isinstance(data, dict) else None
    if isinstance(name, str) and name != path.stem:
        line = _position(root, ("name",))
        problems.append(_Problem(line, "name", f"{name!r} is not the file's name", f"write {path.stem!r}"))
    if profile is None or problems:
        raise _error(path, sorted(problems))
    return profile


def _problem(root: yaml.Node, detail: ErrorDetails) -> _Problem:
    location = detail["loc"]
    if location[-1:] == (KEY_ITSELF,):
        location = location[:-1]
    what, advice = _explain(location, detail)
    written = _as_written(location)
    return _Problem(_position(root, written), _key(written), what, advice)


def _as_written(location: Location) -> Location:
    """Return the keys as they stand in the file: after ``base``, pydantic puts the kind that was chosen."""
    is_base = location[:1] == ("releases",) and location[2:3] == ("base",)
    return location[:3] + location[4:] if is_base else location


def _explain(location: Location, detail: ErrorDetails) -> tuple[str, str]:
    """Say in plain words what a validation error means, and what to write instead."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    subject = f"the key {value!r}" if detail["loc"][-1:] == (KEY_ITSELF,) else repr(value)
    match kind:
        case "missing":
            return "missing key", f"add '{location[-1]}:'"
        case "extra_forbidden":
            return "unknown key", _valid_key(location)
        case "string_pattern_mismatch":
            return f"{subject} does not fit", f"write {PATTERN_MEANINGS.get(context['pattern'], context['pattern'])}"
        case "enum" | "literal_error":
            known = re.findall("'([^']*)'", context["expected"])
            return f"{subject} is not known here", _choose(str(value), known)
        case "union_tag_not_found":
            return "missing key", "add 'kind:'"
        case "union_tag_invalid":
            known = re.findall("'([^']*)'", context["expected_tags"])
            return f"kind {context['tag']!r} is not known here", _choose(context["tag"], known)
        case "value_error":
            return str(context["error"]), ""
        case _:
            return _explain_type(kind, value) or (detail["msg"][:1].lower() + detail["msg"][1:], "")


def _explain_type(kind: str, value: object) -> tuple[str, str] | None:
    match kind:
        case "string_type":
            return f"must be text, not {_kind(value)}", _quoted(value)
        case "tuple_type":
            return f"must be a list, not {_kind(value)}", "write it as [a, b] or as lines that begin with '- '"
        case "dict_type" | "model_type":
            return f"must be a mapping of keys to values, not {_kind(value)}", ""
        case "invalid_key":
            return "a key must be text", "put it in quotes"
        case "too_short":
            return "must not be empty", ""
        case _:
            return None


def _quoted(value: object) -> str:
    return f'put it in quotes: "{value}"' if isinstance(value, bool | int | float) else ""


def _kind(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return f"the truth value {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}"
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _valid_key(location: Location) -> str:
    model = _model_at(Profile, location[:-1])
    valid = tuple(model.model_fields) if model else ()
    return _choose(str(location[-1]), valid)


def _model_at(annotation: object, location: Location) -> type[BaseModel] | None:
    """Follow a location through the models' annotations; None if no model is there."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not location:
            return annotation
        field = annotation.model_fields.get(str(location[0]))
        return _model_at(field.annotation, location[1:]) if field else None
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (dict, tuple):
        return _model_at(arguments[min(1, len(arguments) - 1)], location[1:]) if location else None
    for argument in arguments:  # a union: pydantic puts the tag of the chosen model into the location
        if isinstance(argument, type) and issubclass(argument, BaseModel) and _is_tagged(argument, location[:1]):
            return _model_at(argument, location[1:])
    return None


def _is_tagged(model: type[BaseModel], tag: Location) -> bool:
    return any(tag == typing.get_args(field.annotation) for field in model.model_fields.values())


def _position(root: yaml.Node, location: Location) -> int:
    """Return the line of a location; what is not there has the line of the nearest mapping around it."""
    node, line = root, _line(root)
    for part in location:
        if isinstance(node, yaml.MappingNode):
            # The last one counts: merged keys are put before a mapping's own.
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if found:
                line, node = _line(found[-1][0]), found[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = _line(node)
    return line


def _key(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


# --- telling -----------------------------------------------------------------------------------------------


def _error(path: Path, problems: Sequence[_Problem]) -> InputError:
    if len(problems) == 1:
        return InputError(problems[0].show(path), hint=problems[0].advice or "correct this line and try again")
    lines = [f"{problem.show(path)}{f' ({problem.advice})' if problem.advice else ''}" for problem in problems]
    return InputError("\n".join(lines), hint=f"correct these {len(lines)} places and try again")


def _listed(known: Iterable[str]) -> str:
    return ", ".join(known) or "none"


def _choose(wrong: str, known: Iterable[str], option: str = "") -> str:
    """Advise the nearest of the known words; all of them if none is near."""
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(wrong.lower(), by_lower, n=1)
    before = f"{option} " if option else ""
    if near:
        return f"did you mean '{before}{by_lower[near[0]]}'?"
    return f"choose {before}one of: {_listed(by_lower.values())}"
