"""Where the program meets its user: how a command ends, and what it says then."""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from typing import TYPE_CHECKING

from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec

    P = ParamSpec("P")

DEFECT = 70
INTERRUPTED = 130


def command(body: Callable[P, None]) -> Callable[P, None]:
    """Decorate the body of a task: what goes wrong in it is said as :func:`ending` says it.

    Args:
        body: the task; it keeps its name, docstring and signature.
    """

    @functools.wraps(body)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        with ending():
            body(*args, **kwargs)

    return guarded


@contextlib.contextmanager
def ending(explain: Callable[[int], str] = lambda _: "") -> Iterator[None]:
    """Say what goes wrong inside as a user needs it, and end the program.

    A :class:`PipelineError` becomes ``error:`` and ``hint:`` on standard error and its exit code; Ctrl-C becomes exit
    code 130. Anything else is a defect of this project: the traceback is shown, and the exit code is 70.

    Args:
        explain: returns what is said before that for an exit code, in the user's own language; empty for nothing.
    """
    try:
        yield
    except PipelineError as error:
        _end(error.exit_code, error.message, error.hint, explain)
    except KeyboardInterrupt:
        _end(INTERRUPTED, "interrupted", "", explain)
    except Exception:  # noqa: BLE001 - the outermost door: nothing goes on from here, only the exit code changes
        traceback.print_exc()
        _end(DEFECT, "this is a defect of the program, not of what you gave it", "", explain)


def _end(code: int, message: str, hint: str, explain: Callable[[int], str]) -> None:
    explained = explain(code)
    for line in (explained, f"error: {message}", f"hint: {hint}" if hint else ""):
        if line:
            print(line, file=sys.stderr)
    raise SystemExit(code) from None
