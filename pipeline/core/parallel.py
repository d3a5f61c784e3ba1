"""Several things at once, with the progress of the session that they are part of."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from typing import Any, Self

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


@contextlib.contextmanager
def beside(do: Callable[[], R]) -> Iterator[Future[R]]:
    """Do something in a thread of its own while the context lasts; its end is waited for.

    Yields:
        What it will return; a failure of it is raised at the end, unless the context has failed by itself.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(contextvars.copy_context().run, do)
        yield running
        running.result()


class Crew:
    """Threads that do what is submitted, while the thread that runs the crew deals with what comes of it.

    What is submitted must not wait for anything else that is: who wants that submits it when the first is done. So
    the crew cannot come to a standstill, however few its threads are. A context manager: when it is left, what has not
    begun is left undone, and what runs is waited for.

    Args:
        threads: how many things are done at once.

    Attributes:
        is_stopped: set when something failed; who works on something long may look at it and give up.
    """

    def __init__(self, threads: int) -> None:
        self.is_stopped = threading.Event()
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._running: dict[Future[Any], Callable[[Any], None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.is_stopped.set()
        for one in self._running:
            one.cancel()
        self._pool.shutdown()

    def submit(self, do: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have something done.

        Args:
            do: called in one of the threads.
            then: called in the thread of :meth:`run`, with what it returned; may submit more.
        """
        self._running[self._pool.submit(contextvars.copy_context().run, do)] = then

    def run(self, tick: Callable[[], None], every: float = 1.0) -> None:
        """Wait until nothing is left to do; the first failure is raised at once.

        Args:
            tick: called now and then.
            every: seconds between two calls, at most.
        """
        while self._running:
            for one in wait(self._running, every, FIRST_COMPLETED).done:
                then = self._running.pop(one)
                then(one.result())
            tick()
