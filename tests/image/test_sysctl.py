"""Kernel settings: they hold after the boot, they hold after ``sysctl --system``, and no file overrides them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.lab.facts import NODE_SYSCTLS, sysctl_assignments

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


@pytest.mark.parametrize("program", ["systemd-sysctl", "sysctl --system"])
def test_last_assignment_is_ours(facts: dict[str, Fact], sysctl: str, program: str) -> None:
    made = sysctl_assignments(facts["sysctl-files"].text, [sysctl], etc_sysctl_conf_last=program == "sysctl --system")[
        sysctl
    ]
    assert made, f"no file sets {sysctl}"
    assert made[-1][1] == NODE_SYSCTLS[sysctl], f"{made[-1][0]} has the last word"


@pytest.mark.booted
def test_value_after_boot(facts: dict[str, Fact], sysctl: str) -> None:
    assert facts["sysctl-boot"].pairs("=")[sysctl] == NODE_SYSCTLS[sysctl]


@pytest.mark.booted
def test_value_after_everything_is_applied_again(facts: dict[str, Fact], sysctl: str) -> None:
    assert facts["sysctl-again"].pairs("=")[sysctl] == NODE_SYSCTLS[sysctl]
