"""The machine boots, by the firmware it was given, and comes to rest without a failure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.lab.facts import Fact
    from pipeline.lab.image import Image

LINUX = re.compile(r"\s*linux(16|efi|\$efi)?\s")  # what GRUB's command is called on one system or another
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.booted
def test_system_is_running(facts: dict[str, Fact]) -> None:
    assert facts["state"].text == "running", f"failed units: {facts['failed'].text}\nwaiting jobs: {facts['jobs'].text}"


@pytest.mark.booted
def test_no_unit_failed(facts: dict[str, Fact]) -> None:
    assert facts["failed"].text == ""


@pytest.mark.booted
def test_started_by_the_firmware_asked_for(facts: dict[str, Fact], pytestconfig: pytest.Config) -> None:
    assert (facts["efi"].status == 0) is (pytestconfig.getoption("firmware") == "uefi")


@pytest.mark.booted
def test_root_is_given_by_uuid(facts: dict[str, Fact]) -> None:
    root = re.search(r"(?:^|\s)root=(\S+)", facts["cmdline"].text)
    uuid = facts["root"].text.split()[1]
    assert root is not None
    assert root[1] == f"UUID={uuid}"


@pytest.mark.booted
def test_serial_console(facts: dict[str, Fact], image: Image) -> None:
    assert f"console={image.arch.serial}" in facts["cmdline"].text
    assert facts["getty"].text == "active"


@pytest.mark.booted
def test_boot_time_is_recorded(
    facts: dict[str, Fact], record_testsuite_property: Callable[[str, object], None]
) -> None:
    assert facts["boot-time"].status == 0
    record_testsuite_property("boot time", facts["boot-time"].lines[0])


def test_grub_names_the_root_by_uuid_and_no_device(facts: dict[str, Fact]) -> None:
    kernels = [line.split() for line in facts["grub-cfg"].lines if re.match(LINUX, line)]
    assert kernels
    for words in kernels:
        roots = [word for word in words if word.startswith("root=")]
        assert len(roots) == 1
        assert UUID.fullmatch(roots[0].removeprefix("root=UUID=")), roots
    assert not re.search(r"/dev/(sd|vd|nvme|loop|xvd|mapper)", facts["grub-cfg"].text)


def test_grub_settings_for_kernel_updates_can_be_read(facts: dict[str, Fact], image: Image) -> None:
    settings = facts["grub-settings"]
    assert settings.status == 0, settings.text
    assert f"console={image.arch.serial}" in settings.pairs()["cmdline"]


def test_there_is_one_kernel(facts: dict[str, Fact]) -> None:
    assert len(facts["kernels"].lines) == 1
