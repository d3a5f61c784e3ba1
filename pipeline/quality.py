"""The project's own checks: its tests, and the tools that read its code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process
from pipeline.core.errors import InputError, ToolError

ROOT = Path(__file__).resolve().parents[1]
FAST = ("tests/unit",)
ALL = ("tests/unit", "tests/integration", "tests/bundles", "tests/cluster")
NO_TESTS_COLLECTED = 5
MOST_PROCESSES = 4  # one that boots machines takes two processors and 3 GB
SLOWEST = ("--durations=30", "--durations-min=10")

# All of shellcheck's optional checks less two: braces around every plain variable, and a remark at every command
# substitution inside a command; both hide more than they find.
SHELLCHECK_LESS = "SC2250,SC2312"
# bats gives a test $status and $output, runs each test in a subshell, and single quotes are for a later shell.
SHELLCHECK_LESS_BATS = f"{SHELLCHECK_LESS},SC2016,SC2030,SC2031,SC2034,SC2154"

SHELL_OF_SOURCED = b"# shellcheck shell="


@dataclass(frozen=True)
class Check:
    """A tool that reads the code and fails if something is not as agreed.

    Attributes:
        name: what a user calls it.
        argv: its command, run at the top of the checkout.
    """

    name: str
    argv: tuple[str, ...]


def checks() -> tuple[Check, ...]:
    """Return every check, the quick ones first."""
    python = (sys.executable, "-I", "-m")
    shell, bats = shell_files()
    return (
        Check("ruff check", (*python, "ruff", "check")),
        Check("ruff format", (*python, "ruff", "format", "--check")),
        Check("shellcheck", ("shellcheck", "--enable=all", f"--exclude={SHELLCHECK_LESS}", *shell)),
        Check("shfmt", ("shfmt", "-i", "2", "-ci", "-d", *shell)),
        *_bats_checks(bats),
        Check("mypy", (*python, "mypy")),
    )


def _bats_checks(files: Sequence[str]) -> tuple[Check, ...]:
    if not files:
        return ()
    return (
        Check("shellcheck bats", ("shellcheck", "--enable=all", f"--exclude={SHELLCHECK_LESS_BATS}", *files)),
        Check("shfmt bats", ("shfmt", "-ln", "bats", "-i", "2", "-ci", "-d", *files)),
    )


def tracked_files() -> tuple[Path, ...]:
    """Return every file of the project, tracked or about to be, relative to the top of the checkout."""
    words = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = process.run(words, cwd=ROOT, capture=True, what="listing the project's files").stdout
    return tuple(path for name in sorted(listed.split("\0")) if name and (ROOT / (path := Path(name))).is_file())


def shell_files() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the project's shell scripts and its bats files, told by the shell that the first line names."""
    interpreters = {path: _interpreter(ROOT / path) for path in tracked_files()}
    shell = tuple(str(path) for path, name in interpreters.items() if name in {"bash", "sh"})
    return shell, tuple(str(path) for path, name in interpreters.items() if name == "bats")


def _interpreter(path: Path) -> str:
    with path.open("rb") as file:
        line = file.readline(128).strip()
    if line.startswith(SHELL_OF_SOURCED):
        return line.removeprefix(SHELL_OF_SOURCED).decode("utf-8", "replace")
    words = line.split()
    return Path(words[-1].decode("utf-8", "replace")).name if words and words[0].startswith(b"#!") else ""


def verdict(check: Check) -> str:
    """Run a check.

    Returns:
        What it found, ready to show; empty if all is well.
    """
    done = process.run(check.argv, cwd=ROOT, capture=True, check=False)
    if done.returncode == 0:
        return ""
    return "\n".join([done.stdout, *done.tail]).strip() or f"exit status {done.returncode}"


def lint() -> None:
    """Run every check, and show what each finds.

    Raises:
        ToolError: one of them found something.
    """
    failed = []
    for check in checks():
        found = verdict(check)
        print(f"{check.name}: {found or 'ok'}", flush=True)
        if found:
            failed.append(check.name)
    if failed:
        hint = "'.venv/bin/ruff format' and '.venv/bin/ruff check --fix' mend much of it"
        raise ToolError(f"these checks failed: {', '.join(failed)}", hint=hint)


def _processes() -> int:
    """Return how many processes share the tests."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def test(*, fast: bool, expression: str = "") -> int:
    """Run the tests: those that match an expression in this process, all of them in several.

    Args:
        fast: only those that need no privileges and end within a minute.
        expression: pytest's ``-k``: only tests whose names match.

    Returns:
        pytest's exit code.

    Raises:
        InputError: no test matches.
    """
    import pytest

    words = [f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}"]
    words += [str(ROOT / part) for part in (FAST if fast else ALL)]
    if not expression:
        words += [f"--numprocesses={_processes()}", "--dist=loadfile", "--no-loadscope-reorder", *SLOWEST]
    with contextlib.chdir(ROOT):  # so that pytest names the files as a user would type them
        code = int(pytest.main([*words, *(["-k", expression] if expression else [])]))
    if code == NO_TESTS_COLLECTED:
        raise InputError(f"no test matches {expression!r}", hint="leave out -k to run all of them")
    return code
