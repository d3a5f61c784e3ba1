"""Reads what builds, matrices and verifications have left behind; a file that is broken is named, and left out."""

from __future__ import annotations

import datetime
import os
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pipeline import image
from pipeline.core import progress
from pipeline.image import Record
from pipeline.matrix.model import Report, Result, Status
from pipeline.matrix.report.found import Everything, Failure, Found, Manifest, Package, Problem, Verification

KINDS = ("uefi", "bios", "offline")
LOG_LINES = 40
LOG_BYTES = 64 * 1024  # of a log's end, in which these lines are looked for
MESSAGE_LENGTH = 4000  # characters of a failed test's message; all of it is in pytest's own report

Value = TypeVar("Value")


class BootTimes(BaseModel):
    """What the page shows of ``verify/<kind>.boot.json``."""

    accelerator: str
    seconds_until_ssh: float = Field(ge=0, allow_inf_nan=False)


class Reader:
    """Reads files below one directory, and notes those that are broken.

    Args:
        build_dir: directory of all images.
    """

    def __init__(self, build_dir: Path) -> None:
        self.build_dir = build_dir
        self.problems: list[Problem] = []

    def read(self, path: Path, parse: Callable[[bytes], Value]) -> Value | None:
        """Return what is in a file; None if there is none, or it is broken, which is noted."""
        try:
            return parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            self.note(path, _reason(error))
        except (OSError, ValueError, ET.ParseError) as error:
            self.note(path, (error.strerror if isinstance(error, OSError) else "") or str(error))
        return None

    def note(self, path: Path, what: str) -> None:
        """Note a broken file."""
        is_below = path.is_relative_to(self.build_dir)
        self.problems.append(Problem(f"build/{path.relative_to(self.build_dir)}" if is_below else str(path), what))


def read(build_dir: Path) -> Everything:
    """Read everything that is known of the images in a directory.

    Args:
        build_dir: directory of all images.
    """
    reader = Reader(build_dir)
    matrix = reader.read(build_dir / "matrix.json", Report.model_validate_json)
    records = _records(reader)
    results = {cell.name: cell for cell in matrix.cells} if matrix else {}
    names = [*results, *sorted((_images(build_dir) | set(records)) - set(results))]
    images = tuple(_image(reader, name, results.get(name), records.get(name, ())) for name in names)
    missing = []
    if matrix is None and not _noted(reader, "matrix.json"):
        missing.append("No matrix was built here yet: ./invoke matrix")
    if not records and not _noted(reader, "history.jsonl"):
        missing.append("There is no history yet: it begins with the next build.")
    return Everything(build_dir, images, matrix, tuple(reader.problems), tuple(missing))


def _noted(reader: Reader, file: str) -> bool:
    return any(problem.file == f"build/{file}" for problem in reader.problems)


def _records(reader: Reader) -> dict[str, tuple[Record, ...]]:
    """Return the builds of every image."""
    path = reader.build_dir / "history.jsonl"
    try:
        history = image.read_history(reader.build_dir)
    except OSError as error:
        reader.note(path, error.strerror or str(error))
        return {}
    if history.unreadable:
        word = "lines are" if history.unreadable > 1 else "line is"
        reader.note(path, f"{history.unreadable} {word} cut off, or not from this version")
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in history.records:
        found[record.name].append(record)
    return {name: tuple(records) for name, records in found.items()}


def _images(build_dir: Path) -> set[str]:
    """Return the names of the directories that hold a node image; others, as bundles, are none of ours."""
    return {path.parent.name for path in build_dir.glob("[!.]*/*.qcow2") if path.stem == path.parent.name}


def _image(reader: Reader, name: str, result: Result | None, records: tuple[Record, ...]) -> Found:
    directory = reader.build_dir / name
    if directory.parent != reader.build_dir or name in {"", "..", "."}:
        reader.note(reader.build_dir / "matrix.json", f"{name!r} is no name of an image")
        directory = reader.build_dir / "?"
    elif result is not None and result.artifact.startswith("/") and not directory.is_dir():
        directory = Path(result.artifact)  # where a build server has left it
    failed = result is not None and result.status is Status.FAILED
    manifest = reader.read(directory / "manifest.json", Manifest.model_validate_json)
    if manifest is None and directory.is_dir() and not (directory / "manifest.json").exists():
        reader.note(directory / "manifest.json", "is not there")
    packages = reader.read(directory / "packages.json", TypeAdapter(tuple[Package, ...]).validate_json)
    if packages is None and manifest is not None and not (directory / "packages.json").exists():
        reader.note(directory / "packages.json", "is not there")
    return Found(
        name=name,
        directory=directory,
        result=result,
        manifest=manifest,
        packages=packages,
        verifications=tuple(filter(None, (_verification(reader, directory / "verify", kind) for kind in KINDS))),
        records=records,
        log=_log(reader, result) if failed and result else (),
    )


def _reason(error: ValidationError) -> str:
    """Say in one line why a file is not as it should be."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


# --- verifications


def _verification(reader: Reader, directory: Path, kind: str) -> Verification | None:
    found = reader.read(directory / f"{kind}.xml", lambda content: _junit(content, kind))
    if found is None:
        return None
    boot = reader.read(directory / f"{kind}.boot.json", BootTimes.model_validate_json)
    page = directory / f"{kind}.html"
    return Verification(
        kind=kind,
        passed=found.passed,
        skipped=found.skipped,
        failures=found.failures,
        seconds=found.seconds,
        when=found.when,
        boot_seconds=boot.seconds_until_ssh if boot else None,
        accelerator=boot.accelerator if boot else "",
        page=page if page.is_file() else None,
    )


def _junit(content: bytes, kind: str) -> Verification:
    """Return what pytest wrote as JUnit XML.

    Raises:
        ET.ParseError: it is no XML.
        ValueError: it is not from pytest.
    """
    suite = ET.fromstring(content).find("testsuite")  # noqa: S314  pytest wrote it on this machine
    if suite is None:
        raise ValueError("there is no testsuite in it")
    failures, skipped, cases = [], 0, suite.findall("testcase")
    for case in cases:
        bad = next((child for child in case if child.tag in {"failure", "error"}), None)
        if bad is not None:
            message = (bad.get("message") or "").strip() or (bad.text or "").strip() or "no message"
            failures.append(Failure(f"{case.get('classname')}::{case.get('name')}", message[:MESSAGE_LENGTH]))
        elif case.find("skipped") is not None:
            skipped += 1
    when = suite.get("timestamp")
    return Verification(
        kind=kind,
        passed=len(cases) - len(failures) - skipped,
        skipped=skipped,
        failures=tuple(failures),
        seconds=float(suite.get("time", "0")),
        when=datetime.datetime.fromisoformat(when) if when else None,
    )


# --- logs


def _log(reader: Reader, result: Result) -> tuple[str, ...]:
    """Return the last lines of the log of a build that failed."""
    path = reader.build_dir / (result.log or "")
    if result.log is None or ".." in Path(result.log).parts or not path.is_relative_to(reader.build_dir):
        return ()
    text = reader.read(path, lambda content: content[-LOG_BYTES:].decode(errors="replace"))
    if text is None:
        return ()
    lines = progress.TERMINAL_CODES.sub("", text).splitlines()
    return tuple(line.rstrip() for line in lines[-LOG_LINES:])


def link(path: Path, page: Path) -> str:
    """Return the address of a file as seen from the page, so that both may be moved together."""
    import urllib.parse

    return urllib.parse.quote(os.path.relpath(path.absolute(), page.absolute().parent))
