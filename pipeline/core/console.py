"""Where the program meets its user: how a command ends, and what it says then."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

from pipeline.core.errors import PipelineError

DEFECT = 70
INTERRUPTED = 130

P = ParamSpec("P")


def command(body: Callable[P, None]) -> Callable[P, None]:
    """Decorate the body of a task: what goes wrong in it is said as a user needs it.

    A :class:`PipelineError` becomes ``error:`` and ``hint:`` on standard error and its exit code; Ctrl-C becomes exit
    code 130. Anything else is a defect of this project: the traceback is shown, and the exit code is 70.

    Args:
        body: the task; it keeps its name, docstring and signature.
    """

    @functools.wraps(body)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            body(*args, **kwargs)
        except PipelineError as error:
            _say("error", error.message)
            _say("hint", error.hint)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("error", "interrupted")
            raise SystemExit(INTERRUPTED) from None
        except Exception:  # noqa: BLE001 - the outermost door: nothing goes on from here, only the exit code changes
            traceback.print_exc()
            _say("error", "this is a defect of the program, not of what you gave it")
            raise SystemExit(DEFECT) from None

    return guarded


def _say(kind: str, text: str) -> None:
    if text:
        print(f"{kind}: {text}", file=sys.stderr)
