"""What the documents say is so: links, commands, keys and messages exist."""

from __future__ import annotations

import ast
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest
from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.program import Program

import tasks
from pipeline.profile.model import Profile
from pipeline.quality import ROOT

DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
COMMANDS = Collection.from_module(tasks)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INVOKE = "./invoke"
PLACEHOLDERS = {"<release>": "12", "<arch>": "amd64", "<os>": "debian"}

documents = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def prose(text: str) -> str:
    """Return a document without its fenced blocks."""
    return BLOCK.sub("", text)


def table(text: str, *header: str) -> list[list[str]]:
    """Return the rows of every table whose header begins with these cells."""
    rows: list[list[str]] = []
    inside = False
    for line in prose(text).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[: len(header)] == list(header):
            inside = True
        elif inside and set(cells[0]) - set("- "):
            rows.append(cells)
    return rows


# ---------------------------------------------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """Return the anchors that a reader's browser makes of the headings."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    broken = []
    for link in LINK.findall(prose(path.read_text())):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        there = (path.parent / target).resolve() if target else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text())):
            broken.append(link)
    return broken


@documents
def test_relative_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("# A title\n[x](a.md) [x](#a-title) [x](https://example.org/) [x](b.md) [x](a.md#other)\n")
    assert broken_links(document) == ["b.md", "a.md#other"]


def test_the_readme_leads_to_every_document() -> None:
    linked = {(ROOT / link).resolve() for link in LINK.findall((ROOT / "README.md").read_text()) if "://" not in link}
    assert {path for path in DOCS if path.parent.name == "docs"} <= linked


# ------------------------------------------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every ``./invoke`` that a document shows, in blocks and at the beginning of spans."""
    lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines()]
    for shown in [*lines, *SPAN.findall(prose(text))]:
        for part in re.split(r"&&|\|\||[;|]", shown):
            words = shlex.split(part, comments=True) if INVOKE in part else []
            while words and "=" in words[0]:
                words = words[1:]  # a variable for this command
            if words[:1] == [INVOKE]:
                yield [PLACEHOLDERS.get(word, word) for word in words[1:]]


def refusal(words: list[str]) -> str:
    """Say why invoke would not take these arguments; empty if it would."""
    parser = Parser(initial=Program(namespace=COMMANDS).initial_context, contexts=COMMANDS.to_contexts())
    try:
        parser.parse_argv(words)
    except ParseError as error:
        return f"{INVOKE} {shlex.join(words)}: {error}"
    return ""


@documents
def test_shown_commands_exist_with_their_options(path: Path) -> None:
    assert [said for words in commands(path.read_text()) if (said := refusal(words))] == []


def test_commands_are_found_in_a_text() -> None:
    text = "`./invoke list`, `A=1 ./invoke build --arch arm64`\n```sh\n./invoke build && ./invoke verify  # both\n```\n"
    assert list(commands(text)) == [["build"], ["verify"], ["list"], ["build", "--arch", "arm64"]]


@pytest.mark.parametrize(
    "words", [["biuld"], ["build", "--architecture", "arm64"], ["list", "--os", "debian"]], ids=str
)
def test_a_wrong_command_is_seen(words: list[str]) -> None:
    assert refusal(words)


def test_every_task_is_in_the_readme() -> None:
    rows = table((ROOT / "README.md").read_text(), "command", "what it does")
    shown = {" ".join(row[0].strip("`").split()[:2]) for row in rows}  # what follows stands for an argument
    assert shown == {f"{INVOKE} {name}" for name in COMMANDS.task_names}


def test_the_readme_has_both_commands_and_a_picture() -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    shell = "".join(text for language, text in blocks if language == "sh")
    assert f"{INVOKE} build" in shell
    assert f"{INVOKE} verify" in shell
    assert next(text for language, text in blocks if language == "mermaid").startswith("flowchart")


# ----------------------------------------------------------------------------------------------------- keys


def keys(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every key of a profile as a path, and whether it is required."""
    for name, field in model.model_fields.items():
        path = prefix + name
        inner = field.annotation
        if typing.get_origin(inner) is dict:
            value = typing.get_args(inner)[1]
            below = {"releases": "<release>", "arch": "<arch>"}.get(name, "")
            yield path, field.is_required()
            if isinstance(value, type) and issubclass(value, pydantic.BaseModel):
                yield from keys(value, f"{path}.{below}.")
            continue
        yield path, field.is_required()
        for one in models(inner):
            yield from keys(one, f"{path}.")


def models(annotation: object) -> list[type[pydantic.BaseModel]]:
    """Return the models of an annotation: one, those of a union, or that of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models(argument)]


def test_every_key_of_a_profile_is_described_and_no_other() -> None:
    rows = table((ROOT / "docs/adding-an-os.md").read_text(), "key", "required")
    described = [(row[0].strip("`"), row[1] == "yes") for row in rows]
    assert sorted(described) == sorted(set(keys(Profile)))  # kinds of a base share some


# ------------------------------------------------------------------------------------------------- messages


def texts_of_the_code() -> str:
    """Return every text in the code, and the front door whole."""
    found = [(ROOT / "invoke").read_text()]
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n\0".join(found)


def test_every_quoted_message_is_one_of_the_programs() -> None:
    code = texts_of_the_code()
    rows = table((ROOT / "docs/troubleshooting.md").read_text(), "message", "what it means")
    assert len(rows) > 40
    missing = [
        piece
        for row in rows
        for message in SPAN.findall(row[0])
        for piece in message.split("…")
        if piece.strip() and piece.strip() not in code
    ]
    assert missing == []


# -------------------------------------------------------------------------------------------- this machine


@documents
def test_no_path_of_a_machine(path: Path) -> None:
    assert (
        re.findall(r"(?<![\w>.*~-])/(?:home|work|Users|mnt)/\S*|(?<![\w>.*~-])/root/\S+|/tmp/\w+", path.read_text())
        == []
    )
