"""Syncs into a registry that has what docker-registry lacks, and that misbehaves when told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bundle.archive import Archive
from pipeline.bundle.model import Image
from pipeline.bundle.sync import sync
from pipeline.bundle.sync_plan import make_plan
from pipeline.core import progress
from pipeline.core.errors import NetworkError
from pipeline.oci import Registry, fallback_tag
from tests.integration import sites
from tests.integration.packed import KIB, Maker, noise
from tests.integration.sites import Handler, Site
from tests.integration.synced import MIB, assert_whole, bundle, everything, image, kill_a_sync, target, two_images


@pytest.fixture
def site() -> Iterator[Site]:
    with sites.site() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def maker(folder: Path) -> Maker:
    return Maker(folder / "maker")


@pytest.fixture(scope="module")
def images(maker: Maker) -> tuple[Image, Image]:
    return two_images(maker)


@pytest.fixture(scope="module")
def v1(maker: Maker, images: tuple[Image, Image], folder: Path) -> Iterator[Archive]:
    with bundle(maker, folder / "out", "v1", images) as archive:
        yield archive


def test_a_registry_with_referrers_gets_no_fallback_tags(
    site: Site, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(site.served, tmp_path)
    sync(v1, where)
    assert_whole(where, maker, images)
    root = images[0].root.digest
    assert fallback_tag(root) not in site.repositories["platform/app"].manifests
    found = where.registry.referrers("platform/app", root)
    assert found.has_api
    assert [one.digest for one in found.found] == [one.root.digest for one in images[0].attachments if one.tag is None]


def test_a_second_sync_asks_for_names_only(site: Site, v1: Archive, tmp_path: Path) -> None:
    where = target(site.served, tmp_path)
    sync(v1, where)
    site.seen.clear()
    sync(v1, where)
    assert site.count("HEAD") == len(site.seen) - 1 == 5  # three tags, a signature's tag, and what names its subject
    assert site.count("GET", "/referrers/") == 1


def test_each_blob_is_sent_once(
    site: Site, v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    sync(v1, target(site.served, tmp_path, parallel=8))
    manifests = {digest for one in images for digest in one.manifests}
    assert site.count("PUT", "/blobs/uploads/") == len(everything(maker, images).keys() - manifests)
    assert site.count("POST", "mount=") == 2


def test_tags_come_last(site: Site, v1: Archive, images: tuple[Image, Image], tmp_path: Path) -> None:
    sync(v1, target(site.served, tmp_path, parallel=1), images=1)
    puts = [path.rpartition("/")[2] for method, path in site.seen if method == "PUT" and "/app/manifests/" in path]
    attached = {one.tag or one.root.digest for one in images[0].attachments}
    children = images[0].manifests[1:3]
    root = images[0].root.digest
    assert puts[-2:] == ["v1", "latest"]
    assert max(puts.index(child) for child in children) < puts.index(root) < min(puts.index(one) for one in attached)


def test_an_index_that_is_not_whole_is_taken(site: Site, maker: Maker, tmp_path: Path) -> None:
    amd64, arm64 = (maker.image(arch, maker.layer("x", arch.encode())) for arch in ("amd64", "arm64"))
    one = image(maker, "sparse/app", maker.index(amd64, arm64), "v1", left_out=(arm64.digest,))
    where = target(site.served, tmp_path / "state")
    with bundle(maker, tmp_path, "v1", [one]) as archive:
        sync(archive, where)
        assert make_plan(archive, where).is_done
    assert arm64.digest not in site.repositories["sparse/app"].manifests


def test_mounting_is_refused(
    site: Site, v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    site.mounts = False
    where = target(site.served, tmp_path)
    assert sync(v1, where).mounted == 0
    assert_whole(where, maker, images)


def test_mounting_from_the_base_is_refused(
    site: Site, v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    """What a patch does not carry is read back from where the base put it."""
    site.mounts = False
    where = target(site.served, tmp_path / "state")
    sync(v1, where)
    index = json.loads(maker.layout.read(images[1].root.digest))
    layers = [one for one in everything(maker, [images[1]]).values() if "layer" in one.media_type]
    assert len(index["manifests"]) == 1
    root = maker.image("amd64", *layers, maker.layer("opt/new", noise(41, 10 * KIB)))
    with bundle(maker, tmp_path, "v1.1", [image(maker, "platform/new", root, "v1")], base=v1) as patch:
        summary = sync(patch, where)
        assert (summary.uploaded, summary.mounted) == (4, 0)
        assert_whole(where, maker, patch.bundle.images)


def test_busy_and_broken_lines(
    site: Site, v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    for method in ("HEAD", "GET", "POST", "PUT"):
        for pattern in ("/manifests/", "/blobs/"):
            site.faults += [(method, pattern, Handler.busy), (method, pattern, Handler.reset)]
    where = target(site.served, tmp_path, retries=8)
    sync(v1, where)
    assert_whole(where, maker, images)
    left = {(method, pattern) for method, pattern, _ in site.faults}
    assert left <= {("GET", "/blobs/"), ("POST", "/manifests/")}  # which a sync does not ask for


def test_a_registry_that_stays_busy(site: Site, v1: Archive, tmp_path: Path) -> None:
    site.faults += [("PUT", "/blobs/", Handler.busy)] * 100
    with pytest.raises(NetworkError, match="429"):
        sync(v1, target(site.served, tmp_path))
    assert not any(name in {"v1", "latest"} for known in site.repositories.values() for name in known.manifests)
    (journal,) = (tmp_path / site.served.host.replace(":", "_")).glob("*.jsonl")
    assert b"location" in journal.read_bytes()


@pytest.mark.parametrize("limit", [3 * MIB, 7 * MIB])
def test_killed_and_gone_on_with_within_a_blob(site: Site, maker: Maker, tmp_path: Path, limit: int) -> None:
    layer = maker.layer("x", noise(90, 8 * MIB))
    with bundle(maker, tmp_path, "v1", [image(maker, "large", maker.image("amd64", layer), "v1")]) as archive:
        kill_a_sync(archive, site.served, tmp_path / "state", "", limit)
        where = target(site.served, tmp_path / "state")
        with progress.session(tmp_path / "log"):
            sync(archive, where)
        assert_whole(where, maker, archive.bundle.images)
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "continuing after" in line]
    assert len(said) == 1
    assert layer.digest in said[0]
    reached = int(said[0].split("continuing after ")[1].split()[0])
    assert limit - 2 * MIB < reached < limit


def test_two_registries_at_once_do_not_mix(
    v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    with sites.site() as one, sites.site() as other:
        targets = [target(which.served, tmp_path) for which in (one, other)]
        for where in targets:
            sync(v1, where)
        assert len({where.state for where in targets}) == 2
        for where in targets:
            assert_whole(where, maker, images)
    assert isinstance(targets[0].registry, Registry)
