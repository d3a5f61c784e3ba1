"""Logins by key only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_no_account_has_a_password(facts: dict[str, Fact]) -> None:
    assert facts["passwords"].status == 0
    assert facts["passwords"].lines == []


def test_sshd_is_told_to_refuse_passwords(facts: dict[str, Fact]) -> None:
    # The first value that sshd reads counts, and drop-ins are included before the rest of sshd_config.
    values = re.findall(r"(?im)^\s*PasswordAuthentication\s+(\w+)", facts["sshd-files"].text)
    assert values[0].lower() == "no"


@pytest.mark.booted
@pytest.mark.parametrize("setting", ["passwordauthentication no", "kbdinteractiveauthentication no"])
def test_sshd_refuses_passwords(facts: dict[str, Fact], setting: str) -> None:
    assert setting in facts["sshd"].lines


@pytest.mark.booted
def test_root_may_use_a_key_only(facts: dict[str, Fact]) -> None:
    assert {"permitrootlogin without-password", "permitrootlogin prohibit-password"} & set(facts["sshd"].lines)
