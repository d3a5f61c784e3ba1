"""The plots are drawn by matplotlib, which lives in an environment of its own: nothing else here needs it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from benchmarks.peers.system import place
from pipeline.core import process, progress

HERE = Path(__file__).resolve().parent
REQUIREMENTS, PROGRAM = HERE / "requirements.txt", HERE / "plot.py"


def names(titles: list[str], stem: str) -> dict[str, str]:
    """Return the file name of each plot, by what it shows."""
    return {title: f"{stem}-{title.replace(' ', '-')}.svg" for title in titles}


def draw(report: Path, directory: Path) -> None:
    """Draw a report's plots.

    Args:
        report: its JSON.
        directory: where they go.

    Raises:
        ToolError: matplotlib cannot be installed, or failed.
    """
    process.run([_python(), "-I", PROGRAM, report, directory], env={"MPLCONFIGDIR": str(place())}, what="drawing plots")


def _python() -> Path:
    """Return the environment's Python; it is made anew whenever its pins change."""
    pins = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    environment = place() / f"plots-{sys.version_info.major}.{sys.version_info.minor}-{pins}"
    python = environment / "bin/python"
    stamp = environment / "made"
    if not stamp.is_file():
        with progress.step("an environment with matplotlib"):
            shutil.rmtree(environment, ignore_errors=True)
            environment.parent.mkdir(parents=True, exist_ok=True)
            process.run([sys.executable, "-m", "venv", environment], what="making an environment")
            words: list[process.Argument] = [python, "-m", "pip", "install", "--quiet", "--require-hashes"]
            process.run(
                [*words, "--requirement", REQUIREMENTS], env=_settings(), network=True, what="fetching matplotlib"
            )
        stamp.touch()
    return python


def _settings() -> dict[str, str]:
    """Return pip's settings of this user: where it looks, and which certificates it trusts."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
