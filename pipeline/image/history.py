"""The history of images: one JSON line in ``build/history.jsonl`` for every image that was built.

It outlives the images themselves, which a new build replaces, so that sizes and times can be followed over builds.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core import files, progress
from pipeline.core.errors import StorageError
from pipeline.core.progress import StepTime

FILE = "history.jsonl"
LIMIT = 8 * 1024**2  # bytes; with some 1.2 KB a build, far more than anybody looks at
DEPTH = 1  # steps below that are single scripts


class Step(BaseModel):
    """How long one step took, as :class:`pipeline.core.progress.StepTime` has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    depth: int = Field(ge=0)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    remark: str = ""

    @classmethod
    def of(cls, time: StepTime) -> Step:
        """Take over what a session has measured."""
        return cls(title=time.title, depth=time.depth, seconds=round(time.seconds, 3), remark=time.remark)


class Record(BaseModel):
    """One build.

    Attributes:
        schema_: version of this form; ``schema`` in the file.
        name: of the image.
        key: of the plan that it was built from; empty if it was built on another machine.
        time: when it was built.
        sha256: of the qcow2; empty if it was built on another machine.
        size: of the qcow2, in bytes.
        packages: how many it has; None if that is not known.
        seconds: wall clock time of all steps.
        steps: how long each took, in the order they were begun.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    key: str = ""
    time: datetime.datetime
    sha256: str = ""
    size: int = Field(ge=0)
    packages: int | None = Field(ge=0)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class History:
    """What was read.

    Attributes:
        records: builds, in the order they ended.
        unreadable: how many lines are none of ours: cut off by a full disk or a kill, or written by another version.
    """

    records: tuple[Record, ...]
    unreadable: int


def keep(build_dir: Path, directory: Path, times: Sequence[StepTime]) -> None:
    """Note the build of an image that was just published.

    The image is finished: if this cannot be written, the user is told, and nothing more happens.

    Args:
        build_dir: directory that holds all images.
        directory: the image's.
        times: how long each step took.
    """
    try:
        note(build_dir, _record(directory, times))
    except (OSError, StorageError) as error:
        reason = error.message if isinstance(error, StorageError) else str(error)
        progress.note(f"this build is not in the history: {reason}")


def keep_others(build_dir: Path, records: Iterable[Record], since: datetime.datetime) -> None:
    """Note builds of other machines, whose own histories this machine does not see.

    If this cannot be written, the user is told, and nothing more happens.

    Args:
        build_dir: directory that holds all images here.
        records: the builds.
        since: what was noted from then on is not noted again: the directory may be shared with those machines.
    """
    try:
        known = {record.name for record in read(build_dir).records if record.time >= since}
        for record in records:
            if record.name not in known:
                note(build_dir, record)
    except (OSError, StorageError) as error:
        reason = error.message if isinstance(error, StorageError) else str(error)
        progress.note(f"builds of other machines are not in the history: {reason}")


def note(build_dir: Path, record: Record) -> None:
    """Append a build to the history, whole or not at all; the oldest go when it becomes too large.

    Args:
        build_dir: directory that holds all images.
        record: the build.

    Raises:
        OSError: it cannot be written.
        StorageError: the same, while the oldest are removed.
    """
    path = build_dir / FILE
    line = record.model_dump_json(by_alias=True).encode() + b"\n"
    locks = build_dir / "logs"  # where also builds have theirs
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / "history.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_size + len(line) > LIMIT:
            files.write(path, _newest(path.read_bytes(), LIMIT // 2))
        _append(path, line)


def read(build_dir: Path) -> History:
    """Read the history.

    Args:
        build_dir: directory that holds all images.

    Returns:
        What can be read of it; nothing if there is none.

    Raises:
        OSError: there is a file, and it cannot be read.
    """
    try:
        lines = (build_dir / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return History((), 0)
    records, unreadable = [], 0
    for line in filter(bytes.strip, lines):
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError:
            unreadable += 1
    return History(tuple(records), unreadable)


def _record(directory: Path, times: Iterable[StepTime]) -> Record:
    """Return what is to be noted of an image."""
    manifest = json.loads((directory / "manifest.json").read_bytes())
    known = tuple(times)
    return Record(
        name=manifest["name"],
        key=manifest["key"],
        time=datetime.datetime.fromisoformat(manifest["created"]),
        sha256=manifest["image"]["sha256"],
        size=manifest["image"]["size"],
        packages=len(json.loads((directory / "packages.json").read_bytes())),
        seconds=round(sum(step.seconds for step in known if step.depth == 0), 3),
        steps=tuple(Step.of(step) for step in known if step.depth <= DEPTH),
    )


def _append(path: Path, line: bytes) -> None:
    """Append a line; of one that does not fit on the disk, nothing stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # somebody was killed in the middle of a line
            line = b"\n" + line
        try:
            if (written := os.write(descriptor, line)) < len(line):
                os.write(descriptor, line[written:])  # which says why
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _newest(content: bytes, limit: int) -> bytes:
    """Return the last lines, as many as fit."""
    return content[-limit:].partition(b"\n")[2] if len(content) > limit else content
