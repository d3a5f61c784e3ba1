"""Images from a real registry into a bundle that other tools read."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pipeline import oci
from pipeline.bundle import helper, release
from pipeline.bundle.images import ImageList
from pipeline.bundle.verify import verify
from pipeline.core.errors import DependencyError, InputError, NetworkError
from pipeline.oci import Layout, Platform, Reference
from tests.integration import registries
from tests.integration.packed import (
    AMD64,
    ARM64,
    EPOCH,
    KIB,
    App,
    Maker,
    client,
    cosign_tag,
    joined,
    make_app,
    noise,
    packed,
    sums,
    unpacked,
    wanted,
)
from tests.integration.registries import Served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A registry without TLS and passwords."""
    with registries.registry(folder / "plain", tls=False) as running:
        yield running


@pytest.fixture(scope="module")
def app(folder: Path, served: Served) -> App:
    return make_app(folder / "app", client(served.host))


# ------------------------------------------------------------------------------------------ there it is


def test_every_byte_is_in_the_joined_tar(served: Served, app: App, folder: Path, tmp_path: Path) -> None:
    with packed(wanted(served.host, "platform/app:v1"), tmp_path / "out", volume_size=128 * KIB) as archive:
        (image,) = archive.bundle.images
        volumes = archive.bundle.volumes
        report = verify(archive)
    assert (image.root.digest, image.tags, image.platforms) == (app.index.digest, ("v1",), (AMD64, ARM64))
    assert image.manifests[:5] == (app.index.digest, *(one.digest for one in app.images))
    assert {one.tag: one.root.digest for one in image.attachments} == {
        tag: root.digest for tag, root in app.attached.items()
    }
    assert len(volumes) > 2
    assert (report.blobs, report.images, report.needed) == (len(app.blobs()), 1, 0)
    sums(tmp_path / "out/v1")
    tar = joined(tmp_path / "out/v1", tmp_path / "v1.tar")
    assert unpacked(tar, tmp_path / "unpacked") == app.blobs()
    Layout.open(tmp_path / "unpacked").verify()
    name = f"oci-archive:{tar}:{served.host}/platform/app:v1"
    assert registries.skopeo(folder, "inspect", "--raw", name).encode() == app.maker.layout.read(app.index.digest)


def test_a_second_pack_fetches_nothing_and_makes_the_same(served: Served, app: App, tmp_path: Path) -> None:
    images = wanted(served.host, f"platform/app@{app.index.digest}")
    packed(images, tmp_path).close()
    first = sums(tmp_path / "v1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / ".store/blobs").rglob("*")}
    packed(images, tmp_path).close()
    assert sums(tmp_path / "v1") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".store/blobs").rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store", "logs", "v1"]


def test_one_platform_with_its_attestation(served: Served, app: App, tmp_path: Path) -> None:
    with packed(wanted(served.host, "platform/app:v1", platforms=(ARM64,)), tmp_path) as archive:
        (image,) = archive.bundle.images
        amd64, arm64, about_amd64, about_arm64 = (one.digest for one in app.images)
        assert image.platforms == (ARM64,)
        assert set(image.left_out) == {amd64, about_amd64}
        assert {arm64, about_arm64} < set(image.manifests)
        assert cosign_tag(app.images[0], ".sig") not in {one.tag for one in image.attachments}
        assert archive.read(app.index.digest) == app.maker.layout.read(app.index.digest)
        assert not archive.bundle.carries(amd64)


def test_two_images_of_one_index_are_left_out_nowhere(served: Served, app: App, tmp_path: Path) -> None:
    app.maker.push(client(served.host), "platform/app", app.index, "latest")
    both = wanted(served.host, "platform/app:v1", platforms=(ARM64,)).merged(
        wanted(served.host, "platform/app:latest", platforms=(AMD64,))
    )
    with packed(both, tmp_path) as archive:
        assert [image.left_out for image in archive.bundle.images] == [(), ()]


def test_a_single_image(served: Served, app: App, tmp_path: Path) -> None:
    name = f"platform/app@{app.images[0].digest}"
    with packed(wanted(served.host, name, platforms=(AMD64, ARM64)), tmp_path) as archive:
        (image,) = archive.bundle.images
        assert (image.platforms, image.tags) == ((AMD64,), ())
        assert {one.tag for one in image.attachments} == {cosign_tag(app.images[0], ".sig")}


@pytest.mark.parametrize("name", ["platform/app:v1", "platform/app@{amd64}"])
@pytest.mark.parametrize("is_exact", [False, True])
def test_no_such_platform(served: Served, app: App, tmp_path: Path, name: str, is_exact: bool) -> None:
    name = name.format(amd64=app.images[0].digest)
    with pytest.raises(InputError, match="there is no image for linux/s390x") as caught:
        packed(wanted(served.host, name, platforms=(Platform("linux", "s390x"),), is_exact=is_exact), tmp_path)
    assert "it has linux/amd64" in caught.value.hint
    if is_exact:
        with pytest.raises(InputError, match=r"there is no image for linux/s390x$"):
            both = (AMD64, Platform("linux", "s390x"))
            packed(wanted(served.host, name, platforms=both, is_exact=True), tmp_path)
    assert not (tmp_path / "v1").exists()


def test_lean_has_the_same_blobs_and_is_smaller(served: Served, app: App, tmp_path: Path) -> None:
    images = wanted(served.host, "platform/app:v1")
    with packed(images, tmp_path, "plain") as plain, packed(images, tmp_path, "lean", store="lean") as lean:
        verify(lean)
        assert {(blob.digest, blob.size) for blob in lean.bundle.blobs} == {
            (blob.digest, blob.size) for blob in plain.bundle.blobs
        }
        stored = {blob.digest for blob in lean.bundle.blobs if blob.stored == "lean"}
        layers = [oci.links(app.maker.layout.read(one.digest), one.media_type).blobs[2] for one in app.images[:2]]
        assert stored == {layer.digest for layer in layers}, "what zlib made nobody can make again everywhere"
        for layer in layers:
            with lean.open_blob(layer.digest) as file:
                assert oci.digest_of(file.read()) == layer.digest
        shared = 250 * KIB  # both layers begin alike
        assert lean.volumes.size < plain.volumes.size - shared
        assert lean.bundle.lean is not None
        assert (lean.bundle.store, [one["name"] for one in lean.bundle.lean.encoders]) == ("lean", ["pgzip"])
    first = sums(tmp_path / "lean")
    packed(images, tmp_path, "lean", store="lean", threads=1).close()
    assert sums(tmp_path / "lean") == first, "with what was found out the first time"
    shutil.rmtree(tmp_path / ".store/proofs")
    packed(images, tmp_path, "lean", store="lean").close()
    assert sums(tmp_path / "lean") == first


def test_lean_without_a_layer_that_it_could_be_is_plain(served: Served, tmp_path: Path) -> None:
    maker = Maker(tmp_path / "image")
    empty = maker.layout.put_blob(b"", oci.OCI_LAYER)
    zstd = maker.layout.put_blob(zstandard.compress(b"content"), "application/vnd.oci.image.layer.v1.tar+zstd")
    damaged = maker.layout.put_blob(b"\x1f\x8b" + noise(4, 100), oci.OCI_LAYER)
    plain = maker.layout.put_blob(b"content", "application/vnd.oci.image.layer.v1.tar")
    maker.push(client(served.host), "odd/layers", maker.image("amd64", empty, zstd, damaged, plain), "v1")
    with packed(wanted(served.host, "odd/layers:v1"), tmp_path, store="lean") as archive:
        assert (archive.bundle.store, archive.bundle.lean) == ("plain", None)
        verify(archive)


def test_lean_without_the_helper_is_plain(
    served: Served, app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(_: Path) -> None:
        raise DependencyError("there is no Go", hint="install golang-go")

    monkeypatch.setattr(helper, "build", build)
    with packed(wanted(served.host, "platform/app:v1"), tmp_path, store="lean") as archive:
        assert archive.bundle.store == "plain"
        assert len(archive.bundle.blobs) == len(app.blobs())
    assert "every layer is stored as it is: there is no Go; install golang-go" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ release payloads


def test_a_release_payload(served: Served, app: App, tmp_path: Path) -> None:
    maker, registry = Maker(tmp_path / "payload"), client(served.host)
    elsewhere = f"quay.example/release/dev@{app.index.digest}"
    stream = {
        "kind": "ImageStream",
        "spec": {"tags": [{"name": "app", "from": {"kind": "DockerImage", "name": elsewhere}}]},
    }
    references = maker.layer("release-manifests/image-references", json.dumps(stream).encode())
    payload = maker.image("amd64", maker.layer("bin/operator", b"operator"), references)
    maker.push(registry, "release/images", payload, "4.1")
    app.maker.push(registry, "release/components", app.index)
    signature = tmp_path / "signatures" / payload.digest.replace(":", "=") / "signature-1"
    signature.parent.mkdir(parents=True)
    signature.write_bytes(b"of GPG")

    reference = Reference.parse(f"{served.host}/release/images:4.1")
    store = Layout.create(tmp_path / ".store")
    listed = release.read(reference, client, store, mirror=f"{served.host}/release/components")
    listed = ImageList(listed.images, str(tmp_path / "signatures"), listed.payload)
    with packed(listed, tmp_path, "r1") as archive:
        top, component = archive.bundle.images
        assert (top.root.digest, top.tags) == (payload.digest, ("4.1",))
        assert (component.source, component.repository) == (elsewhere, "release/dev")
        assert component.root.digest == app.index.digest
        kept = f"signatures/{payload.digest.replace(':', '=')}/signature-1"
        assert kept in {file.path for file in archive.bundle.files}
    subprocess.run(["tar", "-xf", joined(tmp_path / "r1", tmp_path / "r1.tar"), "-C", tmp_path, kept], check=True)
    assert (tmp_path / kept).read_bytes() == b"of GPG"

    with pytest.raises(InputError, match="has no release-manifests/image-references"):
        release.read(Reference.parse(f"{served.host}/platform/app:v1"), client, store)
    with pytest.raises(NetworkError, match="is not in the registry"):
        release.read(Reference.parse(f"{served.host}/release/images:4.2"), client, store)
