"""What needs a private namespace, tested once more as an ordinary user with subordinate ids."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.ordinary import OrdinaryUser

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("name", ["namespace", "image_disk", "image_overlay", "image_sources"])
def test_the_same_as_an_ordinary_user(ordinary: OrdinaryUser, name: str) -> None:
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-m", "not root"]
    words += [f"--config-file={ROOT}/pyproject.toml", f"--basetemp={ordinary.directory}/tests"]
    done = ordinary.run([*words, HERE / f"test_{name}.py"], cwd=ROOT)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout.splitlines()[-1]
