"""The plan of an installer image: every input resolved and checked, nothing written."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.core.cache import Json, key_of
from pipeline.core.errors import InputError
from pipeline.installer import lock, payload
from pipeline.installer.components import Component, Components, ImageSpec, Source
from pipeline.installer.lock import Lock, Pin

LATEST = 253402300799  # the last second of the year 9999, which is the last that RFC 3339 can write
NO_COMMIT = "unknown"
PIPELINE = Path(__file__).resolve().parents[1]
LAYER_CODE = ("installer/components.py", "oci/layer.py")
CODE = (*LAYER_CODE, "installer/image.py", "installer/payload.py", "oci/layout.py", "oci/model.py")


@dataclass(frozen=True)
class Plan:
    """What a build does.

    Attributes:
        spec: name and version.
        components: what it carries.
        lock: which artifacts of it.
        architectures: which images are made.
        payload: scripts and templates.
        revision: commit that last touched the installer, with ``-dirty`` if it was changed since.
        epoch: the image's date, in seconds since 1970: SOURCE_DATE_EPOCH, or the time of that commit.
        mirror: where artifacts are fetched from; no input, as their content is pinned.
        code: sha256 of the code that carries the plan out.
    """

    spec: ImageSpec
    components: Components
    lock: Lock
    architectures: tuple[Architecture, ...]
    payload: tuple[payload.File, ...]
    revision: str
    epoch: int
    mirror: str | None
    code: str

    @property
    def key(self) -> str:
        """Hash of every input."""
        return key_of("installer", self.inputs)

    @property
    def inputs(self) -> dict[str, Json]:
        """Everything that the image depends on."""
        return {
            "image": self.spec.model_dump(mode="json", exclude={"architectures"}),
            "architectures": [arch.value for arch in self.architectures],
            "components": {arch.value: self._pinned(arch) for arch in self.architectures},
            "payload": {file.path: f"{file.mode:04o} {file.sha256}" for file in self.payload},
            "revision": self.revision,
            "epoch": self.epoch,
            "code": self.code,
        }

    def _pinned(self, arch: Architecture) -> Mapping[str, Json]:
        return {
            name: {
                "version": one.version,
                "sha256": self.pin(name, arch).sha256,
                "files": one.files(name, arch),
            }
            for name, one in self.components_of(arch).items()
        }

    def components_of(self, arch: Architecture) -> dict[str, Component]:
        """Return what an architecture's image carries, sorted by name."""
        return self.components.of(arch)

    def pin(self, name: str, arch: Architecture) -> Pin:
        """Return the artifact of a component."""
        return self.lock.components[name].artifacts[arch]

    def text(self) -> str:
        """Return the whole plan as YAML, for ``--dry-run``."""
        document = {"key": self.key, **self.inputs}
        return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))


def resolve(source: Source, *, arch: str = "all", mirror: str | None = None) -> Plan:
    """Find out what would be built.

    Args:
        source: what it is made from.
        arch: one architecture, or ``all`` that ``image.yaml`` names.
        mirror: where artifacts are fetched from, in place of their origins.

    Raises:
        InputError: a file is missing or wrong, the lock does not fit, or the payload holds what it may not.
    """
    spec, components = source.read_image(), source.read_components()
    architectures = _architectures(spec, arch)
    revision, date = _commit(source.directory)
    return Plan(
        spec=spec,
        components=components,
        lock=lock.read(source, components, architectures),
        architectures=architectures,
        payload=payload.collect(source.directory / "payload"),
        revision=revision,
        epoch=_epoch(date),
        mirror=mirror,
        code=code_digest(),
    )


def _architectures(spec: ImageSpec, arch: str) -> tuple[Architecture, ...]:
    if arch == "all":
        return tuple(sorted(spec.architectures))
    chosen = Architecture.parse(arch)
    if chosen not in spec.architectures:
        raise InputError(
            f"image.yaml does not name {chosen}", hint=f"choose one of: {', '.join(spec.architectures)}, or add it"
        )
    return (chosen,)


def _commit(directory: Path) -> tuple[str, int]:
    """Return the commit that last touched a directory, and its time; a constant where there is no commit."""
    found = _git(directory, "log", "-1", "--format=%H %ct", "--", ".").split()
    if len(found) != 2:
        return NO_COMMIT, 0
    changed = _git(directory, "status", "--porcelain", "--untracked-files=all", "--", ".")
    return f"{found[0]}-dirty" if changed else found[0], int(found[1])


def _git(directory: Path, *words: Path | str) -> str:
    home = {"HOME": os.environ.get("HOME", "/")}
    command: Sequence[Path | str] = ["git", "-c", "safe.directory=*", "-C", directory, *words]
    done = process.run(command, env=home, capture=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _epoch(date: int) -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return date
    if not re.fullmatch("[0-9]{1,12}", text) or int(text) > LATEST:
        raise InputError(
            f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds since 1970",
            hint="unset it, or use for example: SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)",
        )
    return int(text)


@functools.cache
def code_digest(*names: str) -> str:
    """Return the sha256 of the code that makes an image, or of some files of it: it is an input as well.

    Args:
        names: files as ``installer/image.py``; all that count if there are none.
    """
    total = hashlib.sha256()
    for name in names or CODE:
        total.update(f"{name}\0".encode() + (PIPELINE / name).read_bytes() + b"\0")
    return total.hexdigest()
