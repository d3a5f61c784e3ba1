"""What this project uses of ``contextvars`` (PEP 567), for Python 3.6; ``bundle.pyz`` carries it under that name.

A context is a dictionary for each thread; there is no asyncio here. A Python that has the real module never sees this.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_MISSING = object()
_threads = threading.local()


def _values() -> dict[ContextVar, Any]:
    if not hasattr(_threads, "values"):
        _threads.values = {}
    values: dict[ContextVar, Any] = _threads.values
    return values


class Token:
    """What :meth:`ContextVar.reset` takes back."""

    def __init__(self, var: ContextVar, old_value: object) -> None:
        self.var, self.old_value = var, old_value


class ContextVar:
    """A variable that each thread has for itself."""

    def __init__(self, name: str, *, default: object = _MISSING) -> None:
        self.name, self._default = name, default

    def get(self, default: Any = _MISSING) -> Any:  # noqa: ANN401 - as in the real one
        """Return its value, else the default that is given here, else its own.

        Raises:
            LookupError: there is none.
        """
        for value in (_values().get(self, _MISSING), default, self._default):
            if value is not _MISSING:
                return value
        raise LookupError(self)

    def set(self, value: object) -> Token:
        """Give it a value."""
        token = Token(self, _values().get(self, _MISSING))
        _values()[self] = value
        return token

    def reset(self, token: Token) -> None:
        """Give it the value that it had before."""
        if token.old_value is _MISSING:
            _values().pop(self, None)
        else:
            _values()[self] = token.old_value


class Context:
    """The values of all variables at one moment."""

    def __init__(self) -> None:
        self._held: dict[ContextVar, Any] = {}

    def run(self, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in the real one
        """Call a function with these values; what it changes stays in here."""
        outer = _values()
        _threads.values = self._held
        try:
            return body(*args, **kwargs)
        finally:
            _threads.values = outer


def copy_context() -> Context:
    """Return the values of all variables now, for another thread to run with."""
    context = Context()
    context._held.update(_values())
    return context
