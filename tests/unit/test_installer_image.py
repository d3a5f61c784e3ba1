"""The installer image: what it holds, that it is the same each time, and what a change costs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import installer, oci
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.installer.image import built_manifest
from tests.unit import installers
from tests.unit.installers import Site, component, elf, suite, tool

AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64
SCRIPT_LIMIT = 1_000_000  # what a node may have to pull after a script has changed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    made = installers.make(tmp_path)
    made.lock()
    return made


def layout(site: Site) -> oci.Layout:
    return oci.Layout.open(site.build_dir / "cluster-installer/oci")


def read(site: Site, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layout(site).read(digest))
    return found


def images(site: Site) -> dict[str, Any]:
    """Return the manifest of each architecture's image."""
    (top,) = layout(site).index()
    return {one["platform"]["architecture"]: read(site, one["digest"]) for one in read(site, top.digest)["manifests"]}


def layers(site: Site) -> dict[str, list[str]]:
    return {arch: [layer["digest"] for layer in image["layers"]] for arch, image in images(site).items()}


def unpack(site: Site, arch: Architecture, target: Path) -> Path:
    """Unpack an image as an engine does."""
    for digest in layers(site)[arch]:
        target.mkdir(exist_ok=True)
        subprocess.run(["tar", "-xzpf", layout(site).blob_path(digest), "-C", target], check=True)
    return target / "cluster-installer"


@pytest.mark.parametrize("arch", list(Architecture))
def test_the_payload_verifies_and_is_whole(arch: Architecture, site: Site, tmp_path: Path) -> None:
    site.build()
    payload = unpack(site, arch, tmp_path / "node")
    found = {
        str(path.relative_to(payload)): path.stat().st_mode & 0o7777 for path in payload.rglob("*") if path.is_file()
    }
    assert found == {
        "SHA256SUMS": 0o644,
        "payload.env": 0o644,
        "bin/install": 0o755,
        "lib/utils.sh": 0o644,
        "templates/a.conf": 0o644,
        "components/suite/one": 0o755,
        "components/suite/two": 0o755,
        "components/tool/tool": 0o755,
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=payload, check=True)
    listed = [line[66:] for line in (payload / "SHA256SUMS").read_text().splitlines()]
    assert listed == sorted(found.keys() - {"SHA256SUMS"})
    assert (payload / "components/tool/tool").read_bytes() == elf(arch, b"tool")
    assert f"PAYLOAD_ARCH={arch}\n" in (payload / "payload.env").read_text()


def test_configuration_and_index(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    built = site.build()
    (top,) = layout(site).index()
    assert top.digest == built.digest == (built.directory / "digest").read_text().strip()
    labels = {
        "org.opencontainers.image.title": "tiny",
        "org.opencontainers.image.version": "1.2.3",
        "org.opencontainers.image.revision": "unknown",
        "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
    }
    assert read(site, top.digest)["annotations"] == labels
    assert top.annotations == {"org.opencontainers.image.ref.name": "1.2.3"}
    for arch, image in images(site).items():
        config = read(site, image["config"]["digest"])
        assert (config["os"], config["architecture"], config["created"]) == ("linux", arch, "2023-11-14T22:13:20Z")
        assert config["config"] == {"Cmd": ["/cluster-installer/bin/install"], "Labels": labels}
        assert [entry["created_by"] for entry in config["history"]] == ["suite 2.0", "tool 1.0", "payload 1.2.3"]
        assert len(config["rootfs"]["diff_ids"]) == len(image["layers"]) == 3


def test_same_input_same_digest(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.build().digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other/cache"))
    other = installers.make(tmp_path / "other")
    other.lock()
    assert other.build().digest == first


def test_nothing_changed_is_said(site: Site) -> None:
    first = site.build()
    again = site.build()
    assert (first.times != (), again.times) == (True, ())
    assert again.digest == first.digest
    assert "is up to date" in installer.outcome(again)


def test_a_layout_that_lost_a_blob_is_built_again(site: Site) -> None:
    first = site.build()
    layout(site).blob_path(layers(site)["amd64"][0]).unlink()
    with pytest.raises(VerificationError, match="is not whole"):
        built_manifest(site.build_dir)
    again = site.build()
    assert again.times
    assert again.digest == first.digest


def test_a_script_costs_one_small_layer(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.build()
    before, sizes = layers(site), {}
    (site.payload / "lib/utils.sh").write_text("#!/bin/bash\n# changed\n")
    capfd.readouterr()
    site.build()
    said = capfd.readouterr().err
    assert "changed since the last build: payload.lib/utils.sh" in said
    assert "not cached" not in said
    for arch, digests in layers(site).items():
        assert digests[:-1] == before[arch][:-1]
        assert digests[-1] != before[arch][-1]
        sizes[arch] = images(site)[arch]["layers"][-1]["size"]
    assert max(sizes.values()) < SCRIPT_LIMIT


def test_a_component_costs_its_layer(site: Site) -> None:
    site.build()
    before = layers(site)
    for arch in Architecture:
        site.publish(f"tool-1.1-{arch}", elf(arch, b"newer"))
    site.write_components({"tool": tool("1.1"), "suite": suite()})
    site.lock()
    site.build()
    for name, digests in layers(site).items():
        assert [new == old for new, old in zip(digests, before[name], strict=True)] == [True, False, False]


def test_cached_layers_need_no_artifact(site: Site) -> None:
    site.build()
    for path in (site.root / "mirror").rglob("*"):
        if path.is_file():
            path.unlink()
    (site.payload / "lib/utils.sh").write_text("changed")
    assert site.build().times


def test_a_damaged_cache_is_mended(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = site.build().digest
    for layer in (tmp_path / "cache").rglob("layer"):
        status = layer.stat()
        layer.write_bytes(bytes(status.st_size))
        os.utime(layer, ns=(status.st_atime_ns, status.st_mtime_ns))
    for artifact in (tmp_path / "cache").rglob("artifact"):
        artifact.write_bytes(b"damaged")
    (site.build_dir / "cluster-installer/digest").unlink()
    (site.build_dir / "cluster-installer/manifest.json").unlink()
    assert site.build().digest == first
    said = capfd.readouterr().err
    assert "tool 1.0 for amd64: the cached layer is damaged; it is made again" in said
    assert re.search("installer-artifact: the cached entry [0-9a-f]{12} is damaged; it is made again", said)


def test_another_artifact_than_the_pinned_one_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.build()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    site.publish("tool-1.0-arm64", elf(ARM64, b"evil"))
    (site.payload / "lib/utils.sh").write_text("changed")
    with pytest.raises(NetworkError, match=r"tool 1\.0 for arm64: .*wrong checksum: expected sha256"):
        site.build()
    assert (site.build_dir / "cluster-installer/digest").read_text().strip() == first.digest
    assert [path.name for path in site.build_dir.iterdir() if path.name.startswith(".")] == []


def test_one_architecture(site: Site) -> None:
    site.build(arch="arm64")
    assert list(layers(site)) == ["arm64"]
    with pytest.raises(InputError, match="unknown architecture 'sparc'"):
        site.build(arch="sparc")
    image = site.source.directory / "image.yaml"
    image.write_text(image.read_text().replace("[amd64, arm64]", "[amd64]"))
    with pytest.raises(InputError, match=r"image\.yaml does not name arm64"):
        site.build(arch="arm64")


def test_a_component_of_one_architecture(site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site.publish("only-1.0-amd64", elf(AMD64))
    site.write_components({"tool": tool(), "only": component("only", arch=["amd64"])})
    site.lock()
    site.build()
    assert "the image for arm64 is without only: components.yaml has none for it" in capfd.readouterr().err
    assert {arch: len(found) for arch, found in layers(site).items()} == {"amd64": 3, "arm64": 2}
    assert not (unpack(site, ARM64, tmp_path / "node") / "components/only").exists()


def git(site: Site, *words: str) -> str:
    env = {"PATH": "/usr/bin:/bin", "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z", "HOME": str(site.root)}
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    words = ("git", "-C", str(site.root), *who, *words)
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_revision_and_date_are_those_of_the_last_commit_of_the_installer(site: Site) -> None:
    git(site, "init")
    git(site, "add", "installer-image")
    git(site, "commit", "-m", "first")
    first = git(site, "rev-parse", "HEAD")
    plan = installer.resolve(site.source)
    assert (plan.revision, plan.epoch) == (first, 1704164645)
    (site.root / "other").write_text("nothing of the installer")
    git(site, "add", "other")
    git(site, "commit", "-m", "second")
    assert installer.resolve(site.source).key == plan.key
    (site.payload / "lib/new.sh").write_text("not yet in git")
    assert installer.resolve(site.source).revision == f"{first}-dirty"


@pytest.mark.parametrize("value", ["", "-1", "yesterday", "253402300800", "1" * 13])
def test_a_wrong_date_is_refused(value: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(InputError, match=re.escape(f"SOURCE_DATE_EPOCH is {value!r}")):
        installer.resolve(site.source)


def test_the_plan_says_everything(site: Site) -> None:
    text = installer.resolve(site.source).text()
    for word in ("1.2.3", "lib/utils.sh", hashlib.sha256(elf(ARM64, b"tool")).hexdigest(), "suite-2.0/bin/one"):
        assert word in text


def test_show(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no installer image") as caught:
        installer.print_image(site.build_dir)
    assert caught.value.hint == "run ./invoke installer.build"
    built = site.build()
    monkeypatch.setenv("COLUMNS", "40")
    capsys.readouterr()
    installer.print_image(site.build_dir, "registry.test:5000/a/b")
    out = capsys.readouterr().out
    assert f"INSTALLER_IMAGE=registry.test:5000/a/b@{built.digest}\n" in out
    for arch, platform in built_manifest(site.build_dir)["platforms"].items():
        assert f"linux/{arch}: 0.0 MB to pull, {platform['digest']}\n" in out
        assert re.search(rf"^tool +1\.0 +{arch} +1 +0\.00 MB +0\.00 MB +sha256:[0-9a-f]{{12}} *$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("to", "tag", "said"),
    [
        ("", None, "it is not said where to push"),
        ("cluster-installer", None, "is not an image's name"),
        ("registry.test/a@sha256:" + "0" * 64, None, "says more than where to push"),
        ("registry.test/a:1", "2", "says more than where to push"),
    ],
)
def test_where_nothing_can_be_pushed(to: str, tag: str | None, said: str, site: Site) -> None:
    with pytest.raises(InputError, match=said):
        installer.push(site.build_dir, to, tag=tag)
