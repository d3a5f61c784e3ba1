"""What only older bundles brought is removed from a real registry, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle.archive import Archive
from pipeline.bundle.model import Image
from pipeline.bundle.prune import plan_prune, prune
from pipeline.bundle.sync import sync
from pipeline.bundle.sync_plan import make_plan
from pipeline.core.errors import InputError
from pipeline.oci import fallback_entries, fallback_tag
from tests.integration import registries
from tests.integration.packed import KIB, Maker, noise
from tests.integration.registries import Served
from tests.integration.synced import assert_whole, bundle, image, target, two_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("syncing")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Served]:
    """A site's registry with TLS and a password; each test has a prefix of its own."""
    with registries.registry(folder / "site", password=True) as running:
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


def test_prune_removes_what_only_the_old_one_brought(
    site: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(site, tmp_path / "state", "pruned")
    web = maker.index(maker.image("amd64", maker.layer("opt/web", noise(71, 10 * KIB))))
    with bundle(maker, tmp_path, "v2", [images[1], image(maker, "platform/app", web, "v1")]) as v2:
        sync(v1, where)
        sync(v2, where)
        plan = plan_prune([v1.bundle], [v2.bundle], where.registry, where.prefix)
        app, kept = plan.repositories
        assert (app.repository, kept.repository) == ("pruned/platform/app", "pruned/platform/web")
        assert set(images[0].manifests) < set(app.manifests)  # and the index of the fallback tag
        assert "v1" not in app.tags
        assert "latest" in app.tags
        assert kept.manifests == ()
        assert dict(kept.kept) == dict.fromkeys(images[1].manifests, "v2 has it")
        assert "garbage-collect" in plan.text()
        summary = prune(plan, where.registry)
        assert (summary.manifests, summary.tags) == (6, 3)
        assert where.registry.tags("pruned/platform/app") == ("v1",)
        for digest in app.manifests:
            assert where.registry.head_manifest("pruned/platform/app", digest) is None
        assert_whole(where, maker, v2.bundle.images)
        assert make_plan(v2, where).is_done
        again = plan_prune([v1.bundle], [v2.bundle], where.registry, where.prefix)
        assert again.text().endswith("nothing to remove")


def test_prune_keeps_what_the_site_has_named(
    site: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(site, tmp_path, "named")
    sync(v1, where)
    repo, app = "named/platform/app", images[0]
    where.registry.put_manifest(repo, "ours", maker.layout.read(app.manifests[1]), oci.OCI_MANIFEST)
    own = maker.artifact(app.root, b"the site's own")
    sbom = next(one.root for one in app.attachments if one.tag is None)
    oci.push(maker.layout, where.registry, repo, fallback_tag(app.root.digest), root=maker.index(own, sbom))
    plan = plan_prune([v1.bundle], [], where.registry, where.prefix)
    assert dict(plan.repositories[0].kept) == {app.manifests[1]: "ours leads to it"}
    prune(plan, where.registry)
    assert where.registry.tags(repo) == ("ours", fallback_tag(app.root.digest))
    assert set(fallback_entries(where.registry.get_manifest(repo, fallback_tag(app.root.digest))[1])) == {own.digest}
    assert where.registry.tags("named/platform/web") == ()


def test_prune_looks_once_more(
    site: Served, v1: Archive, maker: Maker, images: tuple[Image, Image], tmp_path: Path
) -> None:
    where = target(site, tmp_path, "tagged")
    sync(v1, where)
    plan = plan_prune([v1.bundle], [], where.registry, where.prefix)
    root = images[0].root
    where.registry.put_manifest("tagged/platform/app", "new", maker.layout.read(root.digest), root.media_type)
    with pytest.raises(InputError, match="tagged/platform/app:new"):
        prune(plan, where.registry)
    assert_whole(where, maker, images)


def test_prune_asks_for_sense(
    site: Served, v1: Archive, images: tuple[Image, Image], maker: Maker, tmp_path: Path
) -> None:
    where = target(site, tmp_path, "sense")
    with bundle(maker, tmp_path, "v1.1", images[:1], base=v1) as patch:
        pass
    with pytest.raises(InputError, match="to be kept and to be removed"):
        plan_prune([v1.bundle], [v1.bundle], where.registry)
    with pytest.raises(InputError, match=r"v1\.1 is a patch on v1"):
        plan_prune([v1.bundle], [patch.bundle], where.registry)
    assert plan_prune([patch.bundle], [v1.bundle], where.registry, "sense").count == 0
