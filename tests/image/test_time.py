"""The clock is kept by chrony."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


@pytest.mark.booted
def test_chrony_answers(facts: dict[str, Fact]) -> None:
    # The service itself is among the profile's. The lab's machines reach no time source, so only the daemon is asked.
    assert facts["tracking"].status == 0, facts["tracking"].text
    assert "Reference ID" in facts["tracking"].text
