"""Several things at once: results in order, the first failure told, no standstill."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import pytest

from pipeline.core import progress
from pipeline.core.parallel import Crew, each


class OddError(Exception):
    """What a piece of work ends with."""


@pytest.mark.parametrize("parallel", [0, 1, 3, 50])
def test_results_come_in_their_order(parallel: int) -> None:
    assert each(parallel, range(20), lambda number: number * 2) == list(range(0, 40, 2))


def test_the_first_failure_is_told_and_the_rest_is_left() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 2:
            raise OddError(number)
        done.append(number)

    with pytest.raises(OddError, match="2"):
        each(1, range(1000), work)
    assert done[:2] == [0, 1]
    assert len(done) < 1000


def test_a_crew_may_be_given_more_while_it_works() -> None:
    found: list[int] = []
    ticks: list[int] = []
    with Crew(1) as crew:

        def then(number: int) -> None:
            found.append(number)
            if number < 10:
                crew.submit(lambda: number + 1, then)

        crew.submit(lambda: 0, then)
        crew.run(lambda: ticks.append(len(found)))
    assert found == list(range(11))
    assert ticks[-1] == 11
    assert not crew.is_stopped.is_set()


@pytest.mark.parametrize("where", ["do", "then", "tick"])
def test_a_crew_that_fails_stops(where: str) -> None:
    may_end = threading.Event()

    def fail() -> None:
        raise OddError

    def good(_result: None = None) -> None:
        """Do nothing."""

    def of(name: str) -> Callable[..., None]:
        return (lambda *_: fail()) if name == where else good

    left: list[int] = []

    def wait_for_the_end(number: int) -> None:
        left.append(number)
        if crew.is_stopped.wait(30):
            may_end.set()

    with pytest.raises(OddError), Crew(2) as crew:
        crew.submit(functools.partial(wait_for_the_end, 0), good)
        crew.submit(of("do"), of("then"))
        for number in range(1, 100):
            crew.submit(functools.partial(wait_for_the_end, number), good)
        crew.run(of("tick"), 0.01)
    assert crew.is_stopped.is_set()
    assert may_end.is_set()
    assert len(left) < 100


def test_a_crew_takes_time_for_ticks() -> None:
    ticks, found = threading.Semaphore(0), list[bool]()

    def wait_for_ticks() -> bool:
        return all(ticks.acquire(timeout=30) for _ in range(3))

    with Crew(1) as crew:
        crew.submit(wait_for_ticks, found.append)
        crew.run(ticks.release, 0.01)
    assert found == [True]


def test_the_session_is_that_of_who_submits() -> None:
    with progress.session() as session, Crew(1) as crew:
        seen: list[object] = []
        crew.submit(progress.current, seen.append)
        crew.run(lambda: None)
        assert seen == [session] == each(1, [0], lambda _: progress.current())
