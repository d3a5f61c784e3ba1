"""What is published: a build directory, read once and compared with its checksums."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import oci
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, VerificationError
from pipeline.image.artifact.layer import Layer

SUMS, MANIFEST = "SHA256SUMS", "manifest.json"
LARGEST_FILE = 64 * 1024**2  # bytes; files other than the disk are held in memory
LONGEST_NAME = 80  # of an image: its file's path in the layer has to fit into the 100 bytes of a tar header
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)  # what else is there is for others

    file: str
    size: int
    sha256: str


class _Provenance(BaseModel):
    model_config = ConfigDict(frozen=True)

    revision: str = ""


class Facts(BaseModel):
    """What is needed of an image's ``manifest.json``.

    Attributes:
        name: ``<os>-<release>-<arch>``.
        os: the profile.
        title: what people call the operating system.
        release: the release's name.
        arch: the architecture.
        epoch: time of the newest input, in seconds since 1970.
        image: the qcow2.
        provenance: where it comes from.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    os: str
    title: str
    release: str
    arch: Architecture
    epoch: int
    image: _File
    provenance: _Provenance = _Provenance()

    @property
    def tag(self) -> str:
        """Tag of the index of all architectures."""
        return self.sibling("").rstrip("-")

    def sibling(self, arch: str) -> str:
        """Return the name of the same image for an architecture."""
        return f"{self.os}-{self.release}-{arch}"


@dataclass(frozen=True)
class Source:
    """A build directory that is whole.

    Attributes:
        facts: what the image is.
        layer: the layer with the qcow2.
        digest: the layer's.
        files: all other files by name, SHA256SUMS too.
    """

    facts: Facts
    layer: Layer
    digest: str
    files: Mapping[str, bytes]


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Source]:
    """Read a build directory; its qcow2 stays open, so that it may be replaced meanwhile.

    Raises:
        InputError: there is no image, or it is not whole.
        VerificationError: a file is not what SHA256SUMS says.
    """
    if not directory.is_dir():
        raise InputError(
            f"there is no image {directory.name} in {directory.parent}",
            hint="./invoke list shows what is built; ./invoke build builds it",
        )
    listing = _read(directory, SUMS)
    sums = parse_sums(listing, str(directory / SUMS))
    files = {name: _checked(directory, name, sums[name]) for name in sums if not name.endswith(".qcow2")}
    if MANIFEST not in files:
        _not_whole(directory, f"{SUMS} does not list {MANIFEST}")
    facts = parse_facts(files[MANIFEST], str(directory / MANIFEST))
    check_sums(facts, sums, str(directory))
    path = directory / facts.image.file
    try:
        file = path.open("rb")
    except OSError as error:
        _not_whole(directory, f"{path.name}: {error.strerror}")
    with file:
        layer = Layer(file, path, facts.epoch)
        sha256, digest = layer.digests()
        if sha256 != sums[path.name]:
            _differs(path)
        yield Source(facts, layer, digest, files | {SUMS: listing})


def parse_sums(data: bytes, what: str) -> dict[str, str]:
    """Return what SHA256SUMS says, by file.

    Raises:
        VerificationError: it cannot be that of an image.
    """
    lines = data.decode(errors="replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in found if match}
    if not lines or len(sums) != len(lines) or SUMS in sums:
        raise VerificationError(f"{what} is damaged: not one sha256 and one name a line", hint=_again("the image"))
    return sums


def parse_facts(data: bytes, what: str) -> Facts:
    """Return what an image's ``manifest.json`` says.

    Raises:
        InputError: it is not that of an image.
    """
    try:
        facts = Facts.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{what}: {where}: {first['msg']}", hint=_again("the image")) from error
    fits = facts.name == facts.sibling(facts.arch) and facts.image.file == f"{facts.name}.qcow2"
    if not fits or not oci.is_tag(facts.name) or len(facts.name) > LONGEST_NAME:
        raise InputError(f"{what}: {facts.name!r} cannot be the name of an image and its tag", hint=_again("the image"))
    return facts


def check_sums(facts: Facts, sums: Mapping[str, str], what: str) -> None:
    """Compare what the two lists say of the disk.

    Raises:
        VerificationError: they do not fit together.
    """
    disks = {name for name in sums if name.endswith(".qcow2")}
    if disks != {facts.image.file} or sums[facts.image.file] != facts.image.sha256:
        raise VerificationError(f"{what}: {SUMS} and {MANIFEST} are not of one image", hint=_again("the image"))


def _checked(directory: Path, name: str, sha256: str) -> bytes:
    data = _read(directory, name)
    if hashlib.sha256(data).hexdigest() != sha256:
        _differs(directory / name)
    return data


def _read(directory: Path, name: str) -> bytes:
    path = directory / name
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: is larger than {LARGEST_FILE} bytes", hint="only the disk may be so large")
        return path.read_bytes()
    except OSError as error:
        _not_whole(directory, f"{name}: {error.strerror}")


def _not_whole(directory: Path, why: str) -> NoReturn:
    raise InputError(f"{directory} is not a whole image: {why}", hint=_again(directory.name))


def _differs(path: Path) -> NoReturn:
    raise VerificationError(f"{path} is not what {SUMS} says", hint=_again(path.parent.name))


def _again(name: str) -> str:
    return f"if {name} is not just being built: remove it with ./invoke clean --name NAME, and build it again"
