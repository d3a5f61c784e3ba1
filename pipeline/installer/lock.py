"""The lock: which artifact of a component is meant, by its sha256.

It is made once, where the origins or a mirror of them can be reached, and stands beside the components in git. A build
takes nothing else.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints

from pipeline.core import download, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, cache_root
from pipeline.core.document import Model, load
from pipeline.core.errors import InputError, NetworkError, StorageError
from pipeline.core.network import redact
from pipeline.installer.components import Component, Components, Digest, Source, extract, fetch_artifact, mirrored, told

RELOCK = "run ./invoke installer.lock, look at what it changes, and commit the lock"
LONGEST_SUMS = 1024**2
SHORT = 12


class Pin(Model):
    """One artifact.

    Attributes:
        url: where it is; a mirror may stand for its scheme and host.
        sha256: of its content.
        size: its bytes.
    """

    url: str
    sha256: Digest
    size: Annotated[int, Field(gt=0)]


class Locked(Model):
    """A component that is pinned.

    Attributes:
        version: its version.
        artifacts: by architecture.
    """

    version: Annotated[str, StringConstraints(min_length=1)]
    artifacts: dict[Architecture, Pin]


class Lock(Model):
    """``components.lock``.

    Attributes:
        components: by name.
    """

    components: dict[str, Locked]


def read(source: Source, components: Components, architectures: Sequence[Architecture]) -> Lock:
    """Read the lock, and hold it against the components.

    Args:
        source: where both are.
        components: what was read there.
        architectures: which are needed.

    Raises:
        InputError: there is none, it is damaged, or it was made for other components.
    """
    command = "./invoke installer.lock"
    if source.components != source.directory / "components.yaml":
        command += f" --components {source.components}"
    lock = load(source.lock, Lock, missing=f"run {command}: it downloads every component once and pins its sha256")
    if stale := list(_stale(components, lock, architectures)):
        listed = "\n".join(f"  {line}" for line in stale)
        raise InputError(
            f"{source.lock} does not fit to {source.components.name}:\n{listed}",
            hint=f"run {command}, and look at what it changes",
        )
    return lock


def _stale(components: Components, lock: Lock, architectures: Sequence[Architecture]) -> list[str]:
    found = [
        f"{name} is locked, but no longer a component" for name in lock.components if name not in components.components
    ]
    for name, component in sorted(components.components.items()):
        locked = lock.components.get(name)
        if locked is None:
            found.append(f"{name} is not locked")
        elif locked.version != component.version:
            found.append(f"{name} is {component.version}, but locked with {locked.version}")
        else:
            for arch in (one for one in architectures if one in component.arch):
                pin = locked.artifacts.get(arch)
                if pin is None:
                    found.append(f"{name} is not locked for {arch}")
                elif pin.url != component.rendered(component.url, arch):
                    found.append(f"{name} for {arch} is locked with another url: {redact(pin.url)}")
    return found


def make(source: Source, *, mirror: str | None = None) -> list[str]:
    """Download every component once, check it, and pin it.

    Args:
        source: what to lock.
        mirror: where to get it from, in place of its origin.

    Returns:
        What is different from the lock that was there, one line for each.

    Raises:
        InputError: a file is wrong, or an artifact is not what it should be.
        NetworkError: something cannot be had, or its checksum is another one. The lock that was there stays.
        StorageError: something cannot be written.
    """
    spec, components = source.read_image(), source.read_components()
    before = load(source.lock, Lock, missing=RELOCK) if source.lock.exists() else Lock(components={})
    locked: dict[str, Locked] = {}
    with Cache(cache_root()) as cache, cache.workspace() as workspace:
        for name, component in sorted(components.components.items()):
            with progress.step(f"{name} {component.version}"):
                artifacts = {
                    arch: _pin(cache, workspace, name, component, arch, mirror)
                    for arch in spec.architectures
                    if arch in component.arch
                }
            locked[name] = Locked(version=component.version, artifacts=artifacts)
    after = Lock(components=locked)
    changes = _changes(before, after)
    if changes or not source.lock.exists():
        _write(source.lock, after, source.components.name)
    return changes


def _pin(cache: Cache, workspace: Path, name: str, component: Component, arch: Architecture, mirror: str | None) -> Pin:
    what = f"{name} {component.version} for {arch}"
    url, sums = component.rendered(component.url, arch), component.rendered(component.checksum, arch)
    listing = workspace / "sums"
    try:
        download.fetch(mirrored(sums, mirror), listing)
    except NetworkError as error:
        raise told(error, f"{what}: its checksum", sums, mirror) from error
    sha256 = expected(listing, url.rpartition("/")[2], f"{what}: {redact(sums)}")
    artifact = fetch_artifact(cache, what, url, sha256, mirror=mirror)
    extract(artifact, component.files(name, arch), arch, workspace / "files", what)
    return Pin(url=url, sha256=sha256, size=artifact.stat().st_size)


def expected(listing: Path, name: str, what: str) -> str:
    """Return the sum of a file from what a publisher offers.

    Args:
        listing: 64 hexadecimal digits alone, or lines as ``sha256sum`` prints them, plain or with ``--tag``.
        name: the file whose sum is wanted; directories before it in the list do not count.
        what: for messages.

    Raises:
        NetworkError: it holds no sum for the file, or two different ones.
    """
    text = listing.read_bytes()[:LONGEST_SUMS].decode("utf-8", "replace").strip()
    if re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        return text.lower()
    lines = re.findall(r"^([0-9A-Fa-f]{64})[ \t]+\*?(\S+)\s*$", text, re.MULTILINE)
    lines += [(sha, path) for path, sha in re.findall(r"^SHA256 \((.+)\) = ([0-9A-Fa-f]{64})\s*$", text, re.MULTILINE)]
    found: set[str] = {sha.lower() for sha, path in lines if path.rpartition("/")[2] == name}
    if len(found) != 1:
        said = "holds no sha256" if not found else "holds several sha256"
        raise NetworkError(
            f"{what} {said} of {name}", hint="correct 'checksum' of this component in components.yaml, or the mirror"
        )
    return found.pop()


def _write(path: Path, lock: Lock, components: str) -> None:
    head = f"# Made by ./invoke installer.lock from {components}; not to be edited.\n"
    text = head + str(yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=True, width=1000))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}", hint="make it writable for this user"
        ) from error


def _changes(before: Lock, after: Lock) -> list[str]:
    found = [f"{name}: removed" for name in before.components if name not in after.components]
    for name, now in after.components.items():
        old = before.components.get(name)
        if old is None:
            found.append(f"{name}: added, {now.version} for {', '.join(now.artifacts)}")
        elif old.version != now.version:
            found.append(f"{name}: {old.version} -> {now.version}")
        else:
            found += [f"{name}: {line}" for line in _artifact_changes(old, now)]
    return sorted(found)


def _artifact_changes(old: Locked, now: Locked) -> list[str]:
    found = [f"no longer for {arch}" for arch in old.artifacts if arch not in now.artifacts]
    for arch, pin in now.artifacts.items():
        was = old.artifacts.get(arch)
        if was is None:
            found.append(f"now for {arch}")
        elif was.sha256 != pin.sha256:
            found.append(
                f"{now.version} for {arch} has another content: sha256 {was.sha256[:SHORT]} -> {pin.sha256[:SHORT]};"
                " find out why before it is committed"
            )
        elif was.url != pin.url:
            found.append(f"{arch} from another url: {redact(pin.url)}")
    return found
