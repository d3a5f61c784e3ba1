"""Every name an architecture has, wherever it has one of its own."""

from __future__ import annotations

import platform

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError

NAMES = {
    #                amd64         arm64
    "deb": ("amd64", "arm64"),
    "oci": ("amd64", "arm64"),
    "rpm": ("x86_64", "aarch64"),
    "qemu": ("x86_64", "aarch64"),
    "efi": ("x64", "aa64"),
    "grub_efi": ("x86_64-efi", "arm64-efi"),
    "kernel": ("x86", "arm64"),
    "serial": ("ttyS0", "ttyAMA0"),
    "has_bios": (True, False),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names(kind: str) -> None:
    assert (getattr(Architecture.AMD64, kind), getattr(Architecture.ARM64, kind)) == NAMES[kind]


def test_every_kind_of_name_is_tested() -> None:
    assert {name for name, value in vars(Architecture).items() if isinstance(value, property)} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("amd64", Architecture.AMD64),
        ("AMD64", Architecture.AMD64),
        ("x86_64", Architecture.AMD64),
        ("arm64", Architecture.ARM64),
        ("aarch64", Architecture.ARM64),
        ("AArch64", Architecture.ARM64),
    ],
)
def test_parse(name: str, arch: Architecture) -> None:
    assert Architecture.parse(name) is arch


@pytest.mark.parametrize("name", ["", " amd64", "amd46", "i386", "armhf", "armv7l", "riscv64", "all", "amd64,arm64"])
def test_parse_refuses(name: str) -> None:
    with pytest.raises(InputError) as caught:
        Architecture.parse(name)
    assert caught.value.message == f"unknown architecture {name!r}"
    assert "amd64, arm64" in caught.value.hint


def test_the_value_is_what_users_type() -> None:
    assert [str(arch) for arch in Architecture] == ["amd64", "arm64"]
    assert f"{Architecture.ARM64}" == "arm64"


def test_host() -> None:
    assert Architecture.host().rpm == platform.machine()
