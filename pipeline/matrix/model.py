"""What goes into a cell's process and what comes out, and the result of a whole matrix (``build/matrix.json``)."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.arch import Architecture
from pipeline.image import Step


class Workshop(BaseModel):
    """Where everything is that the builds of a matrix need; it is the same for all of them.

    Attributes:
        profiles: directory of the profiles.
        overlays: directory of the overlays.
        build_dir: directory of the images.
        mirror: archive in place of the profiles' own, or None.
    """

    model_config = ConfigDict(frozen=True)

    profiles: Path
    overlays: Path
    build_dir: Path
    mirror: str | None = None


class RegistryAccess(BaseModel):
    """How a build server reaches the registry that images go to.

    Attributes:
        ca: PEM file of the authority that signed for it; None for the system's.
        auth_file: where the password is; None for where docker and podman look.
        insecure: believe any certificate.
        plain_http: no TLS.
    """

    model_config = ConfigDict(frozen=True)

    ca: Path | None = None
    auth_file: Path | None = None
    insecure: bool = False
    plain_http: bool = False


class Order(BaseModel):
    """One cell to be built, in words that another process understands.

    Attributes:
        os: name of the profile.
        release: the release's name.
        arch: the architecture.
        workshop: where everything is.
        locked: install exactly what the cell's lock names.
        version: of the project, which the one who builds must have; None if that is us anyway.
        epoch: SOURCE_DATE_EPOCH of the one who ordered it from a build server.
        artifacts: where the image goes afterwards: a directory, or ``oci://REGISTRY/REPOSITORY``; None if it stays.
        registry: how that registry is reached.
        server: name of the build server; empty if that is this machine.
    """

    model_config = ConfigDict(frozen=True)

    os: str
    release: str
    arch: Architecture
    workshop: Workshop
    locked: bool = False
    version: str | None = None
    epoch: str | None = None
    artifacts: str | None = None
    registry: RegistryAccess | None = None
    server: str = ""

    @property
    def name(self) -> str:
        """Name of the image and of its directory."""
        return f"{self.os}-{self.release}-{self.arch}"

    @property
    def identity(self) -> dict[str, Any]:
        """What the result of this cell begins with."""
        named = {"name": self.name, "os": self.os, "release": self.release, "arch": self.arch}
        return named | {"server": self.server} if self.server else named

    @property
    def log(self) -> Path:
        """The build's log."""
        return self.workshop.build_dir / "logs" / f"{self.name}.log"


class Status(enum.StrEnum):
    """How it went with a cell."""

    BUILT = "built"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    SKIPPED = "skipped"


class Result(BaseModel):
    """What became of one cell.

    Attributes:
        name: of the image.
        os: its profile.
        release: its release.
        arch: its architecture.
        status: how it went.
        seconds: wall clock time.
        steps: how long each step took, in the order they were begun; of a failed cell, those that were begun.
        size: of the image in bytes; None if there is none.
        packages: how many it has; None if that is not known.
        error: what went wrong; empty if nothing did.
        hint: what to do then.
        exit_code: what ``./invoke build`` would have ended with.
        log: the build's log, relative to the directory of the images; None if there is none.
        server: name of the build server; empty if it was this machine.
        artifact: where the image was collected: a path, or ``REGISTRY/REPOSITORY:TAG@DIGEST``; empty if it was not.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    os: str
    release: str
    arch: Architecture
    status: Status
    seconds: float
    steps: tuple[Step, ...] = ()
    size: int | None = None
    packages: int | None = None
    error: str = ""
    hint: str = ""
    exit_code: int = 0
    log: str | None = None
    server: str = ""
    artifact: str = ""


class Report(BaseModel):
    """What became of a matrix.

    Attributes:
        schema_: version of this form; ``schema`` in the file.
        started: when it began.
        finished: when it ended.
        cells: one result for each cell, in the order of the matrix.
    """

    model_config = ConfigDict(frozen=True)

    schema_: Literal[1] = Field(default=1, alias="schema")
    started: datetime.datetime
    finished: datetime.datetime
    cells: tuple[Result, ...]

    @property
    def exit_code(self) -> int:
        """The highest exit code of its cells: 0 if all is well, a defect of this program above all else."""
        return max((cell.exit_code for cell in self.cells), default=0)

    @property
    def failed(self) -> tuple[Result, ...]:
        """The cells that failed."""
        return tuple(cell for cell in self.cells if cell.status is Status.FAILED)
