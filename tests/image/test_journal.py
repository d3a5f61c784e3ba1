"""The journal is kept, and bounded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_journal_is_bounded(facts: dict[str, Fact]) -> None:
    settings = dict(re.findall(r"(?m)^\s*(\w+)=(\S+)", facts["journald"].text))
    assert settings.get("Storage") == "persistent"
    assert re.fullmatch(r"\d+[MG]", settings.get("SystemMaxUse", ""))


@pytest.mark.booted
def test_journal_is_small(facts: dict[str, Fact]) -> None:
    size = re.search(r"take up ([\d.]+)([KMG])", facts["journal-size"].text)
    assert size is not None, facts["journal-size"].text
    assert size[2] in "KM"
