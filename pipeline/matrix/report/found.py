"""What is known of images: the forms of the files that are read, and what was found in them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.image import Record
from pipeline.matrix.model import Report, Result


class ImageFile(BaseModel):
    """The qcow2, as ``manifest.json`` describes it; sizes in bytes."""

    model_config = ConfigDict(frozen=True)

    file: str
    size: int = Field(ge=0)
    virtual_size: int = Field(ge=0)
    sha256: str


class TreeSizes(BaseModel):
    """What the files of an image take, in bytes: all of them, and those of the larger directories."""

    model_config = ConfigDict(frozen=True)

    size: int = Field(ge=0)
    directories: dict[str, int]


class Manifest(BaseModel):
    """Those parts of ``manifest.json`` that the page shows; what else is in there is no business of ours."""

    model_config = ConfigDict(frozen=True)

    os: str
    title: str
    release: str
    arch: str
    key: str
    created: datetime.datetime
    image: ImageFile
    kernels: tuple[str, ...]
    tree: TreeSizes
    largest_packages: dict[str, int]


class Package(BaseModel):
    """One entry of ``packages.json``; what else is in there is no business of ours."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    size: int = Field(ge=0)


@dataclass(frozen=True)
class Failure:
    """A test that did not pass.

    Attributes:
        test: its name.
        message: what pytest said, possibly many lines.
    """

    test: str
    message: str


@dataclass(frozen=True)
class Verification:
    """What ``./invoke verify`` found once.

    Attributes:
        kind: ``uefi``, ``bios`` or ``offline``.
        passed: number of tests that passed.
        skipped: number of those that do not apply.
        failures: those that did not pass.
        seconds: how long the tests took.
        when: when they were begun; None if that is not known.
        boot_seconds: from power on until ssh answered; None if it was not booted, or that is not known.
        accelerator: what the machine ran on; empty if that is not known.
        page: pytest's own report; None if it is not there.
    """

    kind: str
    passed: int
    skipped: int
    failures: tuple[Failure, ...]
    seconds: float
    when: datetime.datetime | None = None
    boot_seconds: float | None = None
    accelerator: str = ""
    page: Path | None = None


@dataclass(frozen=True)
class Found:
    """All that is known of one image.

    Attributes:
        name: of the image and its directory.
        directory: where it is, or would be.
        result: what became of it in the last matrix; None if it was not part of it.
        manifest: None if there is no image, or it cannot be read.
        packages: in the order of the file; None if they cannot be read.
        verifications: in the order of their kinds.
        records: its builds, the oldest first.
        log: the end of the build's log, if the build failed.
    """

    name: str
    directory: Path
    result: Result | None = None
    manifest: Manifest | None = None
    packages: tuple[Package, ...] | None = None
    verifications: tuple[Verification, ...] = ()
    records: tuple[Record, ...] = ()
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A file that is broken, or is not there though it should be.

    Attributes:
        file: which; ``build/`` stands for the directory of the images.
        what: what is wrong with it.
    """

    file: str
    what: str


@dataclass(frozen=True)
class Everything:
    """What the page is made of.

    Attributes:
        build_dir: directory of all images.
        images: in the order of the matrix, then by name.
        matrix: the last matrix; None if there was none, or it cannot be read.
        problems: files that are broken.
        missing: what was never made, in words for the user.
    """

    build_dir: Path
    images: tuple[Found, ...]
    matrix: Report | None
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]
