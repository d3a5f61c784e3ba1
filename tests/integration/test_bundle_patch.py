"""Patches, upgrades and what is composed of them, between real registries' images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle.archive import Archive
from pipeline.bundle.assemble import Options
from pipeline.bundle.compose import compose
from pipeline.bundle.desk import opened
from pipeline.bundle.diff import diff, load
from pipeline.bundle.forecast import forecast
from pipeline.bundle.images import ImageList
from pipeline.bundle.model import BlobSource, Bundle
from pipeline.bundle.patch import patch, upgrade
from pipeline.bundle.rates import Rates
from pipeline.bundle.verify import verify
from pipeline.core.errors import InputError, VerificationError
from tests.integration import registries
from tests.integration.packed import EPOCH, KIB, Maker, client, cosign_tag, noise, packed, wanted
from tests.integration.registries import Served


@pytest.fixture(autouse=True)
def _a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("patching")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with registries.registry(folder / "plain", tls=False) as running:
        make_versions(folder / "images", running.host)
        yield running


LARGE = noise(1, 400 * KIB)  # what the versions of an image have in common
SMALL_CHANGE = noise(2, 20 * KIB)


def make_versions(folder: Path, host: str) -> None:
    """Push two versions of an application, a database that stays, and what is new in the second version."""
    maker, registry = Maker(folder), client(host)
    below = maker.layer("opt/below", noise(3, 200 * KIB))
    changed = LARGE[: 200 * KIB] + SMALL_CHANGE + LARGE[200 * KIB :]
    contents = {"v1": LARGE, "v2": changed, "v3": changed[: 350 * KIB] + SMALL_CHANGE + changed[350 * KIB :]}
    for tag, content in contents.items():
        children = [
            maker.image(arch, below, maker.pgzip_layer("opt/app", content + arch.encode()))
            for arch in ("amd64", "arm64")
        ]
        index = maker.index(*children)
        maker.push(registry, "platform/app", index, tag)
        maker.push(registry, "platform/app", maker.signature(index), cosign_tag(index, ".sig"))
    database = maker.image("amd64", below, maker.layer("opt/db", noise(4, 100 * KIB)))
    maker.push(registry, "platform/db", database, "v1")
    maker.push(registry, "platform/new", maker.image("amd64", below, maker.layer("opt/new", b"new")), "v1")


def v1(host: str) -> ImageList:
    """Version 1: the application is called stable at the site."""
    return both(_stable(wanted(host, "platform/app:v1")), wanted(host, "platform/db:v1"))


def v2(host: str) -> ImageList:
    names = (_stable(wanted(host, "platform/app:v2")), wanted(host, "platform/db:v1"), wanted(host, "platform/new:v1"))
    return both(*names)


def _stable(images: ImageList) -> ImageList:
    return ImageList((replace(images.images[0], tags=("stable",)),))


def both(*lists: ImageList) -> ImageList:
    return ImageList(tuple(one for some in lists for one in some.images))


def patched(images: ImageList, out: Path, name: str, *bases: Archive, **options: object) -> Archive:
    return patch(images, name, bases, client, out / ".store", Options(out, **options))  # type: ignore[arg-type]


def digests(bundle: Bundle) -> dict[str, int]:
    return {blob.digest: blob.size for blob in bundle.blobs}


def check_content(archive: Archive, whole: BlobSource) -> None:
    """Every blob of a bundle is byte for byte what it is elsewhere."""
    for blob in archive.bundle.blobs:
        with archive.open_blob(blob.digest) as ours, whole.open_blob(blob.digest) as theirs:
            assert ours.read() == theirs.read()


# ------------------------------------------------------------------------------------------ patches


@pytest.mark.parametrize("store", ["plain", "lean"])
def test_a_patch_carries_what_is_new(served: Served, tmp_path: Path, store: str) -> None:
    with (
        packed(v1(served.host), tmp_path, "v1", store=store) as first,
        packed(v2(served.host), tmp_path, "v2", store=store) as second,
        patched(v2(served.host), tmp_path, "p", first, store=store) as made,
    ):
        assert [image.repository for image in made.bundle.images] == ["platform/app", "platform/new"]
        assert [image.tags for image in made.bundle.images] == [("stable",), ("v1",)]
        needed = {one.digest for one in made.bundle.base.digests}
        assert [(one.id, one.name) for one in made.bundle.base.bundles] == [(first.id, "v1")]
        for image in made.bundle.images:
            assert all(made.has(digest) for digest in image.manifests)
        assert not needed & digests(made.bundle).keys()
        assert needed <= digests(first.bundle).keys()
        new = digests(second.bundle).keys() - digests(first.bundle).keys()
        assert new <= digests(made.bundle).keys()
        assert made.volumes.size < second.volumes.size - 280 * KIB
    with (
        Archive.open(tmp_path / "v1") as base,
        Archive.open(tmp_path / "v2") as whole,
        Archive.open(tmp_path / "p", base=base) as archive,
    ):
        assert verify(archive).left == 0
        check_content(archive, whole)


def test_a_lean_patch_takes_what_its_base_has(served: Served, tmp_path: Path) -> None:
    with (
        packed(v1(served.host), tmp_path, "v1") as first,
        packed(v1(served.host), tmp_path, "l1", store="lean") as lean,
    ):
        sizes = {}
        for name, base in (("on-plain", first), ("on-lean", lean)):
            with patched(v2(served.host), tmp_path, name, base, store="lean") as made:
                sizes[name] = made.volumes.size
                old = oci.links(base.read(base.bundle.images[0].manifests[1]), "").blobs[-1]
                assert old.digest in {one.digest for one in made.bundle.base.digests}, "chunks come from it"
                verify(made)
        with patched(v2(served.host), tmp_path, "plain", first) as plain:
            assert max(sizes.values()) < plain.volumes.size * 0.3
    with Archive.open(tmp_path / "l1") as base, Archive.open(tmp_path / "on-lean", base=base) as archive:
        assert verify(archive).left == 0


def test_a_lean_patch_on_a_lean_patch(served: Served, tmp_path: Path) -> None:
    latest = _stable(wanted(served.host, "platform/app:v3"))
    packed(v1(served.host), tmp_path, "v1", store="lean").close()
    with opened([tmp_path / "v1"]) as bases:
        patched(v2(served.host), tmp_path, "p1", *bases, store="lean").close()
    with opened([tmp_path / "v1", tmp_path / "p1"]) as bases:
        with patched(latest, tmp_path, "p2", *bases, store="lean") as third:
            layers = [oci.links(third.read(digest), "").blobs[-1] for digest in third.bundle.images[0].manifests[1:3]]
            assert third.lean is not None
            sources = {digest for layer in layers for digest in third.lean.recipe(layer.digest).sources}
        p1 = bases[1]
        assert any(p1.has(digest) for digest in sources), "chunks come from a layer that is a lean patch's own"
    with opened([tmp_path / "v1", tmp_path / "p1", tmp_path / "p2"]) as archives:
        assert [verify(archive).left for archive in archives] == [0, 0, 0]
        with compose(archives, "c", Options(tmp_path)) as made, packed(latest, tmp_path, "v3") as whole:
            for digest in digests(whole.bundle):
                with made.open_blob(digest) as ours, whole.open_blob(digest) as theirs:
                    assert ours.read() == theirs.read()


def test_layers_of_the_base_are_not_fetched(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first:
        shutil.rmtree(tmp_path / ".store")
        with patched(v2(served.host), tmp_path, "p", first) as made:
            needed = [one.digest.partition(":")[2] for one in made.bundle.base.digests if one.size > KIB]
            assert needed
            assert not [name for name in needed if (tmp_path / ".store/blobs/sha256" / name).exists()]


def test_a_patch_on_a_patch(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first, patched(v2(served.host), tmp_path, "p1", first) as second:
        again = both(v2(served.host), wanted(served.host, "platform/app:v1"))
        with patched(again, tmp_path, "p2", first, second) as third:
            assert [image.tags for image in third.bundle.images] == [("v1",)]
            assert set(digests(third.bundle)) == set(third.bundle.images[0].manifests)
            assert [one.name for one in third.bundle.base.bundles] == ["v1", "p1"]
            verify(third)
        with patched(again, tmp_path, "p3", second) as alone:
            names = {image.repository for image in alone.bundle.images}
            assert names == {"platform/app", "platform/db"}, "what the patch needs itself it does not list"
            assert [one.name for one in alone.bundle.base.bundles] == ["v1", "p1"]
            verify(alone)


def test_an_upgrade_lists_everything(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first, packed(v2(served.host), tmp_path, "v2") as second:
        options = Options(tmp_path)
        with upgrade(v2(served.host), "u", [first], client, tmp_path / ".store", options) as made:
            assert made.bundle.images == second.bundle.images
            assert made.bundle.kind == "upgrade"
            needed = {one.digest: one.size for one in made.bundle.base.digests}
            assert digests(made.bundle) | needed == digests(second.bundle)
            verify(made)


def test_nothing_to_patch(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first:
        with pytest.raises(InputError, match="nothing to patch"):
            patched(v1(served.host), tmp_path, "p", first)
        with pytest.raises(InputError, match="name of a bundle that it is made from"):
            patched(v2(served.host), tmp_path, "v1", first)
        with pytest.raises(InputError, match="is not a bundle's name"):
            patched(v2(served.host), tmp_path, "../v1", first)
        with pytest.raises(InputError, match="needs a base"):
            patched(v2(served.host), tmp_path, "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store", "logs", "v1"]


# ------------------------------------------------------------------------------------------ compose


@pytest.mark.parametrize("store", ["plain", "lean"])
@pytest.mark.parametrize("of", ["plain", "lean"])
def test_what_is_composed_is_what_would_have_been_packed(served: Served, tmp_path: Path, of: str, store: str) -> None:
    with (
        packed(v1(served.host), tmp_path, "v1", store=of) as first,
        patched(v2(served.host), tmp_path, "p", first, store=of) as second,
    ):
        made = compose([first, second], "c", Options(tmp_path, store))
    with made, packed(v2(served.host), tmp_path, "v2", store=store) as whole:
        assert made.bundle.kind == "full"
        assert made.bundle.images == whole.bundle.images
        assert digests(made.bundle) == digests(whole.bundle)
        assert made.bundle.base == whole.bundle.base
        verify(made)
        check_content(made, whole)
        if store == "plain":
            assert replace(made.bundle, name="v2", volumes=(), files=()) == replace(whole.bundle, volumes=(), files=())
        assert not diff(made.bundle, whole.bundle).images


def test_an_upgrade_replaces_the_set(served: Served, tmp_path: Path) -> None:
    less = both(_stable(wanted(served.host, "platform/app:v2")))
    with (
        packed(v1(served.host), tmp_path, "v1") as first,
        upgrade(less, "u", [first], client, tmp_path / ".store", Options(tmp_path)) as second,
    ):
        with compose([first, second], "c", Options(tmp_path, volume_size=128 * KIB)) as made:
            assert made.bundle.images == second.bundle.images
            assert len(made.bundle.volumes) > 1
            verify(made)
        with pytest.raises(InputError, match="to be a full one; u is of kind upgrade"):
            compose([second, first], "c2", Options(tmp_path))


def test_a_patch_between_is_missing(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first, patched(v2(served.host), tmp_path, "p1", first) as second:
        latest = ImageList((replace(wanted(served.host, "platform/app:v2").images[0], tags=("latest",)),))
        with patched(latest, tmp_path, "p2", first, second) as third:
            with pytest.raises(VerificationError, match="in none of these bundles") as caught:
                compose([first, third], "c", Options(tmp_path))
            assert "p1" in caught.value.hint
            with pytest.raises(InputError, match="the first bundle has to be a full one"):
                compose([second, third], "c", Options(tmp_path))
            with pytest.raises(InputError, match="the first bundle has to be a full one; there is none"):
                compose([], "c", Options(tmp_path))
            with pytest.raises(InputError, match="name of a bundle that it is made from"):
                compose([first, second, third], "p2", Options(tmp_path))
            with compose([first, second, third], "c", Options(tmp_path)) as made:
                tags = {(image.repository, image.tags) for image in made.bundle.images}
                assert ("platform/app", ("latest",)) in tags
                assert ("platform/app", ("stable",)) in tags
                verify(made)


def test_release_signatures_stay(served: Served, tmp_path: Path) -> None:
    images = v1(served.host)
    with packed(images, tmp_path, "v0") as plain:
        digest = plain.bundle.images[0].root.digest.replace(":", "=")
    kept = tmp_path / "kept" / digest / "signature-1"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"of GPG")
    with (
        packed(replace(images, release_signatures=str(tmp_path / "kept")), tmp_path, "v1") as first,
        patched(v2(served.host), tmp_path, "p", first) as second,
        compose([first, second], "c", Options(tmp_path)) as made,
    ):
        assert not [file.path for file in second.bundle.files if file.path.startswith("signatures/")]
        assert made.head[f"signatures/{digest}/signature-1"] == b"of GPG"


# ------------------------------------------------------------------------------------------ diff and forecast


def test_diff_of_two_bundles_on_disk(served: Served, tmp_path: Path) -> None:
    with packed(v1(served.host), tmp_path, "v1") as first, packed(v2(served.host), tmp_path, "v2") as second:
        (tmp_path / "bundle.json").write_bytes(first.head["bundle.json"])
        found = diff(load(tmp_path / "bundle.json"), load(tmp_path / "v2"))
        assert [(one.name, one.what) for one in found.images] == [
            ("platform/app:stable", "changed"),
            ("platform/new:v1", "added"),
        ]
        (app,) = [one for one in found.images if one.what == "changed"]
        assert len(app.attachments_added) == len(app.attachments_removed) == 1
        assert found.same == 1
        assert found.shared.size + found.new.size == second.bundle.total
        assert found.shared.size + found.gone.size == first.bundle.total
        with patched(v2(served.host), tmp_path, "p", first) as made:
            assert [one.what for one in diff(first.bundle, made.bundle).images] == ["changed", "added"]
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_a_forecast_is_right_to_within_a_hundredth(served: Served, tmp_path: Path) -> None:
    work = tmp_path / "plan/.store"
    found = forecast(v2(served.host), client, work, volume_size=256 * KIB)
    assert not [path for path in (work / "blobs/sha256").iterdir() if path.stat().st_size > 20 * KIB], "no layers"
    with packed(v2(served.host), tmp_path, "v2", volume_size=256 * KIB) as made:
        assert found.full.blobs == len(made.bundle.blobs)
        assert found.full.total == made.bundle.total == sum(row.new for row in found.rows)
        assert found.full.plain == pytest.approx(made.volumes.size, rel=0.01)
        assert found.full.body == sum(one.size for one in made.bundle.volumes), "exactly"
        assert found.full.volumes == len(made.bundle.volumes) + 1
        assert {(row.platform, row.image.rpartition("/")[2]) for row in found.rows} >= {
            ("linux/amd64", "app:v2"),
            ("linux/arm64", "app:v2"),
            ("attached", "app:v2"),
            ("linux/amd64", "db:v1"),
        }
    with packed(v1(served.host), tmp_path, "v1") as first:
        rates = Rates(ratio=(0.5, 0.5), usb=1.0)
        with patched(v2(served.host), tmp_path, "p", first) as made:
            again = forecast(v2(served.host), client, tmp_path / ".store", [first], rates=rates)
            planned = {one.kind: one for one in again.deltas}
            assert planned["patch"].counts == (1, 1, 1)
            sizes = planned["patch"].sizes
            assert sizes is not None
            assert sizes.total == made.bundle.total
            assert sizes.plain == pytest.approx(made.volumes.size, rel=0.01)
            assert again.to_fetch == 0, "all of it is in the store"
        nothing = forecast(v1(served.host), client, tmp_path / ".store", [first], rates=rates)
        assert next(one for one in nothing.deltas if one.kind == "patch").sizes is None
        assert "patch: nothing to do: 0 images new, 0 changed, 2 unchanged" in nothing.text()
