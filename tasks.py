"""Every command of ./invoke, a few lines each; the work is done in pipeline/."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

from pipeline.core.console import command

# What a command needs is imported when it runs: './invoke --list' has to be quick.


@task(
    help={
        "fast": "only what needs no privileges, in under a minute",
        "k": "only tests whose names match this (pytest's -k): 'cache and not slow'",
    }
)
@command
def test(_context: Context, fast: bool = False, k: str = "") -> None:
    """Run the tests: unit and integration, with the real tools.

    Example: ./invoke test --fast
    """
    from pipeline import quality

    raise SystemExit(quality.test(fast=fast, expression=k))


@task
@command
def lint(_context: Context) -> None:
    """Check the code with ruff, mypy, shellcheck and shfmt.

    Example: ./invoke lint
    """
    from pipeline import quality

    quality.lint()
