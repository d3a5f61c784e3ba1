"""A clock that is certainly wrong is refused, with what to do."""

from __future__ import annotations

import time

import pytest

from pipeline.core import clock
from pipeline.core.errors import DependencyError


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (-1.0, "1969-12-31 23:59"),
        (0.0, "1970-01-01 00:00"),
        (clock.EARLIEST - 1.0, "2024-12-31 23:59"),
        (clock.LATEST + 1.0, "2038-01-19 03:14"),
        (4102444800.0, "2100-01-01 00:00"),
        (2.0**40, "36812-02-20 00:36"),
    ],
)
def test_wrong_clocks(now: float, told: str) -> None:
    with pytest.raises(DependencyError, match=f"this machine's clock says {told} UTC: signatures") as caught:
        clock.check(now)
    assert "timedatectl" in caught.value.hint


@pytest.mark.parametrize("now", [float(clock.EARLIEST), 1_900_000_000.5, float(clock.LATEST)])
def test_clocks_that_may_be_right(now: float) -> None:
    assert clock.check(now) == time.strftime("%Y-%m-%d %H:%M", time.gmtime(now))


def test_the_clock_of_this_machine() -> None:
    assert clock.check() >= "2025-01-01"
