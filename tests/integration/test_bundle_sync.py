"""Bundles into real registries: docker-registry, with skopeo as the judge."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle import site_files
from pipeline.bundle.archive import Archive
from pipeline.bundle.model import Attachment, Image
from pipeline.bundle.sync import sync
from pipeline.bundle.sync_plan import Target, make_plan
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.oci import NotThereError, fallback_entries, fallback_tag
from tests.integration import registries
from tests.integration.packed import KIB, Maker, noise
from tests.integration.registries import Faults, Line, Served
from tests.integration.synced import (
    HEADQUARTERS,
    MIB,
    assert_whole,
    bundle,
    everything,
    image,
    kill_a_sync,
    target,
    two_images,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("syncing")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Served]:
    """A site's registry with TLS and a password; each test has a prefix of its own."""
    with registries.registry(folder / "site", password=True) as running:
        yield running


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Served]:
    """A site's registry with neither."""
    with registries.registry(folder / "plain", tls=False) as running:
        yield running


@pytest.fixture(scope="module")
def maker(folder: Path) -> Maker:
    return Maker(folder / "maker")


@pytest.fixture(scope="module")
def images(maker: Maker) -> tuple[Image, Image]:
    return two_images(maker)


@pytest.fixture(scope="module")
def v1(maker: Maker, images: tuple[Image, Image], folder: Path) -> Iterator[Archive]:
    """A full bundle in several volumes."""
    with bundle(maker, folder / "out", "v1", images, volume=128 * KIB) as archive:
        yield archive


# ------------------------------------------------------------------------------------------ there it is


def test_the_whole_way(
    site: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], folder: Path, tmp_path: Path
) -> None:
    where = target(site, tmp_path / "state", "whole/way")
    plan = make_plan(v1, where)
    summary = sync(v1, where, plan)
    assert_whole(where, maker, images)
    blobs = {
        digest for digest in everything(maker, images) if digest not in (*images[0].manifests, *images[1].manifests)
    }
    assert (summary.images, summary.unchanged) == (2, 0)
    assert (summary.uploaded, summary.uploaded_bytes) == (len(blobs), plan.uploads)
    assert summary.mounted == 2  # the shared layer, and the configuration that both signatures' makers write

    assert site.ca is not None
    assert site.auth_file is not None
    (tmp_path / "certs").mkdir()
    shutil.copy(site.ca, tmp_path / "certs/ca.crt")
    options = ("inspect", "--raw", "--authfile", site.auth_file, "--cert-dir", tmp_path / "certs")
    for one in images:
        for digest in one.manifests:
            raw = registries.skopeo(folder, *options, f"docker://{site.host}/whole/way/{one.repository}@{digest}")
            assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == digest

    (kept,) = where.state.iterdir()
    assert kept.name == f"v1-{v1.id[7:19]}.bundle.json"
    assert kept.read_bytes() == v1.bundle.to_bytes()


def test_a_second_sync_does_nothing(site: Served, v1: Archive, tmp_path: Path) -> None:
    where = target(site, tmp_path, "twice")
    sync(v1, where)
    plan = make_plan(v1, where)
    assert plan.is_done
    assert plan.text() == "nothing to do: all 2 images are there"
    summary = sync(v1, where)
    assert (summary.unchanged, summary.uploaded, summary.mounted, summary.manifests, summary.tags) == (2, 0, 0, 0, 0)


def test_the_plan_is_what_is_done(site: Served, v1: Archive, tmp_path: Path) -> None:
    where = target(site, tmp_path, "planned")
    text = make_plan(v1, where).text().splitlines()
    assert text[0].split() == ["image", "to", "do", "manifests", "tags", "MB", "to", "send", "blobs", "to", "mount"]
    assert text[1].split()[:3] == ["planned/platform/app:v1,", "planned/platform/app:latest", "send"]
    assert "2 of 2 images" in text[-1]
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotThereError):
        where.registry.get_manifest("planned/platform/app", "v1")


def test_a_tag_that_moved_is_set_again(site: Served, v1: Archive, images: tuple[Image, Image], tmp_path: Path) -> None:
    where = target(site, tmp_path, "moved")
    sync(v1, where)
    repo, web = "moved/platform/app", images[1]
    descriptor, data = where.registry.get_manifest(repo, images[0].manifests[1])
    where.registry.put_manifest(repo, "v1", data, descriptor.media_type)
    plan = make_plan(v1, where)
    assert [one.is_done for one in plan.images] == [False, True]
    assert [tag for tag, _ in plan.images[0].tags] == ["v1"]
    summary = sync(v1, where, plan)
    assert (summary.uploaded, summary.manifests, summary.tags) == (0, 0, 1)
    assert where.registry.get_manifest(repo, "v1")[0].digest == images[0].root.digest
    assert where.registry.get_manifest("moved/platform/web", "v1")[0].digest == web.root.digest


def test_many_images_one_after_another(site: Served, maker: Maker, tmp_path: Path) -> None:
    shared = maker.layer("opt/shared", noise(20, 20 * KIB))
    many = tuple(
        image(
            maker,
            f"many/{number % 5}",
            maker.image("amd64", shared, maker.layer("own", noise(number, 100))),
            f"v{number}",
        )
        for number in range(100, 130)
    )
    with bundle(maker, tmp_path, "many", many) as archive:
        where = target(site, tmp_path / "state", parallel=3)
        summary = sync(archive, where, images=2)
        assert summary.mounted == 8  # what all share, a layer and a configuration, into the four other repositories
        assert summary.uploaded == 32
        assert_whole(where, maker, many)
        assert make_plan(archive, where).is_done


def test_one_thread_comes_to_no_standstill(site: Served, v1: Archive, tmp_path: Path) -> None:
    where = target(site, tmp_path, "one/thread", parallel=1)
    assert sync(v1, where, images=1).images == 2
    assert make_plan(v1, where).is_done


# ------------------------------------------------------------------------------------------ what is attached


def test_what_names_its_subject_is_listed_beside_what_the_site_has(
    plain: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(plain, tmp_path, "listed")
    repo, root = "listed/platform/app", images[0].root
    sites_own = maker.artifact(root, b"the site's own")
    index = maker.index(sites_own)
    oci.push(maker.layout, where.registry, repo, fallback_tag(root.digest), root=index)
    sync(v1, where)
    listed = fallback_entries(where.registry.get_manifest(repo, fallback_tag(root.digest))[1])
    sbom = next(one.root for one in images[0].attachments if one.tag is None)
    assert set(listed) == {sites_own.digest, sbom.digest}
    assert listed[sbom.digest]["artifactType"] == "application/vnd.example.sbom"
    assert {one.digest for one in where.registry.referrers(repo, root.digest).found} == set(listed)
    assert make_plan(v1, where).is_done
    where.registry.delete_manifest(repo, index.digest)  # which no tag names any more: nothing changes
    assert make_plan(v1, where).is_done


def test_a_listing_that_was_lost_is_made_again(
    plain: Served, v1: Archive, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(plain, tmp_path, "lost")
    sync(v1, where)
    tag = fallback_tag(images[0].root.digest)
    listing = where.registry.get_manifest("lost/platform/app", tag)[0]
    where.registry.delete_manifest("lost/platform/app", listing.digest)
    plan = make_plan(v1, where)
    assert [len(one.listings) for one in plan.images] == [1, 0]
    assert sync(v1, where, plan).tags == 1
    assert where.registry.get_manifest("lost/platform/app", tag)[0].digest == listing.digest


def test_a_listing_of_the_bundle_stays_as_it_is(plain: Served, maker: Maker, tmp_path: Path) -> None:
    root = maker.index(maker.image("amd64", maker.layer("opt/x", noise(31, 1000))))
    sbom = maker.artifact(root, b"an SBOM")
    listing = maker.index(sbom)
    attachments = [Attachment(root.digest, listing, fallback_tag(root.digest)), Attachment(root.digest, sbom, None)]
    carried = image(maker, "carried/app", root, "v1", attachments=attachments)
    with bundle(maker, tmp_path, "v1", [carried]) as archive:
        where = target(plain, tmp_path / "state")
        sync(archive, where)
        assert where.registry.get_manifest("carried/app", fallback_tag(root.digest))[0].digest == listing.digest
        assert make_plan(archive, where).is_done
        own = maker.artifact(root, b"the site's own")
        merged = maker.index(own, sbom)
        oci.push(maker.layout, where.registry, "carried/app", fallback_tag(root.digest), root=merged)
        assert make_plan(archive, where).is_done
        oci.push(maker.layout, where.registry, "carried/app", fallback_tag(root.digest), root=maker.index(own))
        sync(archive, where)
        listed = fallback_entries(where.registry.get_manifest("carried/app", fallback_tag(root.digest))[1])
        assert set(listed) == {own.digest, sbom.digest}


# ------------------------------------------------------------------------------------------ patches


@pytest.fixture(scope="module")
def patch(maker: Maker, v1: Archive, images: tuple[Image, Image], folder: Path) -> Iterator[Archive]:
    """A patch whose new image is in another repository than the base's layer that it shares."""
    index = json.loads(maker.layout.read(images[0].root.digest))
    amd64 = json.loads(maker.layout.read(index["manifests"][0]["digest"]))
    shared = oci.Descriptor.from_json(amd64["layers"][0])
    root = maker.index(maker.image("amd64", shared, maker.layer("opt/new", noise(41, 10 * KIB))))
    with bundle(maker, folder / "out", "v1.1", [image(maker, "platform/new", root, "v1")], base=v1) as archive:
        needed = [one.repositories for one in archive.bundle.base.digests]
        assert needed == [("platform/app", "platform/web")] * 2  # the layer, and a configuration
        yield archive


def test_a_patch_takes_layers_from_its_base(
    site: Served, v1: Archive, patch: Archive, maker: Maker, tmp_path: Path
) -> None:
    where = target(site, tmp_path, "patched")
    sync(v1, where)
    summary = sync(patch, where)
    assert (summary.uploaded, summary.mounted) == (1, 2)
    assert_whole(where, maker, patch.bundle.images)
    assert make_plan(patch, where).is_done


def test_without_its_base_nothing_is_written(folder: Path, patch: Archive, tmp_path: Path) -> None:
    with registries.registry(folder / "empty", tls=False) as served:
        where = target(served, tmp_path / "state")
        for attempt in (lambda: make_plan(patch, where), lambda: sync(patch, where)):
            with pytest.raises(VerificationError, match="lacks 2 of 2 blobs") as caught:
                attempt()
            assert all(one.digest in caught.value.message for one in patch.bundle.base.digests)
            assert "(v1)" in caught.value.hint
        assert where.registry.catalog() == ()
        assert not (served.root / "docker/registry/v2/blobs").exists()


# ------------------------------------------------------------------------------------------ what goes wrong


def test_an_index_that_is_not_whole_is_refused(plain: Served, maker: Maker, tmp_path: Path) -> None:
    amd64, arm64 = (maker.image(arch, maker.layer("x", arch.encode())) for arch in ("amd64", "arm64"))
    one = image(maker, "sparse/app", maker.index(amd64, arm64), "v1", left_out=(arm64.digest,))
    with bundle(maker, tmp_path, "v1", [one]) as archive, pytest.raises(NetworkError, match="400") as caught:
        sync(archive, target(plain, tmp_path / "state"))
    assert "without 'platforms'" in caught.value.hint
    assert "not all there" in caught.value.hint


def test_a_damaged_volume(plain: Served, maker: Maker, tmp_path: Path) -> None:
    root = maker.index(maker.image("amd64", maker.layer("x", noise(51, 200 * KIB))))
    bundle(maker, tmp_path, "v1", [image(maker, "damaged/app", root, "v1")]).close()
    volume = tmp_path / "v1/v1.bundle.001"
    data = bytearray(volume.read_bytes())
    layer = max(everything(maker, [image(maker, "damaged/app", root)]).values(), key=lambda one: one.size)
    with Archive.open(tmp_path / "v1") as archive:
        data[
            archive.members[f"blobs/{layer.digest.replace(':', '/')}"][0] - archive.volumes.head.stat().st_size + 99
        ] ^= 1
    volume.write_bytes(data)
    where = target(plain, tmp_path / "state")
    with Archive.open(tmp_path / "v1") as archive, pytest.raises(InputError, match=layer.digest):
        sync(archive, where)
    assert where.registry.head_manifest("damaged/app", "v1") is None


@pytest.mark.parametrize("text", ["", "/", "no host", "host:99999", "host/UPPER", "host/", "https://host"])
def test_what_is_no_registry(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a registry"):
        Target.parse(text, oci.RegistryOptions(), tmp_path)


def test_a_line_that_breaks(
    plain: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    faults = Faults(up=[150_000, 250_000, 100_000, 3_000], down=[2_000, 500])
    with Line(plain.host, faults) as line, registries.serving(line):
        where = target(plain, tmp_path, "broken", host=line.host, retries=6)
        sync(v1, where)
        assert faults.broken == 6
    assert_whole(target(plain, tmp_path, "broken"), maker, images)


# ------------------------------------------------------------------------------------------ kill -9


@pytest.fixture(scope="module")
def large(maker: Maker, folder: Path) -> Iterator[Archive]:
    """A bundle of three images with a layer of some size each."""
    made = [
        image(maker, f"large/{number}", maker.image("amd64", maker.layer("x", noise(number, 8 * MIB))), "v1")
        for number in range(60, 63)
    ]
    with bundle(maker, folder / "out", "large", made, volume=5 * MIB) as archive:
        yield archive


@pytest.mark.parametrize("limit", [1, 3 * MIB, 12 * MIB, 23 * MIB])
def test_killed_and_repeated(site: Served, large: Archive, maker: Maker, tmp_path: Path, limit: int) -> None:
    where = target(site, tmp_path / "state", f"killed/{limit}", parallel=1)
    kill_a_sync(large, site, tmp_path / "state", where.prefix, limit)
    (left,) = where.state.glob("*.jsonl")
    finished = sum("image" in json.loads(line) for line in left.read_bytes().splitlines() if line.endswith(b"}"))
    assert finished == limit // (8 * MIB)

    plan = make_plan(large, where)
    assert [one.is_done for one in plan.images] == [number < finished for number in range(3)]
    summary = sync(large, where, plan)
    assert summary.unchanged == finished
    # What was sent whole is not sent again. This registry forgets an upload that broke off within a request.
    assert summary.uploaded == (4 if limit == 1 else 3 - finished)
    assert_whole(where, maker, large.bundle.images)
    assert not list(where.state.glob("*.jsonl"))


def test_a_registry_that_was_emptied_meanwhile(folder: Path, large: Archive, maker: Maker, tmp_path: Path) -> None:
    with registries.registry(folder / "emptied", tls=False) as served:
        where = target(served, tmp_path / "state", parallel=1)
        kill_a_sync(large, served, tmp_path / "state", "", 12 * MIB)
        assert list(where.state.glob("*.jsonl"))
        shutil.rmtree(served.root)
        summary = sync(large, where)
        assert (summary.unchanged, summary.uploaded, summary.mounted) == (0, 4, 2)
        assert_whole(where, maker, large.bundle.images)


# ------------------------------------------------------------------------------------------ nodes


@pytest.mark.parametrize("prefix", ["", "for/nodes"])
def test_nodes_find_images_by_the_names_they_have_at_headquarters(
    plain: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], folder: Path, tmp_path: Path, prefix: str
) -> None:
    where = target(plain, tmp_path / "state", prefix)
    sync(v1, where)
    paths = site_files.write(v1.bundle, plain.host, prefix, tmp_path / "etc", plain_http=True)
    conf = next(path for path in paths if path.suffix == ".conf")
    for ref in (f"@{images[0].root.digest}", ":v1"):
        name = f"docker://{HEADQUARTERS}/platform/app{ref}"
        raw = registries.skopeo(folder, "--registries-conf", conf, "inspect", "--raw", name)
        assert raw.encode() == maker.layout.read(images[0].root.digest)


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_reads_what_it_is_given(v1: Archive, tmp_path: Path) -> None:
    paths = site_files.write(v1.bundle, "registry.site.example:5000", "mirror", tmp_path / "etc")
    conf = next(path for path in paths if path.suffix == ".conf")
    with tempfile.TemporaryDirectory() as place:  # podman wants a short path
        words = ["podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs"]
        done = subprocess.run(
            [*words, "info", "--format", "{{json .Registries}}"],
            env=os.environ | {"CONTAINERS_REGISTRIES_CONF": str(conf)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    mirrors = json.loads(done.stdout)[HEADQUARTERS]["Mirrors"]
    assert [(one["Location"], one["PullFromMirror"]) for one in mirrors] == [
        ("registry.site.example:5000/mirror", "digest-only"),
        ("registry.site.example:5000/mirror", "tag-only"),
    ]
