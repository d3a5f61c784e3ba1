"""The hook that pulls the cluster-installer is there, and inert until the site says what to pull."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_hook_is_enabled(facts: dict[str, Fact]) -> None:
    assert facts["bootstrap-enabled"].text == "enabled"


@pytest.mark.booted
def test_hook_did_nothing(facts: dict[str, Fact]) -> None:
    assert facts["bootstrap-env"].status != 0, "there is a cluster.env"
    assert facts["bootstrap"].pairs("=") == {
        "LoadState": "loaded",
        "ActiveState": "inactive",
        "Result": "success",
        "ConditionResult": "no",
    }
