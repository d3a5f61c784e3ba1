"""Another kernel for the update test, from a distribution of a few packages, good and spoilt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import VerificationError
from pipeline.image import other_kernel, tree
from pipeline.profile import RpmBase
from tests.integration import rpms
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution

pytestmark = [pytest.mark.root]
ARCH = Architecture.host()
NAME = f"kernel-2-1.ty1.{ARCH.rpm}.rpm"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/node-images/packages/kernel-updates"


def image(place: Path, repository: Path, kernel: str) -> Path:
    """Write the papers of an image that has this kernel."""
    directory = place / "image"
    directory.mkdir()
    source = {"id": "mirror", "url": repository.as_uri(), "index": ""}
    manifest = {"kernels": [f"{kernel}.{ARCH.rpm}"], "provenance": {"sources": [source]}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (directory / "packages.json").write_text(json.dumps([{"name": "kernel", "version": kernel}]))
    return directory


def fetched(place: Path, key: str, directory: Path) -> tuple[Path, ...]:
    base = RpmBase.model_validate(
        {
            "kind": "rpm", "lineage": "el9", "releasever": "1", "fingerprints": [key], "database": "var/lib/rpm",
            "release_package": "tiny-release", "repositories": [{"id": "os", "url": "https://tiny.example/os"}],
        }
    )  # fmt: skip
    with progress.session(place / "log"):
        return other_kernel(base, ARCH, directory)


def test_a_signed_kernel_is_fetched_into_the_cache(tiny: Distribution, tmp_path: Path, cache: Path) -> None:
    found = fetched(tmp_path, tiny.key, image(tmp_path, tiny.repository, "1-1.ty1"))
    assert found == (cache / NAME,)
    assert tree.file_sha256(cache / NAME) == tree.file_sha256(tiny.repository / NAME)
    assert list((tmp_path / "cache/node-images/work").glob("*")) == []


def test_the_images_own_kernel_is_no_other(
    tiny: Distribution, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fetched(tmp_path, tiny.key, image(tmp_path, tiny.repository, "2-1.ty1")) == ()
    assert f"offer no kernel besides 2-1.ty1.{ARCH.rpm}" in "".join(capfd.readouterr())
    assert not cache.exists()


@pytest.mark.parametrize("signed", [False, True])
def test_a_kernel_that_nobody_or_somebody_else_signed_is_no_note(
    tiny: Distribution, tmp_path: Path, cache: Path, signed: bool
) -> None:
    repository = tiny.copy(tmp_path / "repository")
    if signed:
        rpms.sign([repository / NAME], tiny.home, tiny.other_key)
    else:
        rpms.run("rpmsign", "--delsign", repository / NAME)
    rpms.index(repository)
    with pytest.raises(VerificationError, match="is not signed by a key of the profile"):
        fetched(tmp_path, tiny.key, image(tmp_path, repository, "1-1.ty1"))
    assert not cache.exists()


@pytest.mark.parametrize("missing", ["repodata", NAME])
def test_a_source_that_is_gone_is_a_note(
    tiny: Distribution, tmp_path: Path, cache: Path, missing: str, capfd: pytest.CaptureFixture[str]
) -> None:
    repository = tiny.copy(tmp_path / "repository")
    (repository / missing).rename(tmp_path / "away")
    assert fetched(tmp_path, tiny.key, image(tmp_path, repository, "1-1.ty1")) == ()
    assert "no other kernel could be fetched: " in "".join(capfd.readouterr())
    assert not cache.exists()


# Run by another user, so it is a program of its own: directory, repository and key come as arguments.
FETCH = f"""
import sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from tests.integration.test_kernel_update import fetched, image
place = Path(sys.argv[1])
print(fetched(place, sys.argv[3], image(place, Path(sys.argv[2]), "1-1.ty1")))
"""


def test_an_ordinary_user_fetches_one_too(tiny: Distribution, ordinary: OrdinaryUser) -> None:
    """The pinned key is in a package of the repository, which is unpacked for that."""
    result = ordinary.run([sys.executable, "-c", FETCH, ordinary.directory, tiny.repository, tiny.key])
    assert result.returncode == 0, result.stdout
    found = ordinary.directory / ".cache/node-images/packages/kernel-updates" / NAME
    assert result.stdout.splitlines()[-1] == f"({found!r},)"
    assert found.stat().st_uid == ordinary.directory.stat().st_uid
