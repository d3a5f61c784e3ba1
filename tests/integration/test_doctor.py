"""The doctor with the real dnf, gpg and apt: what is sound, what is missing, and what to do about it."""

from __future__ import annotations

import importlib
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import image, profile, quality
from pipeline.core.arch import Architecture
from pipeline.image import plan
from tests.integration import builds, media, rpms
from tests.integration.rpms import Distribution
from tests.integration.test_rpm_base import serving

pytestmark = [pytest.mark.root]
ARCH = Architecture.host()


def described(url: str, key: str, **base: object) -> dict[str, Any]:
    """Return a profile of the tiny distribution, whose repository is at a URL."""
    debian = yaml.safe_load((quality.ROOT / "osprofiles/debian.yaml").read_text())["releases"]["12"]
    release = json.loads(json.dumps(debian)) | {
        "base": {
            "kind": "rpm", "lineage": "el9", "releasever": "1", "fingerprints": [key], "database": "var/lib/rpm",
            "release_package": "tiny-release", "repositories": [{"id": "tiny", "url": url}],
            "keys": [f"{url}/RPM-GPG-KEY-tiny"],
        } | base,
        "packages": ["greeter", "rpm"],
        "arch": {str(ARCH): {"packages": ["kernel"]}},
        "overlays": [],
    }  # fmt: skip
    release["boot"] |= {"efi_vendor": "tiny", "initramfs": "dracut"}
    release["verify"] |= {"os_release": {"ID": "tiny"}}
    return {"name": "tiny", "title": "Tiny", "family": "rpm", "default_release": "1", "releases": {"1": release}}


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # By its module's name the package gives the function.
    monkeypatch.setattr(importlib.import_module("pipeline.image.doctor"), "PLAIN_WIDTH", 2000)

    def examine(data: dict[str, Any], base_kind: str = "repo", **options: Any) -> tuple[int, str]:  # noqa: ANN401
        profiles = tmp_path / "profiles"
        profiles.mkdir(exist_ok=True)
        (profiles / "tiny.yaml").write_text(yaml.safe_dump(data))
        code = image.doctor(
            profile.cells(profiles, "tiny", "", ""),
            overlays=tmp_path, build_dir=tmp_path / "build", base_kind=base_kind,
            mirror=options.get("mirror"), medium=options.get("medium"), machines=lambda arch: f"{arch} runs somehow",
        )  # fmt: skip
        return code, " ".join(capsys.readouterr().out.split())

    return examine


def test_all_is_well(doctor: Callable[..., tuple[int, str]], tiny: Distribution) -> None:
    code, said = doctor(described(tiny.repository.as_uri(), tiny.key))
    assert code == 0, said
    for text in (
        "all are installed", "a private namespace can be made", "run natively", f"{ARCH} runs somehow",
        f"{tiny.key}, does not expire", f"all 4 exist for {ARCH}", "Install 7 Packages", "Tiny 1 (One); rpm 1-1.ty1",
        "kernel-2-1.ty1",
    ):  # fmt: skip
        assert text in said


def test_wrong_words_of_a_profile_are_found(doctor: Callable[..., tuple[int, str]], tiny: Distribution) -> None:
    data = described(tiny.repository.as_uri(), tiny.key)
    release = data["releases"]["1"]
    release["packages"] = ["greter", "sh-of-somebody", "rpm"]
    release["boot"]["efi_vendor"] = "other"
    release["verify"]["os_release"]["ID"] = "another"
    code, said = doctor(data)
    assert code == 7
    assert f"package greter no repository has it for {ARCH} did you mean greeter?" in said
    assert f"package sh-of-somebody no repository has it for {ARCH} correct it in the profile" in said
    assert "ID is 'tiny'; the profile's verify.os_release expects 'another'" in said
    assert "boot.efi_vendor is other; the medium has Tiny" in said
    release["packages"] = ["impossible", "rpm"]
    release["verify"]["os_release"]["ID"] = "tiny"
    code, said = doctor(data)
    assert code == 2
    assert "dependencies - nothing provides nobody-has-this needed by impossible-1-1.ty1" in said


def test_repositories_that_are_not_there(doctor: Callable[..., tuple[int, str]], tiny: Distribution) -> None:
    with serving(tiny.repository) as (url, _):
        data = described(url, tiny.key)
        data["releases"]["1"]["base"]["repositories"].append({"id": "more", "url": f"{url}/more"})
        code, said = doctor(data)
        assert code == 2
        assert f"repository more there is no repodata/repomd.xml at {url}/more" in said
        assert "not looked at, as a repository is missing" in said
        assert doctor(data, mirror=url)[0] == 0
    code, said = doctor(data)
    assert code == 6
    assert "repository tiny http://127.0.0.1" in said


def test_keys(doctor: Callable[..., tuple[int, str]], tiny: Distribution, tmp_path: Path) -> None:
    url = tiny.repository.as_uri()
    code, said = doctor(described(url, "0" * 40))
    assert code == 3
    assert f"holds {tiny.key}; none of these is pinned" in said
    assert f"signing keys the signing key {'0' * 40} was not found" in said
    home, old = tmp_path / "gnupg", tmp_path / "RPM-GPG-KEY-old"
    key = rpms.make_key(home, "Old", expires="seconds=1")
    old.write_text(rpms.run("gpg", "--homedir", home, "--armor", "--export", key))
    time.sleep(2)
    code, said = doctor(described(url, key, keys=[old.as_uri()]))
    assert code == 3
    assert f"{key}, expired on 20" in said
    assert f"the signing key {key} expired on 20" in said
    # The key is in a package, too.
    code, said = doctor(described(url, tiny.key, keys=[f"{tmp_path.as_uri()}/missing"]))
    assert code == 0
    assert f"pinned and found: {tiny.key}" in said


def test_a_medium(doctor: Callable[..., tuple[int, str]], tiny: Distribution, tmp_path: Path) -> None:
    disc = media.iso(tmp_path / "tiny.iso", tiny.repository)
    code, said = doctor(described("http://127.0.0.1:1", tiny.key), "iso", medium=disc)
    assert code == 0, said
    assert f"all 4 exist for {ARCH}" in said
    assert "Tiny 1 (One)" in said
    code, said = doctor(described("http://127.0.0.1:1", tiny.key), "iso", medium=tmp_path / "missing.iso")
    assert code == 2
    assert "there is no medium" in said


def test_a_rootfs_is_left_to_the_build(
    doctor: Callable[..., tuple[int, str]], tiny: Distribution, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar"
    subprocess.run(["tar", "-cf", archive, "-C", tiny.repository, "repodata"], check=True)
    code, said = doctor(described(tiny.repository.as_uri(), tiny.key), "rootfs", medium=archive)
    assert code == 0, said
    assert f"{archive} is there; a rootfs is looked into only by a build" in said


def test_this_machine(
    doctor: Callable[..., tuple[int, str]], tiny: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TOOLS", ("sfdisk", "no-such-tool"))
    monkeypatch.setattr(plan, "SPACE_COLD", 2**60)
    code, said = doctor(described(tiny.repository.as_uri(), tiny.key))
    assert code == 5
    assert "tools not installed: no-such-tool run ./invoke once" in said
    assert "GB free; a build needs" in said


def test_debian_without_an_archive(doctor: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    data = yaml.safe_load((quality.ROOT / "osprofiles/debian.yaml").read_text()) | {"name": "tiny"}
    data["releases"]["12"]["overlays"] = []
    code, said = doctor(data, mirror=f"file://{tmp_path}/debian")
    assert code == 6
    assert "there is no suite 'bookworm'" in said


@pytest.mark.network
def test_debian_as_a_user_asks_for_it(tmp_path: Path) -> None:
    text = (quality.ROOT / "osprofiles/debian.yaml").read_text()
    (tmp_path / "debian.yaml").write_text(text.replace("- openssh-server", "- opensh-server"))
    words = builds.command("doctor", "--os", "debian", "--arch", "all", "--profiles", str(tmp_path))
    done = subprocess.run(words, cwd=quality.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "debian-12-arm64" in done.stdout
    assert done.stdout.count("did you mean openssh-server") == 2
