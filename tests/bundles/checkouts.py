"""A copy of what the commands of bundles are made of, so that a test's bundles do not lie among the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checkout:
    """A checkout with nothing built in it.

    Attributes:
        root: its directory.
    """

    root: Path

    @classmethod
    def make(cls, root: Path) -> Checkout:
        """Copy this one's code."""
        shutil.copytree(ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(ROOT / "tasks.py", root / "tasks.py")
        return cls(root)

    def bundle(self, name: str) -> Path:
        """Return the directory of a bundle."""
        return self.root / "build/bundles" / name

    def words(self, command: str, *words: str | Path) -> list[str]:
        """Return the command line of a task."""
        start = [sys.executable, "-I", "-m", "invoke", "--search-root", str(self.root), command]
        return [*start, *map(str, words)]

    def invoke(self, command: str, *words: str | Path, code: int = 0) -> str:
        """Run a task to its end; returns what it printed, errors included."""
        return finished(self.words(command, *words), code)


def finished(words: list[str], code: int = 0) -> str:
    """Run a program, check its exit code, and return what it printed."""
    with started(words) as child:
        text, _ = child.communicate(timeout=600)
    assert child.returncode == code, text
    return text


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a program beside us."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": "1795575600"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()
