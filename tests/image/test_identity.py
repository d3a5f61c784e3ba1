"""An image has no identity; every machine makes its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


@pytest.mark.offline
def test_image_has_no_machine_id(facts: dict[str, Fact]) -> None:
    assert facts["machine-id"] == type(facts["machine-id"])("", 0), "the file must be there, and empty"
    assert facts["dbus-machine-id"].text == ""


@pytest.mark.offline
def test_image_has_no_host_keys(facts: dict[str, Fact]) -> None:
    assert facts["host-keys"].lines == []


@pytest.mark.offline
def test_image_remembers_no_boot(facts: dict[str, Fact]) -> None:
    assert facts["leftovers"].lines == []


@pytest.mark.booted
def test_machine_has_an_id_of_its_own(facts: dict[str, Fact]) -> None:
    # That it differs from the next machine's is compared by verify, which boots two.
    assert re.fullmatch(r"[0-9a-f]{32}", facts["machine-id"].text)
    assert facts["machine-id"].text != "0" * 32
    assert facts["dbus-machine-id"].text in {"", facts["machine-id"].text}


@pytest.mark.booted
def test_machine_made_host_keys(facts: dict[str, Fact]) -> None:
    assert "/etc/ssh/ssh_host_ed25519_key" in facts["host-keys"].lines


@pytest.mark.booted
def test_machine_took_the_name_it_was_given(facts: dict[str, Fact]) -> None:
    assert facts["hostname"].text == "node"
