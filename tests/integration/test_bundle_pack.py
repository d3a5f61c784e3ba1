"""Images from a real registry into a bundle that other tools read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.bundle import release
from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Options
from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.pack import pack
from pipeline.core import namespace, publish
from pipeline.core.errors import InputError, NetworkError, StorageError, VerificationError
from pipeline.oci import Descriptor, Layout, Platform, Reference, Registry, RegistryOptions
from tests.integration import registries
from tests.integration.packed import Maker, cosign_tag, noise
from tests.integration.registries import Served

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
KIB = 1024
QUICK = {"retries": 2, "timeout": 20.0, "backoff": 0.01}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795575600")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A registry without TLS and passwords."""
    with registries.registry(folder / "plain", tls=False) as running:
        yield running


def client(host: str, **changes: object) -> Registry:
    return Registry(host, RegistryOptions(**(QUICK | {"plain_http": True} | changes)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class App:
    """An image for two architectures with everything that may be attached to it.

    Attributes:
        maker: has it in its layout.
        index: its top.
        images: its children: amd64, arm64, and an attestation of each.
        attached: what hangs on them, by tag.
    """

    maker: Maker
    index: Descriptor
    images: tuple[Descriptor, ...]
    attached: dict[str, Descriptor]

    def blobs(self) -> dict[str, bytes]:
        paths = (self.maker.layout.path / "blobs/sha256").iterdir()
        return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def app(folder: Path, served: Served) -> App:
    maker = Maker(folder / "app")
    shared = maker.layer("opt/shared", noise(1, 300 * KIB))
    amd64 = maker.image("amd64", shared, maker.layer("opt/amd64", noise(2, 100 * KIB)))
    arm64 = maker.image("arm64", shared, maker.layer("opt/arm64", noise(3, 100 * KIB)))
    children = (amd64, arm64, maker.attestation(amd64, b"of amd64"), maker.attestation(arm64, b"of arm64"))
    index = maker.index(*children)
    signature = maker.signature(index)
    attached = {
        cosign_tag(index, ".sig"): signature,
        cosign_tag(amd64, ".sig"): maker.signature(amd64),
        cosign_tag(arm64, ".att"): maker.signature(arm64),
        cosign_tag(signature, ".sbom"): maker.signature(signature),
        cosign_tag(index): maker.index(maker.artifact(index, b"found by the fallback tag")),
    }
    registry = client(served.host)
    maker.push(registry, "platform/app", index, "v1")
    for tag, root in attached.items():
        maker.push(registry, "platform/app", root, tag)
    return App(maker, index, children, attached)


def wanted(host: str, name: str, **more: object) -> ImageList:
    reference = Reference.parse(f"{host}/{name}")
    tags = (reference.tag,) if reference.tag else ()
    return ImageList((Wanted(reference, reference.repository, tags, **more),))  # type: ignore[arg-type]


def packed(images: ImageList, out: Path, name: str = "v1", **options: object) -> Archive:
    return pack(images, name, client, out / ".store", Options(out, **options))  # type: ignore[arg-type]


def sums(path: Path) -> dict[str, str]:
    """Return the bundle's own checksums, after they were compared with its files."""
    lines = [line.split("  ", 1) for line in (path / "SHA256SUMS").read_text().splitlines()]
    found = {name: word for word, name in lines}
    assert found == {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.iterdir()
        if file.name != "SHA256SUMS"
    }
    return found


def joined(path: Path, target: Path) -> Path:
    """Put the volumes together, as cat does."""
    with target.open("wb") as tar:
        for volume in sorted(path.glob("*.bundle.*")):
            tar.write(volume.read_bytes())
    return target


def unpacked(tar: Path, target: Path) -> dict[str, bytes]:
    """Return the blobs of a joined bundle, unpacked by tar."""
    target.mkdir()
    subprocess.run(["tar", "-xf", tar, "-C", target], check=True)
    return {path.name: path.read_bytes() for path in (target / "blobs/sha256").iterdir()}


# ------------------------------------------------------------------------------------------ there it is


def test_every_byte_is_in_the_joined_tar(served: Served, app: App, folder: Path, tmp_path: Path) -> None:
    with packed(wanted(served.host, "platform/app:v1"), tmp_path / "out", volume_size=128 * KIB) as archive:
        (image,) = archive.bundle.images
        volumes = archive.bundle.volumes
    assert (image.root.digest, image.tags, image.platforms) == (app.index.digest, ("v1",), (AMD64, ARM64))
    assert image.manifests[:5] == (app.index.digest, *(one.digest for one in app.images))
    assert {one.tag: one.root.digest for one in image.attachments} == {
        tag: root.digest for tag, root in app.attached.items()
    }
    assert len(volumes) > 2
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


# ------------------------------------------------------------------------------------------ what goes wrong


def test_every_image_that_is_gone_is_named(served: Served, app: App, tmp_path: Path) -> None:
    names = [f"platform/none@{app.index.digest}", "platform/app:v7", "platform/app:v1"]
    images = ImageList(tuple(one for name in names for one in wanted(served.host, name).images))
    with pytest.raises(NetworkError) as caught:
        packed(images, tmp_path)
    assert [name in caught.value.message for name in names] == [True, True, False]
    assert "deleted from the registry" in caught.value.hint


def test_no_password(folder: Path, tmp_path: Path) -> None:
    with registries.registry(folder / "secure", password=True) as served:
        for auth in (None, registries.auth_file(tmp_path / "auth.json", served.host, password="wrong")):

            def secure(host: str, auth: Path | None = auth, ca: Path | None = served.ca) -> Registry:
                return client(host, plain_http=False, ca=ca, auth_file=auth)

            with pytest.raises(NetworkError, match="credentials are missing or wrong"):
                pack(wanted(served.host, "a/b:v1"), "v1", secure, tmp_path / ".store", Options(tmp_path))
        with pytest.raises(NetworkError, match="certificate is not trusted"):
            pack(
                wanted(served.host, "a/b:v1"),
                "v1",
                lambda host: client(host, plain_http=False),
                tmp_path / ".store",
                Options(tmp_path),
            )


@pytest.mark.parametrize("how", ["other", "gone"])
def test_a_blob_that_is_damaged_in_the_registry(folder: Path, tmp_path: Path, how: str) -> None:
    maker = Maker(tmp_path / "image")
    layer = maker.layer("file", noise(7, 50 * KIB))
    with registries.registry(folder / f"damaged-{how}", tls=False) as served:
        maker.push(client(served.host), "a/b", maker.image("amd64", layer), "v1")
        hexadecimal = layer.digest.partition(":")[2]
        blob = served.root / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        if how == "gone":
            shutil.rmtree(blob.parent)
        else:
            blob.write_bytes(noise(8, layer.size))
        with pytest.raises(NetworkError, match=layer.digest):
            packed(wanted(served.host, "a/b:v1"), tmp_path)
    assert not (tmp_path / "v1").exists()


def test_a_blob_that_is_damaged_in_the_store_is_fetched_again(served: Served, app: App, tmp_path: Path) -> None:
    images = wanted(served.host, "platform/app:v1")
    packed(images, tmp_path).close()
    good = sums(tmp_path / "v1")
    layer = max(app.blobs(), key=lambda name: len(app.blobs()[name]))
    path = tmp_path / ".store/blobs/sha256" / layer
    times = path.stat()
    path.write_bytes(noise(9, times.st_size))
    packed(images, tmp_path).close()
    assert sums(tmp_path / "v1") == good

    path.write_bytes(noise(9, times.st_size))
    times = path.stat()
    (tmp_path / ".store/marks/sha256" / layer).write_text(f"{times.st_size} {times.st_mtime_ns}")
    with pytest.raises(VerificationError, match=layer) as caught:
        packed(images, tmp_path)
    assert "run the same command again" in caught.value.hint
    assert sums(tmp_path / "v1") == good, "the old one stays until there is a new one"
    packed(images, tmp_path).close()
    assert sums(tmp_path / "v1") == good


@pytest.mark.usefixtures("app")
def test_the_line_breaks_while_a_layer_comes(served: Served, tmp_path: Path) -> None:
    packed(wanted(served.host, "platform/app:v1"), tmp_path / "good").close()
    line = registries.Line(served.host, registries.Faults(down=[70_000, 120_000]))
    with registries.serving(line):
        images = wanted(served.host, "platform/app:v1")
        pack(images, "v1", lambda _: client(line.host), tmp_path / ".store", Options(tmp_path)).close()
    assert line.faults.broken == 2
    assert sums(tmp_path / "v1") == sums(tmp_path / "good/v1")


SCRIPT = """
import sys
from pathlib import Path
from pipeline.bundle.assemble import Options
from pipeline.bundle.images import load
from pipeline.bundle.pack import pack
from pipeline.oci import Registry, RegistryOptions
images, out = load(Path(sys.argv[1])), Path(sys.argv[2])
pack(images, "v1", lambda host: Registry(host, RegistryOptions(plain_http=True)), out / ".store",
     Options(out, volume_size=100_000, store=sys.argv[3])).close()
"""


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("store", ["plain", "lean"])
def test_killed_at_any_moment(served: Served, tmp_path: Path, store: str) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(f"images: ['{served.host}/platform/app:v1']\n")
    command: list[str | Path] = [sys.executable, "-c", SCRIPT, file]
    begun = time.monotonic()
    subprocess.run([*command, tmp_path / "whole", store], cwd=ROOT, check=True)
    took = time.monotonic() - begun
    good = sums(tmp_path / "whole/v1")
    out = tmp_path / "out"
    for part in range(1, 8):
        child = subprocess.Popen([*command, out, store], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            child.wait(took * part / 8)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        if (out / "v1").exists():
            assert sums(out / "v1") == good
    subprocess.run([*command, out, store], cwd=ROOT, check=True)
    assert sums(out / "v1") == good
    assert sorted(path.name for path in out.iterdir()) == [".store", "logs", "v1"]


@pytest.mark.usefixtures("app")
@pytest.mark.root
@pytest.mark.parametrize("size", [300, 700, 1200], ids=lambda size: f"{size} KiB")
def test_a_full_disk(served: Served, tmp_path: Path, size: int) -> None:
    place = tmp_path / "small"
    place.mkdir()

    def work() -> list[str]:
        namespace.mount("tmpfs", place, kind="tmpfs", options=f"size={size}k")
        with pytest.raises(StorageError) as caught:
            packed(wanted(served.host, "platform/app:v1"), place / "out")
        assert "free some space" in caught.value.hint
        return sorted(path.name for path in (place / "out").iterdir())

    assert set(namespace.run_private(work)) <= {".store", "logs"}


@pytest.mark.usefixtures("app")
def test_something_else_has_the_place(served: Served, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/mine").write_text("not a bundle")
    with pytest.raises(InputError, match="is there, and is no bundle"):
        packed(wanted(served.host, "platform/app:v1"), tmp_path)
    assert (tmp_path / "v1/mine").exists()
    with pytest.raises(InputError, match="is not a bundle's name"):
        packed(wanted(served.host, "platform/app:v1"), tmp_path, "../v2")


@pytest.mark.usefixtures("app")
def test_names_that_begin_alike_do_not_disturb_each_other(served: Served, tmp_path: Path) -> None:
    with publish.staging(tmp_path, "v1.2~") as other:
        packed(wanted(served.host, "platform/app:v1"), tmp_path, "v1").close()
        assert other.is_dir()


@pytest.mark.usefixtures("app")
def test_a_deterministic_time_is_kept(served: Served, tmp_path: Path) -> None:
    assert os.environ["SOURCE_DATE_EPOCH"] == "1795575600"
    with packed(wanted(served.host, "platform/app:v1"), tmp_path) as archive:
        assert archive.bundle.created == "2026-11-25T03:00:00Z"
        assert (archive.bundle.kind, archive.bundle.name, archive.bundle.store) == ("full", "v1", "plain")
