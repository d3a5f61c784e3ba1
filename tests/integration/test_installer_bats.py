"""The bats tests of the installer's payload, one pytest test per file. Those in it that need root skip themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BATS = sorted((ROOT / "tests" / "installer").glob("*.bats"))
LIB = ROOT / "installer-image" / "payload" / "lib"
HANGS = 600  # seconds; the slowest takes a few


@pytest.mark.parametrize("path", BATS, ids=lambda path: path.stem)
def test_payload(path: Path) -> None:
    bats = shutil.which("bats")
    if bats is None:
        pytest.skip("bats is not installed")
    # In a process group of its own, as bats' own job control wants it; no setting of the caller's reaches the library.
    # A signal that is ignored from the start cannot be trapped by a shell, and nohup ignores HUP.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CLUSTER_", "REGISTRY_"))}
    done = subprocess.run(
        ["env", "--default-signal=HUP", bats, path],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=HANGS,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stdout


def test_every_file_of_the_library_says_its_shell() -> None:
    for path in LIB.glob("*.sh"):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert first in {"# shellcheck shell=bash", "#!/bin/bash"}, path
