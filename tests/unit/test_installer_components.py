"""Components: what their file may say, and what is taken out of an artifact."""

from __future__ import annotations

import io
import itertools
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from pipeline import installer
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.installer.components import Component, extract, mirrored
from tests.unit import installers
from tests.unit.installers import archive, elf

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"version": "1.0", "url": "https://a.test/{version}/{arch}", "checksum": "https://a.test/sums"}
AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "components.yaml"
    path.write_text(text)
    installer.Source.at(tmp_path).read_components()


def test_what_is_committed_is_in_order() -> None:
    source = installer.Source.at(ROOT / "installer-image")
    found = source.read_components().components
    wanted = {"containerd", "runc", "cni-plugins", "crictl", "kubeadm", "kubelet", "kubectl", "etcdctl"}
    assert set(found) == wanted
    assert source.read_image().architectures == tuple(Architecture)
    for name, one in found.items():
        for arch in Architecture:
            assert re.fullmatch(r"https://[^{}\s]+", one.rendered(one.url, arch)), name
            assert arch.value in one.rendered(one.url, arch)


def test_a_component_says_what_it_gives() -> None:
    plain = Component.model_validate(GOOD)
    assert plain.files("runc", ARM64) == {"runc": ""}
    packed = Component.model_validate(GOOD | {"members": ["./bin/ctr", "x-{version}-{arch}/etcdctl"]})
    assert packed.files("any", ARM64) == {"ctr": "bin/ctr", "etcdctl": "x-1.0-arm64/etcdctl"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verison": "1.0"}, "components.a.verison: unknown key; did you mean 'version'?"),
        ({"sha256": "0"}, "components.a.sha256: unknown key; known: version, url, checksum, members, arch"),
        ({"version": None}, "components.a.version: input should be a valid string, not None"),
        ({"version": 1.7}, 'components.a.version: must be text, not a number; put it in quotes: "1.7"'),
        ({"version": "../1"}, "components.a.version: string should match"),
        ({"url": "ftp://a.test/x"}, "components.a.url: string should match"),
        ({"url": "https://a.test/{os}"}, "components.a.url: {os} is not known; there are {version} and {arch}"),
        ({"members": ["{os}/ctr"]}, "components.a.members: {os} is not known"),
        ({"members": ["/bin/ctr"]}, "components.a.members: '/bin/ctr' is not the path of a file in an archive"),
        ({"members": ["bin/.."]}, "components.a.members: 'bin/..' is not the path of a file"),
        ({"members": ["a/ctr", "b/ctr"]}, "components.a.members: something is there twice"),
        ({"arch": []}, "components.a.arch: tuple should have at least 1 item"),
        ({"arch": ["sparc"]}, "components.a.arch.0: input should be 'amd64' or 'arm64', not 'sparc'"),
        ({"arch": ["amd64", "amd64"]}, "components.a.arch: something is there twice"),
    ],
    ids=str,
)
def test_a_wrong_component_is_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        read(tmp_path, yaml.safe_dump({"components": {"a": GOOD | change}}))
    assert f"{tmp_path}/components.yaml:" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "components.yaml: the file is empty"),
        ("components: {}", "components.yaml:1: components: dictionary should have at least 1 item"),
        ("components:\n  A: {}", "components.yaml:2: components.A: string should match"),
        ("components:\n  a: &a {}\n  a: *a", "components.yaml:3: a: this key is there twice"),
        ("components: a: b", "components.yaml:1: this is not valid YAML"),
        ("components:\n\n  a:\n    version: '1'\n    url: https://a/\n", "yaml:3: components.a.checksum: this key"),
        (
            yaml.safe_dump({"components": {"kubeadm": GOOD, "kubelet": GOOD | {"version": "1.1"}}}),
            "the parts of Kubernetes must have one version: {'kubeadm': '1.0', 'kubelet': '1.1'}",
        ),
        (yaml.safe_dump({"components": {"payload": GOOD}}), "no component may be called payload"),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"components\.yaml is not there"):
        installer.Source.at(tmp_path).read_components()
    (tmp_path / "components.yaml").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        installer.Source.at(tmp_path).read_components()


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        (None, "https://dl.k8s.io/release/v1/kubelet"),
        ("http://mirror.test:8080", "http://mirror.test:8080/release/v1/kubelet"),
        ("https://mirror.test/upstream/", "https://mirror.test/upstream/release/v1/kubelet"),
        ("file:///srv/mirror", "file:///srv/mirror/release/v1/kubelet"),
        ("/srv/a mirror", "file:///srv/a%20mirror/release/v1/kubelet"),
    ],
)
def test_a_mirror_stands_for_scheme_and_host(mirror: str | None, expected: str) -> None:
    assert mirrored("https://dl.k8s.io/release/v1/kubelet", mirror) == expected


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_members_of_archives(mode: str, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.write_bytes(archive({"./bin/a": elf(ARM64), "b": b"#!/bin/sh\n", "c": b"not wanted"}, mode))
    extract(artifact, {"a": "bin/a", "b": "b"}, ARM64, tmp_path / "out", "x")
    assert (tmp_path / "out/a").read_bytes() == elf(ARM64)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]


def with_link(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "files", "said"),
    [
        (elf(ARM64), {"a": ""}, "x: a is a binary for arm64, not for amd64"),
        (elf(AMD64)[:5], {"a": ""}, "x: a is neither an ELF binary nor a script"),
        (b"<html>not found</html>", {"a": ""}, "x: a is neither an ELF binary nor a script"),
        (b"\x7fELF\x01\x02\x01" + bytes(9) + b"\0\2\0\x15", {"a": ""}, "a is a binary for ppc64, not for amd64"),
        (b"\x7fELF\x01\x01\x01" + bytes(9) + b"\2\0\xff\xff", {"a": ""}, "machine 65535"),
        (archive({"bin/a": elf(ARM64)}), {"a": "bin/a"}, "x: bin/a is a binary for arm64"),
        (archive({"sbin/a": elf(AMD64), "b": b""}), {"a": "bin/a"}, "has no member 'bin/a'; it has sbin/a"),
        (archive({"b": b""}), {"a": "bin/a"}, "has no member 'bin/a'; it has b"),
        (archive({}), {"a": "bin/a"}, "has no member 'bin/a'; it has none"),
        (with_link("bin/a"), {"a": "bin/a"}, "x: bin/a is not a plain file in the archive"),
        (elf(AMD64), {"a": "bin/a"}, "x: its artifact is not a whole tar archive"),
        (archive({"a": bytes(range(256)) * 999})[:300], {"b": "b"}, "x: its artifact is not a whole tar archive"),
        (archive({"a": bytes(range(256)) * 999}, "w:xz")[:200], {"b": "b"}, "x: its artifact is not a whole tar"),
    ],
    ids=itertools.count(),  # a gzip has the time in it, and every process that shares the tests must name them alike
)
def test_what_is_not_what_it_should_be(content: bytes, files: dict[str, str], said: str, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        extract(artifact, files, AMD64, tmp_path / "out", "x")
    assert caught.value.hint


def test_the_site_of_these_tests_is_in_order(tmp_path: Path) -> None:
    assert set(installers.make(tmp_path).source.read_components().components) == {"suite", "tool"}
