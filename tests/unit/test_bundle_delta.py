"""What a patch leaves out, and what bundles become together: by what they say of themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO

import pytest

from pipeline import oci
from pipeline.bundle import delta
from pipeline.bundle.assemble import everything
from pipeline.bundle.compose import merged, settled
from pipeline.bundle.model import (
    FULL,
    PATCH,
    UPGRADE,
    Attachment,
    Base,
    Blob,
    BlobSource,
    Bundle,
    BundleName,
    Image,
    Needed,
)
from pipeline.core.errors import InputError, VerificationError
from pipeline.oci import Descriptor
from tests.unit.bundles import AMD64, ARM64, CREATED, Made

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


class Blobs(BlobSource):
    """Blobs in memory."""

    def __init__(self, *made: Made) -> None:
        self.blobs = {digest: data for one in made for digest, data in one.blobs.items()}

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        if digest not in self.blobs:
            raise VerificationError(f"{digest} is not there")
        return io.BytesIO(self.blobs[digest][offset:])


@dataclass
class Kept:
    """A bundle whose manifests can be read."""

    bundle: Bundle
    source: Blobs

    def read(self, digest: str) -> bytes:
        assert self.bundle.carries(digest), "only what a bundle carries can be read from it"
        return self.source.open_blob(digest).read()


def full(*made: Made, name: str = "v1") -> Kept:
    return Kept(bundle_of([one.image for one in made], name, *made), Blobs(*made))


def bundle_of(images: Sequence[Image], name: str, *made: Made, left: Sequence[str] = (), **more: object) -> Bundle:
    sizes = {digest: len(data) for one in made for digest, data in one.blobs.items()}
    blobs = tuple(Blob(digest, size, "plain") for digest, size in sorted(sizes.items()) if digest not in left)
    bundle = Bundle(FULL, name, CREATED, "plain", tuple(images), blobs)
    return replace(bundle, **more)  # type: ignore[arg-type]


def renamed(made: Made, repository: str, *tags: str) -> Made:
    """Return the same image under another name."""
    made.image = replace(made.image, repository=repository, tags=tags, source=f"registry.hq/{repository}")
    return made


# ------------------------------------------------------------------------------------------ what bases provide


def test_a_full_bundle_provides_what_it_carries_where_it_put_it() -> None:
    one, same = Made(1, "platform/app"), renamed(Made(1), "apps/copy", "v1")
    provided = delta.provides([full(one, same)])
    assert set(provided) == set(one.blobs)
    assert set(provided.values()) == {(len(data), ("apps/copy", "platform/app")) for data in one.blobs.values()}


def test_several_bases_provide_together_what_each_does() -> None:
    one, two = Made(1, "platform/app"), Made(2, "platform/db")
    provided = delta.provides([full(one), full(two, name="v2")])
    assert set(provided) == set(one.blobs) | set(two.blobs)
    assert provided[one.layers[0]] == (one.size, ("platform/app",))


def test_a_patch_provides_what_it_needs_and_puts_it_into_its_own_repositories_too() -> None:
    made = Made(1, "platform/new")
    shared, carried = made.layers
    elsewhere = "sha256:" + "e" * 64  # a layer that only chunks are taken from
    needed = (Needed(shared, made.size, ("platform/old",)), Needed(elsewhere, 7, ("platform/old",)))
    base = Base((BundleName("sha256:" + "0" * 64, "v0"),), needed)
    bundle = bundle_of([made.image], "v1", made, left=[shared], kind=PATCH, base=base)
    provided = delta.provides([Kept(bundle, Blobs(made))])
    assert provided[shared] == (made.size, ("platform/new", "platform/old"))
    assert provided[carried] == (made.size, ("platform/new",))
    assert provided[elsewhere] == (7, ("platform/old",))


def test_a_layer_that_may_not_be_passed_on_is_provided_by_nobody() -> None:
    made = Made(1)
    foreign = Descriptor(FOREIGN, "sha256:" + "f" * 64, 9)
    config = made.put(b"{}", oci.OCI_CONFIG)
    value = {"schemaVersion": 2, "config": config.to_json(), "layers": [foreign.to_json()]}
    root = made.put(oci.canonical(value), oci.OCI_MANIFEST)
    made.image = replace(made.image, root=root, manifests=(root.digest,), attachments=())
    kept = full(made)
    assert foreign.digest not in delta.provides([kept])
    chosen = delta.choose(UPGRADE, [made.image], kept.source, [kept])
    assert foreign.digest not in {one.digest for one in chosen.carried}
    assert foreign.digest not in {one.digest for one in chosen.base.digests}


# ------------------------------------------------------------------------------------------ what is changed

APP, DB, NEW_APP = Made(1, "platform/app"), Made(2, "platform/db"), Made(3, "platform/app")
SIGNATURE = APP.image.attachments[0]
UNSIGNED = replace(
    APP.image,
    attachments=(),
    manifests=tuple(digest for digest in APP.image.manifests if digest != SIGNATURE.root.digest),
)
OTHER_SIGNATURE = replace(APP.image, attachments=(replace(SIGNATURE, root=DB.image.root),))
REFERRED = replace(APP.image, manifests=(*APP.image.manifests, DB.image.root.digest))
REFERRED = replace(REFERRED, attachments=(SIGNATURE, Attachment(SIGNATURE.subject, DB.image.root, None)))
AMD64_ONLY = replace(
    APP.image,
    platforms=(AMD64,),
    manifests=(APP.image.manifests[0], APP.image.manifests[1], SIGNATURE.root.digest),
    left_out=(APP.image.manifests[2],),
)
UNTAGGED = replace(APP.image, tags=())
BOTH_TAGS = replace(APP.image, tags=("v1", "latest"))
LATEST = replace(APP.image, tags=("latest",))
ELSEWHERE = replace(APP.image, repository="apps/app")


@pytest.mark.parametrize(
    ("image", "bases", "expected"),
    [
        pytest.param(APP.image, [[APP.image]], "unchanged", id="the same"),
        pytest.param(APP.image, [[DB.image]], "new", id="another repository"),
        pytest.param(APP.image, [[]], "new", id="an empty base"),
        pytest.param(ELSEWHERE, [[APP.image]], "new", id="the same image elsewhere"),
        pytest.param(NEW_APP.image, [[APP.image]], "changed", id="a tag of another image"),
        pytest.param(LATEST, [[APP.image]], "changed", id="another tag of an image"),
        pytest.param(BOTH_TAGS, [[APP.image]], "changed", id="one more tag"),
        pytest.param(APP.image, [[BOTH_TAGS]], "unchanged", id="one tag less"),
        pytest.param(UNTAGGED, [[APP.image]], "unchanged", id="by digest, which a tag brought"),
        pytest.param(APP.image, [[UNTAGGED]], "changed", id="a tag of what was there by digest"),
        pytest.param(APP.image, [[UNSIGNED]], "changed", id="a signature was added"),
        pytest.param(UNSIGNED, [[APP.image]], "unchanged", id="a signature was removed"),
        pytest.param(OTHER_SIGNATURE, [[APP.image]], "changed", id="another signature"),
        pytest.param(REFERRED, [[APP.image]], "changed", id="a referrer was added"),
        pytest.param(APP.image, [[AMD64_ONLY]], "changed", id="one more platform"),
        pytest.param(AMD64_ONLY, [[APP.image]], "unchanged", id="one platform less"),
        pytest.param(APP.image, [[DB.image], [APP.image]], "unchanged", id="in one of two bases"),
        pytest.param(APP.image, [[APP.image], [NEW_APP.image]], "changed", id="two bases differ"),
        pytest.param(NEW_APP.image, [[APP.image], [NEW_APP.image]], "changed", id="two bases differ, the other way"),
        pytest.param(APP.image, [[UNSIGNED], [APP.image]], "unchanged", id="a base added the signature"),
        pytest.param(BOTH_TAGS, [[APP.image], [LATEST]], "unchanged", id="two bases have a tag each"),
    ],
)
def test_what_an_image_is_beside_bases(image: Image, bases: list[list[Image]], expected: str) -> None:
    bundles = [bundle_of(images, f"v{number}") for number, images in enumerate(bases)]
    found = delta.sort_out([image], bundles)
    assert {name: len(getattr(found, name)) for name in ("new", "changed", "unchanged")} == {
        "new": 0,
        "changed": 0,
        "unchanged": 0,
        expected: 1,
    }
    assert delta.changed([image], bundles) == (() if expected == "unchanged" else (image,))


def test_a_bundle_knows_better_than_those_that_it_was_put_on() -> None:
    first = bundle_of([APP.image], "v1")
    second = bundle_of([NEW_APP.image], "v2", kind=PATCH, base=Base((BundleName(first.id, "v1"),)))
    for bases in ([first, second], [second, first]):
        assert delta.changed([NEW_APP.image], bases) == ()
        assert delta.changed([APP.image], bases) == (APP.image,)


# ------------------------------------------------------------------------------------------ what is chosen


def changed_app() -> Made:
    """Return an image that has the layer for amd64 in common with ``APP``, and the signature's blobs."""
    made = Made(4, "platform/app")
    old = oci.links(APP.blobs[APP.image.manifests[1]], oci.OCI_MANIFEST).blobs[1]
    signature = made.image.attachments[0].root
    kept = {signature.digest, *(one.digest for one in oci.links(made.blobs[signature.digest], "").blobs)}
    made.blobs = {digest: data for digest, data in made.blobs.items() if digest in kept}
    layers = {AMD64: made.put(APP.blobs[old.digest], oci.OCI_LAYER), ARM64: made.put(b"of arm64", oci.OCI_LAYER)}
    children = [
        made._manifest(made.put(str(platform).encode(), oci.OCI_CONFIG), layer, platform)
        for platform, layer in layers.items()
    ]
    value = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [child.to_json() for child in children]}
    root = made.put(oci.canonical(value), oci.OCI_INDEX)
    manifests = (root.digest, *(child.digest for child in children), signature.digest)
    made.image = replace(made.image, root=root, manifests=manifests)
    return made


def test_a_patch_lists_what_is_new_and_carries_what_the_base_lacks() -> None:
    base, new = full(APP, DB), changed_app()
    shared = oci.links(APP.blobs[APP.image.manifests[1]], oci.OCI_MANIFEST).blobs[1]
    chosen = delta.choose(PATCH, [new.image, DB.image], Blobs(new, DB), [base])
    assert chosen.images == (new.image,)
    carried = {one.digest for one in chosen.carried}
    assert carried >= set(new.image.manifests), "manifests always, the signature's too, which is the base's own"
    assert shared.digest not in carried
    assert Needed(shared.digest, shared.size, ("platform/app",)) in chosen.base.digests
    assert chosen.base.bundles == (BundleName(base.bundle.id, "v1"),)
    needed = {one.digest for one in chosen.base.digests}
    assert not carried & needed
    assert carried | needed == {one.digest for one in everything([new.image], Blobs(new))}


def test_an_upgrade_lists_everything() -> None:
    base, new = full(APP, DB), changed_app()
    chosen = delta.choose(UPGRADE, [new.image, DB.image], Blobs(new, DB), [base])
    assert chosen.images == (new.image, DB.image)
    carried = {one.digest for one in chosen.carried}
    assert set(DB.image.manifests) <= carried
    assert {one.digest for one in chosen.base.digests} >= set(DB.layers)
    assert next(one for one in chosen.base.digests if one.digest == DB.layers[0]).repositories == ("platform/db",)


def test_a_patch_on_a_patch_needs_what_the_first_bundle_brought() -> None:
    first, second = full(APP), changed_app()
    chosen = delta.choose(PATCH, [second.image], Blobs(second), [first])
    left = [one.digest for one in chosen.base.digests]
    patch = bundle_of([second.image], "v2", second, left=left, kind=PATCH, base=chosen.base)
    tagged = replace(second.image, tags=("v3",))
    again = delta.choose(PATCH, [tagged], Blobs(second), [Kept(patch, Blobs(second))])
    assert again.images == (tagged,)
    assert {one.digest for one in again.carried} == set(second.image.manifests)
    assert set(left) < {one.digest for one in again.base.digests}
    assert [one.name for one in again.base.bundles] == ["v1", "v2"], "in the order in which they are synced"
    assert [one.id for one in again.base.bundles] == [first.bundle.id, patch.id]


def test_every_base_is_named_once() -> None:
    first = full(APP).bundle
    patch = bundle_of([DB.image], "v2", DB, kind=PATCH, base=Base((BundleName(first.id, "v1"),)))
    assert [one.name for one in delta.base_names([first, patch])] == ["v1", "v2"]
    assert [one.name for one in delta.base_names([patch])] == ["v1", "v2"]


def test_nothing_to_patch() -> None:
    with pytest.raises(InputError, match="nothing to patch: v1 brought all 2 images"):
        delta.choose(PATCH, [APP.image, DB.image], Blobs(APP, DB), [full(DB, APP)])
    chosen = delta.choose(UPGRADE, [APP.image], Blobs(APP), [full(DB, APP)])
    assert {one.digest for one in chosen.carried} == set(APP.image.manifests)


def test_no_base() -> None:
    with pytest.raises(InputError, match="needs a base"):
        delta.choose(PATCH, [APP.image], Blobs(APP), [])


# ------------------------------------------------------------------------------------------ rows of bundles


def test_a_row_of_bundles_of_which_one_lacks_its_base() -> None:
    first, second = full(APP), changed_app()
    chosen = delta.choose(PATCH, [second.image], Blobs(second), [first])
    left = [one.digest for one in chosen.base.digests]
    patch = Kept(bundle_of([second.image], "v2", second, left=left, kind=PATCH, base=chosen.base), Blobs(second))
    delta.check_order([first, patch])
    assert [one.digest for one in delta.lacking([patch])] == sorted(left)
    with pytest.raises(VerificationError, match=left[0]) as caught:
        delta.check_order([patch])
    assert "v1" in caught.value.hint
    with pytest.raises(VerificationError):
        delta.check_order([patch, first])


# ------------------------------------------------------------------------------------------ images of several bundles


def listed(*images: Image, kind: str = FULL) -> Bundle:
    return bundle_of(images, "v1", kind=kind)


@pytest.mark.parametrize(
    ("bundles", "expected"),
    [
        pytest.param([listed(APP.image, DB.image)], [APP.image, DB.image], id="one"),
        pytest.param(
            [listed(APP.image, DB.image), listed(NEW_APP.image, kind=PATCH)],
            [NEW_APP.image, DB.image],
            id="a patch puts an image into the other's place",
        ),
        pytest.param(
            [listed(APP.image), listed(DB.image, kind=PATCH)], [APP.image, DB.image], id="a patch adds an image"
        ),
        pytest.param(
            [listed(APP.image, DB.image), listed(NEW_APP.image, kind=UPGRADE)],
            [NEW_APP.image],
            id="an upgrade leaves only its own",
        ),
        pytest.param(
            [listed(BOTH_TAGS), listed(replace(NEW_APP.image, tags=("latest",)), kind=PATCH)],
            [APP.image, replace(NEW_APP.image, tags=("latest",))],
            id="a patch takes one of two tags",
        ),
        pytest.param(
            [
                listed(APP.image, replace(DB.image, repository="platform/app", tags=("v2",))),
                listed(replace(NEW_APP.image, tags=("v1", "v2")), kind=PATCH),
            ],
            [replace(NEW_APP.image, tags=("v1", "v2"))],
            id="a patch takes the tags of two images",
        ),
        pytest.param(
            [listed(APP.image), listed(replace(NEW_APP.image, tags=("v2",)), kind=PATCH)],
            [APP.image, replace(NEW_APP.image, tags=("v2",))],
            id="another tag beside it",
        ),
        pytest.param([listed(UNTAGGED), listed(APP.image, kind=PATCH)], [APP.image], id="what had no name gets one"),
        pytest.param(
            [listed(UNTAGGED), listed(NEW_APP.image, kind=PATCH)], [UNTAGGED, NEW_APP.image], id="by digest stays"
        ),
        pytest.param(
            [listed(APP.image), listed(replace(OTHER_SIGNATURE, tags=("v2",)), kind=PATCH)],
            [replace(APP.image, attachments=()), replace(OTHER_SIGNATURE, tags=("v2",))],
            id="a signature's tag belongs to the later bundle",
        ),
    ],
)
def test_images_of_several_bundles(bundles: list[Bundle], expected: list[Image]) -> None:
    assert list(merged(bundles)) == expected


def test_manifests_that_nothing_leads_to_are_not_listed() -> None:
    (image,) = settled([replace(APP.image, attachments=())], Blobs(APP))
    assert image.manifests == APP.image.manifests[:3]
    assert settled([APP.image], Blobs(APP)) == (APP.image,)


def test_what_one_image_left_out_another_one_brings() -> None:
    whole = replace(ELSEWHERE, attachments=())
    first, _ = settled([AMD64_ONLY, whole], Blobs(APP))
    assert first.left_out == ()
    assert set(first.manifests) == set(APP.image.manifests)
    assert first.platforms == (AMD64, ARM64)
    (alone,) = settled([AMD64_ONLY], Blobs(APP))
    assert alone == AMD64_ONLY
