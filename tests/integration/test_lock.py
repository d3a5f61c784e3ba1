"""Locks, with the real apt and a real archive: what is in them, what is built from them, what cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.image import lock, read_lock
from pipeline.image.lock import Lock, LockedPackage
from tests.integration import mirrors
from tests.integration.builds import NAME, Project
from tests.integration.conftest import Primed

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


def lock_file(project: Project) -> Path:
    return lock.path_of(project.directory / "osprofiles", "tiny", "1", Architecture.host())


@pytest.fixture
def copy(locked: Project, project: Project) -> Project:
    """A copy of that checkout, to change."""
    return with_lock(project, locked)


def with_lock(project: Project, locked: Project) -> Project:
    project.write(f"osprofiles/locks/{lock_file(locked).name}", lock_file(locked).read_text())
    return project


def base_digest(project: Project) -> str:
    """Return the digest of the tree that an image was made from."""
    found: str = json.loads((project.entry("base") / "origin.json").read_text())["digest"]
    return found


# --- what is in a lock, and what is built from it --------------------------------------------------------------------


def test_a_lock_has_what_a_build_installs(locked: Project, primed: Primed) -> None:
    installed = json.loads((primed.project.published / "packages.json").read_text())
    keys = ("name", "version", "architecture", "sha256")
    found = read_lock(lock_file(locked))
    assert {tuple(row[key] for key in keys) for row in installed} == {
        tuple(getattr(package, key) for key in keys) for package in found.packages
    }
    assert found.epoch == primed.project.manifest()["epoch"]
    assert [index.repository for index in found.indexes] == ["bookworm"]
    assert all("/pool/" in package.origin for package in found.packages)


def test_a_matrix_builds_from_locks(locked: Project, project: Project) -> None:
    status, out, _ = locked.invoke("matrix", "--os", "tiny", "--arch", Architecture.host().value, "--locked")
    assert (status, "1 up to date" in out) == (0, True), "the lock's image is there already"
    status, out, _ = project.invoke("matrix", "--os", "tiny", "--arch", Architecture.host().value, "--locked")
    assert status == InputError.exit_code
    assert "./invoke lock" in out


def test_a_locked_build_makes_the_same_tree(locked: Project, primed: Primed) -> None:
    assert base_digest(locked) == base_digest(primed.project)
    # What follows from the tree is found by what that is, not by what it came from.
    assert [locked.manifest()["steps"][step] for step in ("overlay", "initramfs")] == [
        primed.project.manifest()["steps"][step] for step in ("overlay", "initramfs")
    ]
    assert locked.manifest()["provenance"]["lock"] == read_lock(lock_file(locked)).digest
    plan = json.loads((locked.published / "plan.json").read_text())
    assert "sources" not in plan
    assert len(plan["locked"]) == len(read_lock(lock_file(locked)).packages)


# --- later -----------------------------------------------------------------------------------------------------------


def test_an_update_shows_what_changes(copy: Project) -> None:
    before = lock_file(copy).read_text()
    assert "nothing has changed" in copy.invoke("lock", "--os", "tiny")[1]
    copy.release["packages"].append("less")
    copy.save()
    status, out, _ = copy.invoke("lock", "--os", "tiny")
    assert status == 1
    assert "would change" in out
    assert "the profile asks for: +less" in out
    assert re.search(r"^ +less \S+ \w+  \+[\d.]+ kB$", out, re.MULTILINE)
    assert lock_file(copy).read_text() == before
    status, out, _ = copy.invoke("lock", "--os", "tiny", "--update")
    assert (status, "updated" in out) == (0, True)
    assert lock_file(copy).read_text() != before


def test_packages_that_do_not_exist_are_all_named(project: Project) -> None:
    project.release["packages"] += ["no-such-package", "nor-this-one"]
    project.save()
    status, _, err = project.invoke("lock", "--os", "tiny")
    assert status == InputError.exit_code
    assert "Unable to locate package no-such-package\nUnable to locate package nor-this-one\n" in err
    assert not lock_file(project).exists()


# --- what cannot be built --------------------------------------------------------------------------------------------


def fails(project: Project, *words: str, status: int) -> str:
    """Build with a lock, which must fail and leave nothing; returns what the user is told."""
    code, _, err = project.build("--os", "tiny", "--locked", *words)
    assert code == status
    assert "Traceback" not in err
    assert project.in_the_way() == []
    assert not project.published.exists()
    return err[err.index("error: ") :]


def rewritten(found: Lock, *packages: LockedPackage) -> Lock:
    """Return a lock with other packages of these names, as if it had been made so."""
    others = {package.name: package for package in packages}
    return Lock.of(
        os=found.os, release=found.release, arch=found.arch, family=found.family, asked=found.asked,
        epoch=found.epoch, indexes=found.indexes,
        packages=[others.get(package.name, package) for package in found.packages],
    )  # fmt: skip


def vanished(package: LockedPackage) -> LockedPackage:
    origin = package.origin.replace("/pool/", "/gone/")
    return package.model_copy(update={"version": "0~old-1", "sha256": "0" * 64, "origin": origin})


def test_packages_that_have_vanished(copy: Project) -> None:
    found = read_lock(lock_file(copy))
    now = {package.name: package for package in found.packages}
    gone = [now["zstd"], now["dpkg"]]
    lock.write(lock_file(copy), rewritten(found, *map(vanished, gone)))
    message = fails(copy, status=NetworkError.exit_code)
    assert f"2 of {len(found.packages)} locked packages cannot be had" in message
    for package in gone:
        line = rf"^  {package.name} 0~old-1 \w+: .*not there.*; {re.escape(package.version)} is offered now$"
        assert re.search(line, message, re.MULTILINE), message
    assert "./invoke lock --update" in message


@pytest.fixture
def mirror(locked: Project) -> Iterator[mirrors.Mirror]:
    """An archive that passes on the one that the lock was made from."""
    (index,) = read_lock(lock_file(locked)).indexes
    with mirrors.passing_on(index.root) as running:
        yield running


def test_other_bytes_than_locked(cold: Project, locked: Project, mirror: mirrors.Mirror) -> None:
    with_lock(cold, locked)
    packages = cold.cache / "node-images/packages/deb"
    for package in packages.glob("zstd_*.deb"):
        package.unlink()
    mirror.changes["/zstd_"] = mirrors.flipped
    message = fails(cold, "--mirror", mirror.url, status=VerificationError.exit_code)
    assert re.search(rf"^  zstd \S+ \w+: {mirror.url}/pool/main/\S+: wrong checksum: ", message, re.MULTILINE)
    assert not list(packages.glob("zstd_*.deb"))


def test_a_lock_that_does_not_fit(copy: Project) -> None:
    path = lock_file(copy)
    path.write_text(path.read_text().replace('"zstd"', '"zst"', 1))
    assert "was edited by hand" in fails(copy, status=InputError.exit_code)
    path.unlink()
    assert "./invoke lock --os tiny --release 1 --arch" in fails(copy, status=InputError.exit_code)
    assert NAME in path.name
