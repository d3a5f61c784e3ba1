"""What the integration tests share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from tests.integration import builds, rpms
from tests.integration.ordinary import ID, OrdinaryUser

ROOT = Path(__file__).resolve().parents[2]
ARCH = Architecture.host()


@pytest.fixture
def ordinary() -> Iterator[OrdinaryUser]:
    """An ordinary user with subordinate ids and a directory, who can read this checkout; needs root."""
    # Not pytest's own directory: only root may pass through that.
    with tempfile.TemporaryDirectory(prefix="node-images-ordinary-") as name:
        parent = Path(name)
        parent.chmod(0o755)
        home = parent / "home"
        home.mkdir()
        os.chown(home, ID, ID)
        user = OrdinaryUser(home)
        if not user.can_read(ROOT / "pyproject.toml") or user.run([sys.executable, "-c", "import yaml"]).returncode:
            pytest.skip(f"an ordinary user cannot read {ROOT} and run {sys.executable}")
        yield user
        # What a user namespace made belongs to subordinate ids.
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for what is too large to be kept, as pytest keeps its own; everybody may pass through."""
    with tempfile.TemporaryDirectory(prefix="node-images-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def tiny(scratch: Path) -> rpms.Distribution:
    """A distribution of a few packages; not to be changed."""
    work = scratch / "rpms"
    work.mkdir()
    return rpms.make_distribution(work)


@dataclass(frozen=True)
class Primed:
    """The small image, built once, and the cache with every step of it.

    Attributes:
        cache: what XDG_CACHE_HOME was.
        project: what it was built from; not to be changed.
        spoilt: packages that lay in the cache before the build, with a wrong byte or cut short; empty if none did.
        said: what the build said while it ran.
    """

    cache: Path
    project: builds.Project
    spoilt: tuple[Path, ...]
    said: str


@pytest.fixture(scope="session")
def primed(scratch: Path) -> Primed:
    cache = scratch / "cache"
    builds.copy_packages(cache)
    there = (cache / "node-images/packages/deb").glob
    changed, cut = [*there(f"zstd_*_{ARCH}.deb")], [*there(f"libzstd1_*_{ARCH}.deb")]
    for package in (*changed, *cut):
        content = bytearray(package.read_bytes())
        content[len(content) // 2] ^= 0xFF
        package.unlink()  # it is a link to the user's own
        package.write_bytes(content[: len(content) // 2] if package in cut else content)
    project = builds.Project(scratch / "primed", cache)
    status, _, err = project.build("--os", "tiny", "--profile")
    assert status == 0, err
    return Primed(cache, project, (*changed, *cut), err)


@pytest.fixture(scope="session")
def locked(scratch: Path) -> builds.Project:
    """The small image, built from a lock of it, in a cache of its own; not to be changed."""
    builds.copy_packages(scratch / "pinned-cache")
    found = builds.Project(scratch / "pinned", scratch / "pinned-cache")
    for words in (("lock", "--os", "tiny"), ("build", "--os", "tiny", "--locked")):
        status, _, err = found.invoke(*words)
        assert status == 0, err
    return found


@pytest.fixture
def project(primed: Primed, scratch: Path) -> Iterator[builds.Project]:
    """A copy of the checkout whose small image only needs to be put together from the cache."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o755)
        yield builds.Project(Path(name) / "checkout", primed.cache)


@pytest.fixture
def cold(scratch: Path) -> Iterator[builds.Project]:
    """The same with a cache of its own, in which nothing is but downloaded packages."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        Path(name).chmod(0o755)
        builds.copy_packages(Path(name) / "cache")
        yield builds.Project(Path(name) / "checkout", Path(name) / "cache")


@pytest.fixture
def users(ordinary: OrdinaryUser) -> builds.Project:
    """A checkout and a cache that belong to the ordinary user."""
    cache = ordinary.directory / "cache"
    builds.copy_packages(cache, link=False)
    builds.own(cache)
    return builds.Project(ordinary.directory / "checkout", cache, ordinary)
