"""A built image, as the lab sees it: the directory that ``invoke build`` leaves, read back from its manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydantic

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, VerificationError
from pipeline.profile import Expectations

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Image:
    """An image and what its manifest says of it.

    Attributes:
        directory: where it and its papers are.
        name: ``<os>-<release>-<arch>``.
        arch: the architecture it runs on.
        file: the qcow2.
        virtual_size: bytes of the disk that a machine sees.
        sha256: of the qcow2, in hex.
        expectations: what a booted machine must show.
    """

    directory: Path
    name: str
    arch: Architecture
    file: Path
    virtual_size: int
    sha256: str
    expectations: Expectations


def read(directory: Path) -> Image:
    """Read an image's manifest.

    Args:
        directory: what ``invoke build`` made.

    Raises:
        InputError: there is none, or it cannot be understood.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(f"there is no image in {directory}: {MANIFEST} is missing", hint="build it: ./invoke build")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["schema"] != SCHEMA:
            raise ValueError(f"its schema is {manifest['schema']}, not {SCHEMA}")
        return Image(
            directory=directory,
            name=str(manifest["name"]),
            arch=Architecture(manifest["arch"]),
            file=directory / str(manifest["image"]["file"]),
            virtual_size=int(manifest["image"]["virtual_size"]),
            sha256=str(manifest["image"]["sha256"]),
            expectations=Expectations.model_validate(manifest["expectations"]),
        )
    except (ValueError, KeyError, TypeError, pydantic.ValidationError) as error:
        what = f"{path} is not a manifest of this version: {type(error).__name__}: {error}"
        raise InputError(what, hint="build the image again: ./invoke build") from error


def check_unchanged(image: Image) -> None:
    """Compare an image's qcow2 with its manifest.

    Raises:
        InputError: the file is gone.
        VerificationError: it is not the one that was built.
    """
    if not image.file.is_file():
        raise InputError(f"there is no image {image.file}", hint="build it: ./invoke build")
    with image.file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != image.sha256:
        raise VerificationError(
            f"{image.file} is not what was built: its sha256 is {found}, the manifest says {image.sha256}",
            hint="build it again: ./invoke build",
        )
