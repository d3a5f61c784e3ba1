"""Which kernel is fetched for the update test, of those that repositories offer; fetched in tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.image import kernel_update, other_kernel
from pipeline.image.bases.indexes import Indexed
from pipeline.profile import load
from tests.unit.projects import ROOT

OLD, NEW, OWN = "4.18.0-80.el8", "4.18.0-553.el8_10", "4.18.0-500.el8"
SPLIT = ("kernel-core", "kernel-modules")


def offered(version: str, *names: str) -> list[Indexed]:
    return [Indexed(name, "x86_64", version, 0, f"Packages/{name}-{version}.x86_64.rpm", ()) for name in names]


def installed(version: str, *names: str) -> list[tuple[str, str]]:
    return [(name, version) for name in names] + [("bash", "5.1-1"), ("kernel-tools", version)]


def chosen(offers: list[Indexed], image: list[tuple[str, str]]) -> dict[str, str]:
    return {item.name: item.version for item in kernel_update.choose(offers, image)}


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (("kernel",), {"kernel"}),  # all in one: EL7, openEuler
        (SPLIT, set(SPLIT)),
        (("kernel", *SPLIT), {"kernel", *SPLIT}),
        (
            (*SPLIT, "kernel-modules-core", "kernel-modules-extra"),
            {*SPLIT, "kernel-modules-core", "kernel-modules-extra"},
        ),
    ],
)
def test_a_kernel_comes_in_as_many_packages_as_the_images_own(image: tuple[str, ...], names: set[str]) -> None:
    every = ("kernel", *SPLIT, "kernel-modules-core", "kernel-modules-extra", "kernel-tools", "kernel-headers")
    found = chosen(offered(OLD, *every) + offered(OWN, *every), installed(OWN, *image))
    assert found == dict.fromkeys(names, OLD)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_newest_of_the_others(reverse: bool) -> None:
    offers = offered(OLD, *SPLIT) + offered(NEW, *SPLIT) + offered(OWN, *SPLIT)
    assert chosen(offers[:: -1 if reverse else 1], installed(OWN, *SPLIT)) == dict.fromkeys(SPLIT, NEW)
    assert chosen(offers, installed(NEW, *SPLIT)) == dict.fromkeys(SPLIT, OWN)


def test_none_of_several_that_are_installed() -> None:
    offers = offered(OLD, *SPLIT) + offered(NEW, *SPLIT) + offered(OWN, *SPLIT)
    assert chosen(offers, installed(OWN, *SPLIT) + installed(NEW, *SPLIT)) == dict.fromkeys(SPLIT, OLD)


def test_one_that_is_whole_comes_before_a_newer_part() -> None:
    offers = offered(NEW, "kernel-core") + offered(OLD, *SPLIT)
    assert chosen(offers, installed(OWN, *SPLIT)) == dict.fromkeys(SPLIT, OLD)


def test_a_part_is_better_than_nothing() -> None:
    """Its package may have all that the image has in two."""
    assert chosen(offered(NEW, "kernel-core"), installed(OWN, *SPLIT)) == {"kernel-core": NEW}
    assert chosen(offered(NEW, "kernel-modules"), installed(OWN, *SPLIT)) == {}


@pytest.mark.parametrize(
    "offers", [[], offered(OWN, *SPLIT), offered(OLD, "kernel-tools", "kernel-headers", "kernel-rt")]
)
def test_there_is_no_other(offers: list[Indexed]) -> None:
    assert chosen(offers, installed(OWN, *SPLIT)) == {}


def test_an_image_that_is_not_there_is_left_to_its_verification(tmp_path: Path) -> None:
    base = load(ROOT / "osprofiles/debian.yaml").releases["12"].base
    assert other_kernel(base, Architecture.AMD64, tmp_path) == ()
