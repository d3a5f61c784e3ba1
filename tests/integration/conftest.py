"""What the integration tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ordinary import ID, OrdinaryUser

ROOT = Path(__file__).resolve().parents[2]


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


def sample(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine; what it says goes to pytest's output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert not check or done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done
