"""What has to run runs, what must not does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_service_is_enabled(facts: dict[str, Fact], service: str) -> None:
    assert facts["enabled"].pairs()[service] in {"enabled", "alias"}


@pytest.mark.booted
def test_service_is_active(facts: dict[str, Fact], service: str) -> None:
    assert facts["active"].pairs()[service] == "active"


def test_unit_is_not_enabled(facts: dict[str, Fact], disabled_unit: str) -> None:
    assert facts["enabled"].pairs()[disabled_unit] not in {"enabled", "enabled-runtime"}


@pytest.mark.booted
def test_unit_does_not_run(facts: dict[str, Fact], disabled_unit: str) -> None:
    assert facts["active"].pairs()[disabled_unit] == "inactive"
