"""The bootstrap hook pulls from a real registry with real podman."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BATS = Path(__file__).resolve().parent / "cluster-bootstrap-pull.bats"
REGISTRY = "docker-registry"

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def search_path(tmp_path: Path) -> str:
    """A PATH with docker-registry on it: unpacked, not installed, as its package would start a service here."""
    if shutil.which(REGISTRY):
        return os.environ["PATH"]
    fetched = subprocess.run(
        ["apt-get", "download", REGISTRY], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    packages = list(tmp_path.glob("*.deb"))
    if not packages:
        pytest.skip(f"{REGISTRY} is not installed and cannot be downloaded: {fetched.stderr.strip()}")
    subprocess.run(["dpkg-deb", "--extract", packages[0], tmp_path / "root"], check=True)
    return f"{tmp_path}/root/usr/bin:{os.environ['PATH']}"


def test_pull_verify_and_install(search_path: str) -> None:
    done = subprocess.run(
        ["bats", BATS], env=os.environ | {"PATH": search_path}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# skip" not in done.stdout
