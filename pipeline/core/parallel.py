"""Several things at once, with the progress of the session that they are part of."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
R = TypeVar("R")


def each(parallel: int, items: Iterable[T], do: Callable[[T], R]) -> list[R]:
    """Do something with each item, several at once, and return the results in their order.

    The first failure is raised when those that run have ended; what had not begun by then is left.
    """
    with ThreadPoolExecutor(max(1, parallel)) as pool:
        running = [pool.submit(contextvars.copy_context().run, do, item) for item in items]
        try:
            return [one.result() for one in running]
        except BaseException:
            for one in running:
                one.cancel()
            raise
