"""Parts of a sync that need no registry: listings under fallback tags, how far it is, what is said of it."""

from __future__ import annotations

import io
import json
import threading

import pytest

from pipeline.bundle import meter
from pipeline.bundle.meter import GivenUpError, Meter
from pipeline.bundle.model import Attachment, Image
from pipeline.bundle.sync import SyncSummary
from pipeline.bundle.sync_plan import ImagePlan, SyncPlan
from pipeline.bundle.sync_referrers import Listing, listings
from pipeline.core.errors import InputError
from pipeline.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    fallback_entries,
    fallback_entry,
    fallback_index,
    fallback_tag,
)

A, B, C = (Descriptor(OCI_MANIFEST, f"sha256:{letter * 64}", 7) for letter in "abc")
ROOT = Descriptor(OCI_INDEX, f"sha256:{'f' * 64}", 9)


def image(*attachments: Attachment, tags: tuple[str, ...] = ("v1",)) -> Image:
    return Image("hq.example/app:v1", "app", tags, ROOT, (), (ROOT.digest,), attachments=attachments)


@pytest.mark.parametrize(
    ("attachments", "wanted"),
    [
        ((), ()),
        ((Attachment(ROOT.digest, A, "sha256-ff.sig"),), ()),
        ((Attachment(ROOT.digest, A, None),), (Listing(ROOT.digest, None, (A,)),)),
        ((Attachment(ROOT.digest, B, fallback_tag(ROOT.digest)),), (Listing(ROOT.digest, B, ()),)),
        ((Attachment(ROOT.digest, B, fallback_tag(A.digest)),), ()),  # a tag like any other
        (
            (
                Attachment(ROOT.digest, B, fallback_tag(ROOT.digest)),
                Attachment(ROOT.digest, C, None),
                Attachment(ROOT.digest, A, None),
                Attachment(A.digest, C, None),
            ),
            (Listing(A.digest, None, (C,)), Listing(ROOT.digest, B, (C, A))),
        ),
    ],
)
def test_what_is_listed_where(attachments: tuple[Attachment, ...], wanted: tuple[Listing, ...]) -> None:
    assert listings(image(*attachments)) == wanted


@pytest.mark.parametrize(
    ("manifest", "more"),
    [
        ({"artifactType": "application/x.sbom"}, {"artifactType": "application/x.sbom"}),
        ({"config": {"mediaType": OCI_CONFIG}}, {"artifactType": OCI_CONFIG}),
        ({"artifactType": "a/b", "config": {"mediaType": OCI_CONFIG}}, {"artifactType": "a/b"}),
        ({"manifests": [], "annotations": {"a": "b"}}, {"annotations": {"a": "b"}}),
        ({"config": None, "annotations": {}}, {}),
    ],
)
def test_how_something_is_listed(manifest: dict[str, object], more: dict[str, object]) -> None:
    found = fallback_entry(A, json.dumps(manifest).encode())
    assert found == {"mediaType": OCI_MANIFEST, "digest": A.digest, "size": 7} | more


def test_an_index_is_the_same_in_any_order() -> None:
    one, other = A.to_json() | {"artifactType": "a/b"}, B.to_json()
    data = fallback_index([one, other])
    assert data == fallback_index([other, one])
    assert fallback_entries(data) == {A.digest: one, B.digest: other}
    assert json.loads(data).keys() == {"schemaVersion", "mediaType", "manifests"}


@pytest.mark.parametrize("data", [b"{}", b'{"manifests": 1}', b'{"manifests": [1, {"digest": 2}, {}]}'])
def test_what_lists_nothing(data: bytes) -> None:
    assert fallback_entries(data) == {}


def test_what_is_no_manifest() -> None:
    with pytest.raises(InputError):
        fallback_entries(b"no json")


def test_a_plan_as_a_table() -> None:
    layers = tuple(Descriptor(OCI_LAYER, f"sha256:{letter * 64}", 1_500_000) for letter in "12")
    open_ = ImagePlan(
        image(tags=()), "site/app", ((A, b""),), layers, sent=layers[:1], mounted=layers[1:], tags=(("x.sig", A),)
    )
    plan = SyncPlan((ImagePlan(image(), "site/done"), open_), {})
    assert not plan.is_done
    assert plan.uploads == 1_500_000
    assert plan.text().splitlines() == [
        "image         to do    manifests  tags  MB to send  blobs to mount",
        "site/done:v1  nothing",
        "site/app      send     1          1     1.5         1",
        "",
        "1 of 2 images: 1 blobs of 1.5 MB to send, 1 to mount",
    ]
    assert SyncPlan(plan.images[:1], {}).text() == "nothing to do: all 1 images are there"


def test_a_summary() -> None:
    assert SyncSummary(3, 3, 0, 0, 0, 0, 0, 0, 0.04).text() == "nothing to do: all 3 images are there (0.0 s)"
    text = SyncSummary(3, 1, 5, 2_500_000, 2, 100_000, 7, 4, 1.26).text()
    assert "5 blobs of 2.5 MB sent, 2 of 0.1 MB mounted, 7 manifests and 4 tags written (1.3 s)" in text


def test_bytes_are_counted_once_however_often_they_are_sent() -> None:
    counted, stop = Meter("sent", 30), threading.Event()
    with counted.watch(io.BytesIO(b"0123456789"), "a", 0, stop) as stream:
        assert stream.read(4) == b"0123"
    with counted.watch(io.BytesIO(b"456789"), "a", 4, stop) as stream:
        assert stream.read() == b"456789"
    counted.finish("b", 7)
    assert counted.sent == 17
    stop.set()
    with counted.watch(io.BytesIO(b"x"), "c", 0, stop) as stream, pytest.raises(GivenUpError):
        stream.read()


def test_it_is_said_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    counted = Meter("sent", 4_000_000)
    counted.finish("a", 1_000_000)
    counted.tick()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(meter, "LOGGED_EVERY", 0.0)
    monkeypatch.setattr(meter, "SHOWN_EVERY", 0.0)
    counted.tick()
    assert "1.0 of 4.0 MB sent, " in capsys.readouterr().err
