"""What happens while a command runs, told to the one who wants to know (``core/trace.py``); else it costs nothing.

It travels as the session does (``core/progress.py``): in a context variable, also across a fork.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Fact = bool | int | float | str | None

BEGIN, END, MOMENT = "begin", "end", "moment"


@dataclass(frozen=True)
class Event:
    """Something that begins, ends or happens now.

    Attributes:
        kind: ``begin``, ``end`` or ``moment``.
        category: ``step``, ``program`` or ``cache``.
        name: what it is.
        number: the same for the beginning and the end of one thing, within a process.
        is_beside: it goes on beside what the thread does, so that the two need not be nested.
        facts: what is to be said of it.
    """

    kind: str
    category: str
    name: str
    number: int
    is_beside: bool
    facts: Mapping[str, Fact]


_listener: contextvars.ContextVar[Callable[[Event], None] | None] = contextvars.ContextVar("listener", default=None)
_numbers = itertools.count(1)


@contextlib.contextmanager
def told(tell: Callable[[Event], None]) -> Iterator[None]:
    """Tell a function everything while the context lasts; it is called in the thread where it happens."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def span(category: str, name: str, *, beside: bool = False, **known: Fact) -> Iterator[dict[str, Fact]]:
    """Tell when something begins and ends.

    Args:
        category: ``step``, ``program`` or ``cache``.
        name: what it is.
        beside: it goes on beside what the thread does.
        known: facts that are known when it begins.

    Yields:
        Facts to be filled in until it ends; an error that ends it is one of them.
    """
    facts = dict(known)
    tell = _listener.get()
    if tell is None:
        yield facts
        return
    number = next(_numbers)
    tell(Event(BEGIN, category, name, number, beside, known))
    try:
        yield facts
    except BaseException as error:
        facts["error"] = type(error).__name__
        raise
    finally:
        tell(Event(END, category, name, number, beside, facts))


def moment(category: str, name: str, **facts: Fact) -> None:
    """Tell that something happens now."""
    tell = _listener.get()
    if tell is not None:
        tell(Event(MOMENT, category, name, next(_numbers), False, facts))
