"""The system is the one that was asked for, with the packages that a node needs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact
    from pipeline.lab.image import Image


def test_os_release(facts: dict[str, Fact], image: Image, os_release_key: str) -> None:
    values = {key: "".join(shlex.split(value)) for key, value in facts["os-release"].pairs("=").items()}
    assert values.get(os_release_key) == image.expectations.os_release[os_release_key]


def test_package_is_installed(facts: dict[str, Fact], package: str) -> None:
    assert facts["packages"].pairs("\t").get(package, "absent").startswith("installed")


def test_no_package_is_half_installed(facts: dict[str, Fact]) -> None:
    assert facts["packages"].status == 0
    states = facts["packages"].pairs("\t")
    assert not {name: state for name, state in states.items() if not state.startswith(("installed", "config-files"))}


def test_no_cache_or_log_of_the_build_is_left(facts: dict[str, Fact]) -> None:
    of_this_boot = ("/var/log/journal", "/var/lib/cloud")
    assert [path for path in facts["leftovers"].lines if not path.startswith(of_this_boot)] == []
