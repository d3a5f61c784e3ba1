"""A mirror of the installer's components, as a site without the internet keeps one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from pipeline.core.arch import Architecture

# Nothing is there: a mirror stands for scheme and host.
ORIGIN = "https://components.test"


def write(target: Path, files: Mapping[Architecture, Mapping[str, Path]], versions: Mapping[str, str]) -> None:
    """Write a mirror and the ``components.yaml`` that goes with it, each artifact with its sum beside it.

    Args:
        target: directory for both.
        files: by architecture, each file by ``<component>/<name>``.
        versions: of the components.
    """
    described = {}
    for name, version in sorted(versions.items()):
        members: list[str] = []
        for arch, all_ in files.items():
            wanted = {path.partition("/")[2]: file for path, file in all_.items() if path.startswith(f"{name}/")}
            _write_artifact(target / version / arch.oci, name, wanted)
            members = sorted(wanted)
        described[name] = _described(name, version, members, files)
    (target / "components.yaml").write_text(yaml.safe_dump({"components": described}, sort_keys=False))


def _is_alone(name: str, members: Iterable[str]) -> bool:
    return list(members) == [name]


def _described(name: str, version: str, members: list[str], arches: Iterable[Architecture]) -> dict[str, object]:
    alone = _is_alone(name, members)
    url = f"{ORIGIN}/{{version}}/{{arch}}/{name}{'' if alone else '.tar'}"
    value: dict[str, object] = {"version": version, "url": url, "checksum": f"{url}.sha256"}
    if not alone:
        value["members"] = members
    return value | {"arch": [arch.oci for arch in arches]}


def _write_artifact(place: Path, name: str, files: Mapping[str, Path]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if _is_alone(name, files):
        artifact = place / name
        _link(files[name], artifact)
    else:
        artifact = place / f"{name}.tar"
        with tarfile.open(artifact, "w") as archive:
            for member, file in sorted(files.items()):
                info = tarfile.TarInfo(member)
                info.size, info.mode = file.stat().st_size, 0o755
                with file.open("rb") as content:
                    archive.addfile(info, content)
    with artifact.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    artifact.with_name(f"{artifact.name}.sha256").write_text(f"{digest}\n")


def _link(source: Path, target: Path) -> None:
    """Give a file another name; the parts are never written to, so it need not be copied."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
