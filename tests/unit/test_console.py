"""How a command ends, and what it says then."""

from __future__ import annotations

import inspect

import pytest

from pipeline.core.console import command, ending
from pipeline.core.errors import InputError, PipelineError, VerificationError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            InputError("no such os: 'x'", hint="use one of: debian"),
            2,
            "error: no such os: 'x'\nhint: use one of: debian\n",
        ),
        (VerificationError("swap is on"), 7, "error: swap is on\n"),
        (PipelineError("strange"), 70, "error: strange\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_an_error_is_said_without_a_traceback(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        fails()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", said)


def test_a_defect_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def fails() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(SystemExit) as ended:
        fails()
    said = capsys.readouterr().err
    assert ended.value.code == 70
    assert "Traceback" in said
    assert __file__ in said
    assert "ZeroDivisionError: a defect" in said


def test_an_exit_goes_through() -> None:
    @command
    def leaves() -> None:
        raise SystemExit(5)

    with pytest.raises(SystemExit) as ended:
        leaves()
    assert ended.value.code == 5


def test_name_docstring_and_signature_survive() -> None:
    @command
    def build(os: str = "debian", *, arch: str = "") -> None:
        """Build an image."""

    assert (build.__name__, build.__doc__) == ("build", "Build an image.")
    assert str(inspect.signature(build)) == "(os: 'str' = 'debian', *, arch: 'str' = '') -> 'None'"


def test_the_kind_of_a_fault_is_said_first_where_a_language_is_spoken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ending({2: "输入有误。"}.__getitem__):
        raise InputError("no such bundle", hint="name its directory")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "输入有误。\nerror: no such bundle\nhint: name its directory\n")
