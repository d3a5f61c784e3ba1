"""Which images a user's words stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline import profile
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """Two systems: one with two releases of which the older one has no arm64, one with a release of its own."""
    text = (ROOT / "osprofiles/debian.yaml").read_text()
    for name, releases in {"alpha": ("1", "2"), "beta": ("9",)}.items():
        data = yaml.safe_load(text)
        release = data["releases"]["12"]
        old = release | {"arch": {"amd64": release["arch"]["amd64"]}}
        described = {one: old if one == "1" else release for one in releases}
        data |= {"name": name, "default_release": releases[-1], "releases": described}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


def chosen(directory: Path, os: str, release: str, arch: str) -> list[str]:
    return [cell.name for cell in profile.cells(directory, os, release, arch)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("all", "", "all"), ["alpha-2-amd64", "alpha-2-arm64", "beta-9-amd64", "beta-9-arm64"]),
        (("all", "", "arm64"), ["alpha-2-arm64", "beta-9-arm64"]),
        (("alpha", "all", "all"), ["alpha-1-amd64", "alpha-2-amd64", "alpha-2-arm64"]),
        (("beta,alpha", "", "amd64"), ["beta-9-amd64", "alpha-2-amd64"]),
        (("all", "9", "amd64, arm64"), ["beta-9-amd64", "beta-9-arm64"]),
        (("all", "1,9", "x86_64"), ["alpha-1-amd64", "beta-9-amd64"]),
        (("alpha,alpha", "2", "amd64"), ["alpha-2-amd64"]),
    ],
    ids=str,
)
def test_words_stand_for_cells(profiles: Path, words: tuple[str, str, str], expected: list[str]) -> None:
    assert chosen(profiles, *words) == expected


def test_without_an_architecture_it_is_this_machines(profiles: Path) -> None:
    assert chosen(profiles, "beta", "", "") == [f"beta-9-{Architecture.host()}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gamma", "", "all"), "unknown OS 'gamma'; known: alpha, beta"),
        (("alpha,,beta", "", "all"), "--os 'alpha,,beta' is no list of names"),
        (("alpha,all", "", "all"), "is no list of names"),
        (("", "", "all"), "--os '' is no list of names"),
        (("beta", "1", "all"), "no chosen profile has a release '1'; known: 9"),
        (("all", "", "riscv64"), "unknown architecture 'riscv64'"),
        (("alpha", "1", "arm64"), "nothing is built for --os alpha --release 1 --arch arm64"),
    ],
    ids=str,
)
def test_wrong_words_are_refused(profiles: Path, words: tuple[str, str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(profiles, *words)
    assert message in caught.value.message
    assert caught.value.hint
