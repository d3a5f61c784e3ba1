"""Interfaces of CNI plugins keep the hardware address that the plugin gives them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_link_files_leave_cni_addresses_alone(facts: dict[str, Fact]) -> None:
    assert re.search(r"(?m)^MACAddressPolicy=none$", facts["links"].text)
    names = " ".join(re.findall(r"(?m)^OriginalName=(.*)$", facts["links"].text)).split()
    assert {"flannel*", "cali*", "vxlan*", "veth*"} <= set(names)
