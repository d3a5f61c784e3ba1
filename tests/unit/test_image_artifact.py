"""Published images without a registry: the layer, the manifests, and what is refused before anything is sent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import image, oci
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, PipelineError, VerificationError
from pipeline.image.artifact import manifests, source
from pipeline.image.artifact.layer import HEADERS, Layer, Unpacker, headers, padding
from tests.unit import artifacts
from tests.unit.artifacts import EPOCH

SIZES = [0, 1, 511, 512, 513, 1024 * 1024, 1024 * 1024 + 1]
NAME = "tiny-1-amd64.qcow2"


# ----------------------------------------------------------------------------------------------- the layer


@pytest.mark.parametrize("size", SIZES)
def test_the_layer_is_a_tar_with_the_disk_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / NAME
    path.write_bytes(artifacts.noise(size))
    with path.open("rb") as file:
        layer = Layer(file, path, EPOCH)
        data = layer.open(0).read()
        assert layer.digests() == (hashlib.sha256(path.read_bytes()).hexdigest(), oci.digest_of(data))
        assert layer.size == len(data)
        for offset in {0, 1, 512, 1023, 1024, 1025, size // 2, 1024 + size, len(data) - 1, len(data)}:
            assert layer.open(offset).read() == data[offset:]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        folder, disk = tar.getmembers()
        content = tar.extractfile(disk)
        assert content is not None
        assert content.read() == path.read_bytes()
    assert (folder.name, folder.isdir(), folder.mode) == ("disk", True, 0o755)
    assert (disk.name, disk.isreg(), disk.mode) == (f"disk/{NAME}", True, 0o644)
    assert {(one.uid, one.gid, one.mtime) for one in (folder, disk)} == {(107, 107, EPOCH)}
    assert data.startswith(b"disk/\0")  # CDI looks for that, without a dot before it


@pytest.mark.parametrize("size", [0, 1, 8 * 1024**3 - 1, 8 * 1024**3, 3 * 1024**4])
def test_disks_of_any_size_have_a_header(size: int) -> None:
    data = headers(NAME, size, EPOCH)
    assert len(data) == HEADERS
    assert tarfile.TarInfo.frombuf(data[512:], "utf-8", "strict").size == size


def test_little_of_the_disk_is_in_memory(tmp_path: Path) -> None:
    path, size = tmp_path / NAME, 64 * 1024**2
    path.touch()
    os.truncate(path, size)
    tracemalloc.start()
    with path.open("rb") as file:
        layer = Layer(file, path, EPOCH)
        layer.digests()
        with layer.open(0) as stream, (tmp_path / "out").open("wb") as out:
            unpacker = Unpacker(out, NAME, EPOCH, "r/x")
            while block := stream.read(256 * 1024):
                unpacker.write(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert unpacker.finish()
    assert (tmp_path / "out").stat().st_size == size
    assert peak < size / 8


@pytest.mark.parametrize("step", [1, 100, 512, 1000, 65536, 10**7])
def test_the_disk_comes_out_of_the_layer(step: int) -> None:
    disk = artifacts.noise(2000 if step < 100 else 300_001)
    data = headers(NAME, len(disk), EPOCH) + disk + padding(len(disk))
    out = io.BytesIO()
    unpacker = Unpacker(out, NAME, EPOCH, "r/x")
    for start in range(0, len(data), step):
        unpacker.write(data[start : start + step])
    assert unpacker.finish() == hashlib.sha256(disk).hexdigest()
    assert out.getvalue() == disk


GOOD = headers(NAME, 700, EPOCH) + artifacts.noise(700) + padding(700)


def packed(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(artifacts.noise(700)))
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:500],
        GOOD[:HEADERS],
        GOOD[: HEADERS + 699],
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + bytes(10240),
        GOOD[:-1] + b"x",
        b"\x1f\x8b" + GOOD[2:],
        headers("other.qcow2", 700, EPOCH) + GOOD[HEADERS:],
        headers(NAME, 700, EPOCH + 1) + GOOD[HEADERS:],
        packed("disk/" + NAME),
        packed("disk/" + NAME, "disk/second.qcow2"),
        packed("../" + NAME, "/etc/passwd"),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_another_layer_is_refused(data: bytes) -> None:
    out = io.BytesIO()
    unpacker = Unpacker(out, NAME, EPOCH, "r/x")
    with pytest.raises(VerificationError, match="its layer is not a tar with disk/tiny-1-amd64") as caught:
        unpacker.write(data)
        unpacker.finish()
    assert "./invoke publish" in caught.value.hint


def test_a_disk_that_changes_while_it_is_pushed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(artifacts.noise(5000))
    with path.open("rb") as file:
        layer = Layer(file, path, EPOCH)
        stream = layer.open(0)
        path.write_bytes(artifacts.noise(100))
        with pytest.raises(InputError, match="has changed while it was pushed"):
            layer.open(0)
        with pytest.raises(InputError, match="has changed while it was pushed"):
            stream.read()


# ------------------------------------------------------------------------------------------- what is pushed


def test_a_build_directory_is_read(tmp_path: Path) -> None:
    directory = artifacts.make(tmp_path)
    (directory / "verify").mkdir()
    (directory / "verify/report.html").write_text("not listed, and not pushed")
    with source.opened(directory) as found:
        assert found.facts.name == "tiny-1-amd64"
        assert found.facts.tag == "tiny-1"
        assert found.facts.arch is Architecture.AMD64
        disk = (directory / NAME).read_bytes()
        assert found.digest == oci.digest_of(headers(NAME, len(disk), EPOCH) + disk + padding(len(disk)))
        assert found.files == {name: data for name, data in artifacts.content(directory).items() if name != NAME}


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def replace(name: str, data: bytes) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).write_bytes(data)

    return change


def describe(**changes: Any) -> Callable[[Path], None]:  # noqa: ANN401
    def change(directory: Path) -> None:
        disk = (directory / NAME).read_bytes()
        artifacts.write(directory, artifacts.manifest("tiny-1-amd64", disk, arch="amd64") | changes)

    return change


def flip(directory: Path) -> None:
    data = bytearray((directory / NAME).read_bytes())
    data[-1] ^= 1
    (directory / NAME).write_bytes(data)


def with_a_second_disk(directory: Path) -> None:
    (directory / "other.qcow2").write_bytes(b"x")
    artifacts.write_sums(directory)


def without_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    artifacts.write_sums(directory)


@pytest.mark.parametrize(
    ("harm", "kind", "said"),
    [
        (lambda directory: directory.rename(directory.with_name("gone")), InputError, "there is no image tiny-1-amd64"),
        (remove("SHA256SUMS"), InputError, "not a whole image: SHA256SUMS: No such file"),
        (remove("manifest.json"), InputError, "not a whole image: manifest.json: No such file"),
        (remove("sbom.cdx.json"), InputError, "not a whole image: sbom.cdx.json: No such file"),
        (remove(NAME), InputError, f"not a whole image: {NAME}: No such file"),
        (without_manifest, InputError, "SHA256SUMS does not list manifest.json"),
        (replace("SHA256SUMS", b""), VerificationError, "SHA256SUMS is damaged"),
        (replace("SHA256SUMS", b"0" * 64 + b"  ../x\n"), VerificationError, "SHA256SUMS is damaged"),
        (replace("SHA256SUMS", b"\xff\xfe"), VerificationError, "SHA256SUMS is damaged"),
        (replace("SHA256SUMS", (b"0" * 64 + b"  a\n") * 2), VerificationError, "SHA256SUMS is damaged"),
        (replace("plan.json", b"{ }"), VerificationError, "plan.json is not what SHA256SUMS says"),
        (flip, VerificationError, f"{NAME} is not what SHA256SUMS says"),
        (with_a_second_disk, VerificationError, "SHA256SUMS and manifest.json are not of one image"),
        (describe(name="other-1-amd64"), InputError, "'other-1-amd64' cannot be the name"),
        (describe(os="x" * 90, name=f"{'x' * 90}-1-amd64"), InputError, "cannot be the name"),
        (describe(release="1/2", name="tiny-1/2-amd64"), InputError, "cannot be the name"),
        (describe(arch="riscv64"), InputError, "manifest.json: arch:"),
        (describe(epoch="yesterday"), InputError, "manifest.json: epoch:"),
        (describe(image=None), InputError, "manifest.json: image:"),
        (
            describe(image={"file": NAME, "size": 1, "sha256": "0" * 64}),
            VerificationError,
            "are not of one image",
        ),
    ],
)
def test_what_is_not_whole_is_not_pushed(
    tmp_path: Path, harm: Callable[[Path], None], kind: type[PipelineError], said: str
) -> None:
    directory = artifacts.make(tmp_path)
    harm(directory)
    with pytest.raises(kind, match=said) as caught:
        image.push_image(directory, "registry.test:5000/node-images")  # which nobody asks
    assert caught.value.hint


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("", "not said which repository"),
        ("registry.test:5000/x:tag", "says more than which repository"),
        (f"registry.test:5000/x@sha256:{'0' * 64}", "says more than which repository"),
        ("node-images", "is not an image's name"),
        ("https://registry.test/x", "is not an image's name"),
    ],
)
def test_where_it_cannot_go(tmp_path: Path, to: str, said: str) -> None:
    artifacts.make(tmp_path)
    for act in (
        lambda: image.publish_images(["tiny-1-amd64"], tmp_path, to),
        lambda: image.fetch_images(["tiny-1-amd64"], tmp_path, to),
    ):
        with pytest.raises(InputError, match=said):
            act()


def test_nothing_is_built(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of a-1-amd64, b-1-amd64 nothing is built"):
        image.publish_images(["a-1-amd64", "b-1-amd64"], tmp_path, "registry.test/x", only_built=True)
    with pytest.raises(InputError, match="there is no image a-1-amd64"):
        image.publish_images(["a-1-amd64", "b-1-amd64"], tmp_path, "registry.test/x")


@pytest.mark.parametrize("reference", ["registry.test:5000/x", "x:tag", ""])
def test_a_name_that_names_nothing(tmp_path: Path, reference: str) -> None:
    with pytest.raises(InputError):
        image.pull_image(reference, tmp_path)


# ---------------------------------------------------------------------------------------------- the manifests


def facts(**changes: Any) -> source.Facts:  # noqa: ANN401
    described = artifacts.manifest("tiny-1-amd64", b"disk", arch="amd64") | changes
    return source.parse_facts(json.dumps(described).encode(), "manifest.json")


def test_the_image_says_what_it_is() -> None:
    config = json.loads(manifests.config(facts(), "sha256:" + "1" * 64))
    assert (config["os"], config["architecture"], config["created"]) == ("linux", "amd64", "2026-11-23T11:22:37Z")
    assert config["rootfs"]["diff_ids"] == ["sha256:" + "1" * 64]
    layer = oci.Descriptor(oci.OCI_LAYER_TAR, "sha256:" + "1" * 64, 10240)
    described = manifests.descriptor(b"{}", oci.OCI_CONFIG)
    found = json.loads(manifests.image(facts(), described, layer, "2" * 64))
    assert found["annotations"] == {
        "org.opencontainers.image.title": "tiny-1-amd64",
        "org.opencontainers.image.version": "1",
        "org.opencontainers.image.description": "Tiny Linux 1: node image for amd64",
        "org.opencontainers.image.created": "2026-11-23T11:22:37Z",
        "org.opencontainers.image.revision": "0123456789ab",
        "node-images.sha256sums": "2" * 64,
    }
    assert found["layers"][0]["annotations"] == {"org.opencontainers.image.title": "tiny-1-amd64.tar"}
    assert "subject" not in found


def test_the_configuration_is_that_of_the_disk_alone() -> None:
    digest = "sha256:" + "1" * 64
    other = facts(provenance={"revision": "ba9876543210"}, created="later")
    assert manifests.config(facts(), digest) == manifests.config(other, digest)
    for unknown in ({"revision": "unknown"}, {}):
        layer = oci.Descriptor(oci.OCI_LAYER_TAR, digest, 10240)
        text = manifests.image(facts(provenance=unknown), layer, layer, "2" * 64)
        assert b"revision" not in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sbom.cdx.json", "application/vnd.cyclonedx+json"),
        ("SHA256SUMS", "application/vnd.node-images.sha256sums"),
        ("new.txt", "application/vnd.node-images.file"),
    ],
)
def test_a_file_refers_to_its_image(name: str, kind: str) -> None:
    subject = oci.Descriptor(oci.OCI_MANIFEST, "sha256:" + "3" * 64, 500)
    found = json.loads(manifests.referrer(facts(), subject, name, b"content"))
    assert (found["artifactType"], found["subject"]["digest"]) == (kind, subject.digest)
    assert found["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert found["layers"] == [
        {
            "mediaType": kind,
            "digest": oci.digest_of(b"content"),
            "size": 7,
            "annotations": {"org.opencontainers.image.title": name},
        }
    ]
