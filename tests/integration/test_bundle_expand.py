"""A bundle as an OCI image layout: interrupted, repeated, on a full disk; skopeo is the judge."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Contents, Options, assemble, everything
from pipeline.bundle.expand import expand
from pipeline.bundle.model import FULL, Image
from pipeline.bundle.store import LayoutSource
from pipeline.core import namespace
from pipeline.core.errors import InputError, StorageError, VerificationError
from pipeline.oci import REF_NAME, Layout
from tests.integration import registries
from tests.integration.packed import KIB, Maker, noise
from tests.integration.synced import CREATED, HEADQUARTERS, MIB, bundle, image, two_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("expanding")


@pytest.fixture(scope="module")
def maker(folder: Path) -> Maker:
    return Maker(folder / "maker")


@pytest.fixture(scope="module")
def images(maker: Maker) -> tuple[Image, Image]:
    return two_images(maker)


@pytest.fixture(scope="module")
def v1(maker: Maker, images: tuple[Image, Image], folder: Path) -> Iterator[Archive]:
    with bundle(maker, folder / "out", "v1", images, volume=128 * KIB) as archive:
        yield archive


@pytest.fixture(scope="module")
def new(maker: Maker, images: tuple[Image, Image]) -> Image:
    """A new version of the second image, on the same layers."""
    index = oci.links(maker.layout.read(images[1].root.digest), oci.OCI_INDEX)
    layers = oci.links(maker.layout.read(index.manifests[0].digest), oci.OCI_MANIFEST).blobs[1:]
    root = maker.index(maker.image("amd64", *layers, maker.layer("opt/new", noise(41, 10 * KIB))))
    return image(maker, "platform/web", root, "v1")


@pytest.fixture(scope="module")
def patch(maker: Maker, v1: Archive, new: Image, folder: Path) -> Iterator[Archive]:
    with bundle(maker, folder / "out", "v1.1", [new], base=v1) as archive:
        assert len(archive.bundle.base.digests) == 3
        yield archive


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def names(path: Path) -> dict[str, str]:
    """Return what ``index.json`` gives names to."""
    listed = Layout.open(path).index()
    return {one.annotations[REF_NAME]: one.digest for one in listed if REF_NAME in one.annotations}


def test_it_is_a_layout(v1: Archive, images: tuple[Image, Image], maker: Maker, folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    summary = expand(v1, tmp_path / "deep/layout", lambda *words: told.append(words))
    found = content(tmp_path / "deep/layout")
    assert found["oci-layout"] == v1.head["oci-layout"]
    assert found["index.json"] == v1.head["index.json"]
    assert len(found) == len(v1.bundle.blobs) + 2
    assert (summary.written, summary.written_bytes, summary.there) == (len(v1.bundle.blobs), v1.bundle.total, 0)
    assert "deep/layout" in summary.text()
    Layout.open(tmp_path / "deep/layout").verify()
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {total for _, _, total in told} == {v1.bundle.total}
    assert told[-1][1] == v1.bundle.total
    name = f"oci:{tmp_path}/deep/layout:{HEADQUARTERS}/platform/app:latest"
    assert registries.skopeo(folder, "inspect", "--raw", name).encode() == maker.layout.read(images[0].root.digest)


def test_again_nothing_is_written(v1: Archive, tmp_path: Path) -> None:
    expand(v1, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "blobs").rglob("*")}
    summary = expand(v1, tmp_path)
    assert (summary.written, summary.there) == (0, len(v1.bundle.blobs))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "blobs").rglob("*")} == before


@pytest.mark.parametrize("harm", ["damaged", "cut off", "too long", "gone", "half index", "left over"])
def test_what_is_not_right_is_made_right(v1: Archive, tmp_path: Path, harm: str) -> None:
    expand(v1, tmp_path)
    good = content(tmp_path)
    blob = max((path for path in (tmp_path / "blobs/sha256").iterdir()), key=lambda path: path.stat().st_size)
    data = blob.read_bytes()
    if harm == "gone":
        blob.unlink()
    elif harm == "half index":
        (tmp_path / "index.json").unlink()
    elif harm == "left over":
        (tmp_path / f"blobs/sha256/.{blob.name}.1.0123.tmp").write_bytes(b"half")
        (tmp_path / ".index.json.1.0123.tmp").write_bytes(b"half")
    else:
        ends = {"damaged": b"\0" * len(data), "cut off": data[:-1], "too long": data + b"\0"}
        blob.write_bytes(ends[harm])
    summary = expand(v1, tmp_path)
    assert summary.written == (1 if harm in {"gone", "damaged", "cut off", "too long"} else 0)
    assert content(tmp_path) == good


@pytest.mark.parametrize("other", ["file", ".hidden", "blobs-2", "directory/"])
def test_something_else_is_there(v1: Archive, tmp_path: Path, other: str) -> None:
    path = tmp_path / other
    path.mkdir() if other.endswith("/") else path.touch()
    with pytest.raises(InputError, match="holds something else") as caught:
        expand(v1, tmp_path)
    assert caught.value.hint
    assert [found.name for found in tmp_path.iterdir()] == [other.rstrip("/")]


def test_no_directory(v1: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        expand(v1, tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.json").write_text("{}")
    with pytest.raises(InputError, match="no image layout"):
        expand(v1, tmp_path / "mine")


# ------------------------------------------------------------------------------------------ patches


def test_a_patch_upon_its_base(
    v1: Archive, patch: Archive, new: Image, images: tuple[Image, Image], tmp_path: Path
) -> None:
    expand(v1, tmp_path)
    before = content(tmp_path)
    summary = expand(patch, tmp_path)
    assert summary.written == 3  # an index, a manifest and a layer
    assert before.items() - content(tmp_path).items() == {("index.json", before["index.json"])}
    Layout.open(tmp_path).verify()
    assert names(tmp_path) == {
        f"{HEADQUARTERS}/platform/app:latest": images[0].root.digest,
        f"{HEADQUARTERS}/platform/app:v1": images[0].root.digest,
        f"{HEADQUARTERS}/platform/web:v1": new.root.digest,
    }
    expand(patch, tmp_path)
    assert len(names(tmp_path)) == 3


def test_a_patch_without_its_base(patch: Archive, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="lacks 3 blobs") as caught:
        expand(patch, tmp_path)
    assert all(one.digest in caught.value.message for one in patch.bundle.base.digests)
    assert "(v1)" in caught.value.hint
    assert not list((tmp_path / "blobs/sha256").iterdir())


def test_a_patch_with_its_base_beside(v1: Archive, patch: Archive, tmp_path: Path) -> None:
    expand(patch.based_on(v1), tmp_path)
    assert len(Layout.open(tmp_path).verify()) == len(patch.bundle.blobs) + len(patch.bundle.base.digests)


# ------------------------------------------------------------------------------------------ lean


def test_lean_becomes_plain(maker: Maker, images: tuple[Image, Image], v1: Archive, tmp_path: Path) -> None:
    # Layers as podman and buildah make them: see tests/integration/test_bundle_lean.py for all kinds.
    source = LayoutSource(maker.layout)
    contents = Contents(FULL, "lean", CREATED, images, everything(images, source))
    with assemble(contents, source, Options(tmp_path / "out", store="lean")) as archive:
        expand(archive, tmp_path / "layout")
    expand(v1, tmp_path / "plain")
    assert content(tmp_path / "layout") == content(tmp_path / "plain")


# ------------------------------------------------------------------------------------------ faults


def test_a_damaged_bundle(maker: Maker, tmp_path: Path) -> None:
    root = maker.image("amd64", maker.layer("x", noise(51, 300 * KIB)))
    bundle(maker, tmp_path, "v1", [image(maker, "a", root, "v1")]).close()
    volume = tmp_path / "v1/v1.bundle.001"
    data = bytearray(volume.read_bytes())
    data[len(data) // 2] ^= 1
    volume.write_bytes(data)
    with Archive.open(tmp_path / "v1") as archive, pytest.raises(VerificationError, match="has another hash") as caught:
        expand(archive, tmp_path / "out")
    assert caught.value.hint
    good = {path.name for path in (tmp_path / "out/blobs/sha256").iterdir()}
    assert caught.value.message.partition(":")[2].partition(":")[0] not in good


@pytest.mark.root
@pytest.mark.parametrize("size", [40, 200, 500], ids=lambda size: f"{size} KiB")
def test_a_full_disk(v1: Archive, tmp_path: Path, size: int) -> None:
    place = tmp_path / "small"
    place.mkdir()

    def work() -> int:
        namespace.mount("tmpfs", place, kind="tmpfs", options="size=8m")
        (place / "ballast").write_bytes(bytes(8 * MIB - size * KIB))
        with pytest.raises(StorageError, match="No space left") as caught:
            expand(v1, place / "out")
        assert "free some space" in caught.value.hint
        (place / "ballast").unlink()
        summary = expand(v1, place / "out")
        Layout.open(place / "out").verify()
        return summary.there

    assert namespace.run_private(work) >= 0


def _expand_slowly(path: Path, out: Path, number: int, has_come: multiprocessing.synchronize.Event) -> None:
    with Archive.open(path) as archive:

        def tell(_digest: str, _done: int, _total: int) -> None:
            nonlocal number
            number -= 1
            if number == 0:
                has_come.set()
                time.sleep(600)

        expand(archive, out, tell)


@pytest.mark.parametrize("number", [1, 4, 9])
def test_killed_and_repeated(maker: Maker, tmp_path: Path, number: int) -> None:
    made = [
        image(maker, f"i{seed}", maker.image("amd64", maker.layer("x", noise(seed, 2 * MIB))), "v1")
        for seed in range(60, 66)
    ]
    with bundle(maker, tmp_path, "v1", made, volume=3 * MIB) as archive:
        context = multiprocessing.get_context("spawn")
        has_come = context.Event()
        child = context.Process(target=_expand_slowly, args=(archive.path, tmp_path / "out", number, has_come))
        child.start()
        while not has_come.wait(0.1):
            assert child.is_alive()
        child.kill()
        child.join()
        for path in (tmp_path / "out/blobs/sha256").glob("[!.]*"):
            assert oci.digest_of_file(path) == f"sha256:{path.name}"
        summary = expand(archive, tmp_path / "out")
        assert summary.there >= number
        Layout.open(tmp_path / "out").verify()
        assert len(names(tmp_path / "out")) == 6
        assert not list((tmp_path / "out").rglob(".*"))
