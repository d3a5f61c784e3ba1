"""Errors that a user can act on: what happened, what to do next, and an exit code for scripts.

Exit codes: 2 bad input, 3 something is missing on this machine, 4 a tool failed, 5 storage, 6 network,
7 an image did not pass verification, 130 interrupted. Anything else is a defect of this project (70).
"""

from __future__ import annotations

from typing import ClassVar


class PipelineError(Exception):
    """Base of every error that is shown without a traceback.

    Args:
        message: what went wrong, naming the file, key, URL or command.
        hint: the next action for the user; empty only where the message already says it.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Make errors with keyword arguments picklable: they cross from a namespace to its parent."""
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[PipelineError], message: str, hint: str) -> PipelineError:
    return kind(message, hint=hint)


class InputError(PipelineError):
    """The user's input (argument, profile, overlay, template) is not usable."""

    exit_code = 2


class DependencyError(PipelineError):
    """This machine lacks something: a program, a kernel feature, a privilege."""

    exit_code = 3


class ToolError(PipelineError):
    """A program that was started failed."""

    exit_code = 4


class StorageError(PipelineError):
    """A file system is full, read-only or of the wrong kind."""

    exit_code = 5


class NetworkError(PipelineError):
    """Something could not be fetched, or is not what it should be."""

    exit_code = 6


class VerificationError(PipelineError):
    """An image was built but does not keep its promises."""

    exit_code = 7
