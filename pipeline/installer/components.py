"""What the installer carries: ``image.yaml`` and ``components.yaml``, and how a component's files are had.

A component is one upstream artifact for each architecture: a binary as it is, or an archive of which some members are
taken. Nothing of it is run here, so no emulation is needed; that a binary is for the architecture it is meant for is
read from its ELF header.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import posixpath
import re
import shutil
import tarfile
import urllib.parse
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.core import download
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache
from pipeline.core.document import Model, load
from pipeline.core.errors import InputError, NetworkError
from pipeline.core.network import redact

NAME = r"^[a-z0-9][a-z0-9-]*$"
VERSION = r"^[A-Za-z0-9_][A-Za-z0-9._+~-]{0,127}$"
TAG = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"
URL = r"^(https?|file)://[^\s?#]+$"
FIELDS = ("version", "arch")
KUBERNETES = ("kubeadm", "kubelet", "kubectl")
MACHINES = {3: "i386", 8: "mips", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64"}
ELF, SCRIPT, HEADER, BIG_ENDIAN = b"\x7fELF", b"#!", 20, 2
RESERVED = {"kubernetes", "payload"}  # payload.env has a KUBERNETES_VERSION and a PAYLOAD_VERSION of its own
SHOWN_MEMBERS = 3

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
T = TypeVar("T")


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("something is there twice")
    return values


class ImageSpec(Model):
    """``image.yaml``: what the image is called, and for which architectures it is built.

    Attributes:
        title: its name.
        version: its version, which is also the tag it is pushed with.
        architectures: what ``--arch all`` means.
    """

    title: Annotated[str, StringConstraints(pattern=NAME)]
    version: Annotated[str, StringConstraints(pattern=TAG)]
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1)]

    _distinct = field_validator("architectures")(_distinct)


class Component(Model):
    """One upstream artifact.

    Attributes:
        version: its version, as the templates need it.
        url: where the artifact is; ``{version}`` and ``{arch}`` stand for what they say.
        checksum: where its sha256 is: alone, or in a list of sums with names.
        members: what to take out of an archive; without any, the artifact is the binary itself.
        arch: the architectures that it is to be had for.
    """

    version: Annotated[str, StringConstraints(pattern=VERSION)]
    url: Annotated[str, StringConstraints(pattern=URL)]
    checksum: Annotated[str, StringConstraints(pattern=URL)]
    members: tuple[str, ...] = ()
    arch: Annotated[tuple[Architecture, ...], Field(min_length=1)] = tuple(Architecture)

    _distinct = field_validator("arch")(_distinct)

    @field_validator("url", "checksum", "members")
    @classmethod
    def _known_fields(cls, template: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in [template] if isinstance(template, str) else template:
            if unknown := set(re.findall(r"\{([^{}]*)\}", text)) - set(FIELDS):
                raise ValueError(f"{{{sorted(unknown)[0]}}} is not known; there are {{version}} and {{arch}}")
        return template

    @field_validator("members")
    @classmethod
    def _safe_members(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        names = [posixpath.basename(member) for member in members]
        for member, name in zip(members, names, strict=True):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", name) or member.startswith("/"):
                raise ValueError(f"{member!r} is not the path of a file in an archive")
        _distinct(tuple(names))
        return members

    def rendered(self, template: str, arch: Architecture) -> str:
        """Return a template of this component with its fields filled in."""
        return template.replace("{version}", self.version).replace("{arch}", arch.oci)

    def files(self, name: str, arch: Architecture) -> dict[str, str]:
        """Return what the artifact gives: by file name the member of the archive; empty for the artifact itself."""
        if not self.members:
            return {name: ""}
        return {posixpath.basename(one): posixpath.normpath(self.rendered(one, arch)) for one in self.members}


class Components(Model):
    """``components.yaml``.

    Attributes:
        components: by name.
    """

    components: Annotated[
        dict[Annotated[str, StringConstraints(pattern=NAME)], Component],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _fits_together(self) -> Components:
        if wrong := RESERVED & set(self.components):
            raise ValueError(f"no component may be called {sorted(wrong)[0]}")
        found = {name: self.components[name].version for name in KUBERNETES if name in self.components}
        if len(set(found.values())) > 1:
            raise ValueError(f"the parts of Kubernetes must have one version: {found}")
        return self

    def of(self, arch: Architecture) -> dict[str, Component]:
        """Return the components of an architecture, sorted by name."""
        return {name: one for name, one in sorted(self.components.items()) if arch in one.arch}


@dataclass(frozen=True)
class Source:
    """What an installer image is made from.

    Attributes:
        directory: ``installer-image/``: ``image.yaml`` and ``payload/`` are there.
        components: the file with the components; its lock lies beside it.
    """

    directory: Path
    components: Path

    @classmethod
    def at(cls, directory: Path, components: Path | None = None) -> Source:
        """Return the source in a directory, with its own components or others."""
        return cls(directory, components or directory / "components.yaml")

    @property
    def lock(self) -> Path:
        """The file that pins the components."""
        return self.components.with_suffix(".lock")

    def read_image(self) -> ImageSpec:
        """Read ``image.yaml``.

        Raises:
            InputError: with every problem in it.
        """
        return load(self.directory / "image.yaml", ImageSpec, missing="run the command in a checkout of this project")

    def read_components(self) -> Components:
        """Read the components.

        Raises:
            InputError: with every problem in it.
        """
        return load(self.components, Components, missing="check the path after --components")


def mirrored(url: str, mirror: str | None) -> str:
    """Return where a mirror has what is at a URL: the mirror stands for scheme and host, the path stays.

    Args:
        url: as the component says.
        mirror: an http, https or file URL, or a directory; None for the origin itself.
    """
    if not mirror:
        return url
    base = mirror if re.match(r"(https?|file)://", mirror) else Path(mirror).absolute().as_uri()
    return base.rstrip("/") + urllib.parse.urlsplit(url).path


def fetch_artifact(
    cache: Cache, what: str, url: str, sha256: str, size: int | None = None, mirror: str | None = None
) -> Path:
    """Return an artifact, from the cache or else from where it is.

    Args:
        cache: where it is kept by its hash.
        what: the component, its version and architecture, for messages.
        url: as the component says.
        sha256: what it must hash to.
        size: its bytes, if known.
        mirror: see :func:`mirrored`.

    Raises:
        NetworkError: it cannot be had, or is another one.
        StorageError: it cannot be written.
    """

    def make(target: Path) -> None:
        try:
            download.fetch(mirrored(url, mirror), target / "artifact", sha256=sha256, size=size)
        except NetworkError as error:
            raise told(error, what, url, mirror) from error

    entry = cache.obtain("installer-artifact", {"sha256": sha256}, make)
    if entry.hit and sha256_of(entry.path / "artifact") != sha256:
        entry = cache.obtain("installer-artifact", {"sha256": sha256}, make, fresh=True)
    return entry.path / "artifact"


def told(error: NetworkError, what: str, url: str, mirror: str | None) -> NetworkError:
    """Say which component an error is of, and what a mirror has to look like."""
    hint = f"; the mirror keeps the path of {redact(url)}" if mirror else ""
    return NetworkError(f"{what}: {error.message}", hint=error.hint + hint)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def extract(artifact: Path, files: dict[str, str], arch: Architecture, target: Path, what: str) -> None:
    """Take a component's files out of its artifact, and prove that they are for an architecture.

    Args:
        artifact: what was fetched.
        files: from :meth:`Component.files`.
        arch: what they must be for; a script (``#!``) is for all.
        target: directory for them, made if missing.
        what: the component, its version and architecture, for messages.

    Raises:
        InputError: a member is missing, the artifact is no archive, or a file is for another architecture.
    """
    target.mkdir(parents=True, exist_ok=True)
    if "" in files.values():
        shutil.copyfile(artifact, target / next(iter(files)))
    else:
        _unpack(artifact, {member: name for name, member in files.items()}, target, what)
    for name in files:
        _check_machine(target / name, arch, f"{what}: {files[name] or name}")


def _unpack(artifact: Path, wanted: dict[str, str], target: Path, what: str) -> None:
    seen: list[str] = []
    missing = dict(wanted)
    try:
        with tarfile.open(artifact, "r:*") as archive:
            for info in archive:
                path = posixpath.normpath(info.name)
                seen.append(path)
                if path not in missing:
                    continue
                content = archive.extractfile(info) if info.isreg() else None
                if content is None:
                    raise InputError(f"{what}: {path} is not a plain file in the archive", hint="name what it leads to")
                with content, (target / missing.pop(path)).open("wb") as file:
                    shutil.copyfileobj(content, file)
                if not missing:
                    return
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        hint = "if it is the binary itself, leave out 'members'; else correct its url in components.yaml"
        raise InputError(f"{what}: its artifact is not a whole tar archive: {error}", hint=hint) from error
    member = next(iter(missing))
    base = posixpath.basename(member)
    near = [path for path in seen if posixpath.basename(path) == base] or difflib.get_close_matches(member, seen)
    raise InputError(
        f"{what}: the archive has no member {member!r}; it has {', '.join((near or seen)[:SHOWN_MEMBERS]) or 'none'}",
        hint="correct 'members' of this component in components.yaml",
    )


def _check_machine(path: Path, arch: Architecture, what: str) -> None:
    with path.open("rb") as file:
        header = file.read(HEADER)
    if header.startswith(SCRIPT):
        return
    if len(header) < HEADER or not header.startswith(ELF):
        raise InputError(f"{what} is neither an ELF binary nor a script", hint="correct its url in components.yaml")
    number = int.from_bytes(header[18:20], "big" if header[5] == BIG_ENDIAN else "little")
    machine = MACHINES.get(number, f"machine {number}")
    if machine != arch.value:
        raise InputError(
            f"{what} is a binary for {machine}, not for {arch}", hint="correct {arch} in its url in components.yaml"
        )
