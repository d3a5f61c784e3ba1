"""What takes ten minutes where machines are emulated: there it is left out, unless it is asked for with ``-k``."""

from __future__ import annotations

import pytest

from pipeline import lab
from pipeline.core.arch import Architecture


def is_left_out(request: pytest.FixtureRequest, arch: Architecture) -> bool:
    """Whether machines of an architecture are emulated, and nobody has asked for a test by name."""
    return lab.choose_accelerator(arch).kind is lab.Kind.TCG and not request.config.getoption("keyword")


def leave_out(request: pytest.FixtureRequest, arch: Architecture, why: str) -> None:
    """Skip a test there."""
    if is_left_out(request, arch):
        pytest.skip(f"{arch} is emulated, and {why}; ./invoke test -k {request.node.name.partition('[')[0]} runs it")
