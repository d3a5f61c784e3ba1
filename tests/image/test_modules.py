"""Kernel modules for kubelet, kube-proxy and CNI plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_kernel_has_module(facts: dict[str, Fact], module: str) -> None:
    assert facts["modules-known"].pairs()[module] == "yes"


@pytest.mark.booted
def test_module_loads(facts: dict[str, Fact], module: str) -> None:
    assert facts["modprobe"].pairs()[module] == "yes"


@pytest.mark.booted
def test_bridge_filter_was_loaded_at_boot(facts: dict[str, Fact]) -> None:
    assert "br_netfilter" in facts["modules-loaded"].lines
