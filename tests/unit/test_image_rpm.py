"""RPM repositories and signing keys as data; with the real tools in tests/integration/test_rpm_base.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image.bases import dnf, repositories, rpm_keys
from pipeline.profile import RpmBase

FIRST, SECOND = "A" * 40, "B" * 40
LISTING = f"""\
tru::1:1700000000:0:3:1:5
pub:-:2048:1:AAAAAAAAAAAAAAAA:1500000000:1800000000::-:::scESC::::::23::0:
fpr:::::::::{FIRST}:
uid:-::::1500000000::HASH::First <first@example.org>::::::::::0:
sub:-:2048:1:CCCCCCCCCCCCCCCC:1500000000::::::e::::::23:
fpr:::::::::{"C" * 40}:
pub:r:4096:1:BBBBBBBBBBBBBBBB:1500000000:::-:::sc::::::23::0:
fpr:::::::::{SECOND}:
"""


def base(*rows: dict[str, object]) -> RpmBase:
    return RpmBase.model_validate(
        {
            "kind": "rpm", "lineage": "el7", "releasever": "7", "fingerprints": [FIRST], "database": "var/lib/rpm",
            "release_package": "centos-release", "repositories": list(rows),
        }
    )  # fmt: skip


def repository(path: Path) -> None:
    (path / "repodata").mkdir(parents=True)
    (path / "repodata/repomd.xml").write_text("<repomd/>")


def test_primary_keys_are_read_and_subkeys_are_not() -> None:
    assert rpm_keys.parse(LISTING) == {
        FIRST: rpm_keys.Key(FIRST, 1800000000, revoked=False),
        SECOND: rpm_keys.Key(SECOND, None, revoked=True),
    }


def test_urls_are_filled_in_for_each_architecture() -> None:
    described = base(
        {"id": "os", "url": "https://example.org/$releasever/os/$basearch/", "arch": ["amd64"]},
        {"id": "os", "url": "https://example.org/altarch/$releasever/os/$basearch", "arch": ["arm64"]},
        {"id": "extras", "url": "https://example.org/extras"},
    )
    found = {arch: [item.url for item in repositories.resolve(described, arch, None)] for arch in Architecture}
    assert found == {
        Architecture.AMD64: ["https://example.org/7/os/x86_64", "https://example.org/extras"],
        Architecture.ARM64: ["https://example.org/altarch/7/os/aarch64", "https://example.org/extras"],
    }


def test_an_architecture_without_repositories_is_refused() -> None:
    described = base({"id": "os", "url": "https://example.org/os", "arch": ["amd64"]})
    with pytest.raises(InputError, match="has no repository for arm64"):
        repositories.resolve(described, Architecture.ARM64, None)


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["os", "updates"], ["os", "updates"]),
        (["BaseOS", "AppStream"], ["BaseOS", "AppStream"]),
        (["."], ["."]),
        (["os", "."], ["."]),  # not all of the profile's
    ],
)
def test_a_mirror_may_be_laid_out_in_three_ways(tmp_path: Path, there: list[str], found: list[str]) -> None:
    for name in there:
        repository(tmp_path / name)
    (tmp_path / "RPM-GPG-KEY-example").touch()
    described = base({"id": "os", "url": "https://example.org/os"}, {"id": "updates", "url": "https://example.org/u"})
    resolved = repositories.resolve(described, Architecture.AMD64, str(tmp_path))
    assert [item.directory for item in resolved] == [tmp_path / name for name in found]
    assert all(item.keys == (tmp_path / "RPM-GPG-KEY-example",) and len(item.index) == 64 for item in resolved)


def test_a_path_with_odd_characters_is_the_same_directory_again(tmp_path: Path) -> None:
    odd = tmp_path / "a mirror #1 100%"
    repository(odd)
    (found,) = repositories.resolve(base({"id": "os", "url": "https://example.org/os"}), Architecture.AMD64, str(odd))
    assert found.directory == odd


def test_a_changed_index_is_another_input(tmp_path: Path) -> None:
    repository(tmp_path)
    described = base({"id": "os", "url": f"file://{tmp_path}"})
    before = repositories.resolve(described, Architecture.AMD64, None)
    (tmp_path / "repodata/repomd.xml").write_text("<repomd>new</repomd>")
    assert repositories.resolve(described, Architecture.AMD64, None) != before


def test_a_directory_named_by_a_profile_must_be_a_repository(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no package repository"):
        repositories.resolve(base({"id": "os", "url": f"file://{tmp_path}"}), Architecture.AMD64, None)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Package bash-1.rpm is not signed", "VerificationError"),
        ("Public key for bash-1.rpm is not installed. Failing package is: bash-1", "VerificationError"),
        ("  - Status code: 401 for https://example.org/repodata/repomd.xml (IP: 127.0.0.1)", "NetworkError"),
        ("  - Status code: 404 for https://example.org/bash.rpm (IP: 127.0.0.1)", None),
        ("[MIRROR] bash.rpm: Interrupted by header callback: Cannot download", "NetworkError"),
        ("No match for argument: bsah", "InputError"),
        ("  - nothing provides libx needed by bash-1", "InputError"),
        ("Complete!", None),
    ],
)
def test_the_kind_of_what_dnf_says(line: str, kind: str | None) -> None:
    found = next((error.__name__ for pattern, error, _ in dnf.TROUBLES if pattern.search(line)), None)
    assert found == kind
