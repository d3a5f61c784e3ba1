"""Errors: what scripts and other processes rely on."""

from __future__ import annotations

import inspect
import pickle

import pytest

from pipeline.core import errors
from pipeline.core.errors import PipelineError

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PipelineError)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_survives_the_way_to_another_process(kind: type[PipelineError]) -> None:
    error = kind("what happened\nin two lines", hint="what to do")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is kind
    assert (copy.message, copy.hint, str(copy)) == (error.message, error.hint, str(error))


def test_exit_codes_are_distinct_and_mean_failure() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes) == 7
    assert not set(codes) & {0, 1, 130}


def test_exit_codes_stay_what_scripts_know() -> None:
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "InputError": 2,
        "DependencyError": 3,
        "ToolError": 4,
        "StorageError": 5,
        "NetworkError": 6,
        "VerificationError": 7,
        "PipelineError": 70,
    }


def test_the_hint_may_be_left_out() -> None:
    assert PipelineError("all is said").hint == ""
