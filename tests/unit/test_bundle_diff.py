"""What is said about bundles before and after they are made: differences, forecasts, and what a probe found."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.bundle.codec import Encoder
from pipeline.bundle.diff import Blobs, diff
from pipeline.bundle.forecast import tar_size
from pipeline.bundle.forecast_report import Delta, Forecast, Row, Sizes, duration, span
from pipeline.bundle.model import FULL, PATCH, Base, Blob, Bundle, BundleName, Image, Needed
from pipeline.bundle.probe_report import Estimate, Gzip, Layer, Probe, Problem
from pipeline.bundle.rates import Rates
from pipeline.oci import Descriptor
from tests.unit.bundles import AMD64, CREATED, Made

APP, DB, NEW_APP = Made(1, "platform/app"), Made(2, "platform/db"), Made(3, "platform/app")
UNSIGNED = replace(APP.image, attachments=(), manifests=APP.image.manifests[:3])
AMD64_ONLY = replace(APP.image, platforms=(AMD64,), manifests=APP.image.manifests[:2])


def bundle(*images: Image, kind: str = FULL, blobs: str = "", needed: str = "") -> Bundle:
    """Return a bundle; each letter is a blob of 10 bytes."""
    base = Base(
        (BundleName("sha256:" + "0" * 64, "v0"),) if needed else (),
        tuple(Needed("sha256:" + one * 64, 10, ("platform/app",)) for one in needed),
    )
    carried = tuple(Blob("sha256:" + one * 64, 10, "plain") for one in blobs)
    return Bundle(kind, "v1", CREATED, "plain", images, carried, base)


@pytest.mark.parametrize(
    ("before", "after", "kind", "expected", "same"),
    [
        pytest.param([APP.image], [APP.image], FULL, [], 1, id="the same"),
        pytest.param([], [APP.image], FULL, [("platform/app:v1", "added")], 0, id="added"),
        pytest.param([APP.image, DB.image], [APP.image], FULL, [("platform/db:v1", "removed")], 1, id="removed"),
        pytest.param([APP.image, DB.image], [NEW_APP.image], PATCH, [("platform/app:v1", "changed")], 0, id="a patch"),
        pytest.param([APP.image], [UNSIGNED], FULL, [("platform/app:v1", "changed")], 0, id="no signature"),
        pytest.param([AMD64_ONLY], [APP.image], FULL, [("platform/app:v1", "changed")], 0, id="one more platform"),
        pytest.param(
            [APP.image],
            [replace(APP.image, tags=("v1", "v2"))],
            FULL,
            [("platform/app:v2", "added")],
            1,
            id="one more tag",
        ),
        pytest.param(
            [replace(APP.image, tags=())],
            [],
            FULL,
            [(f"platform/app@{APP.image.root.digest}", "removed")],
            0,
            id="by digest",
        ),
    ],
)
def test_images_that_differ(
    before: list[Image], after: list[Image], kind: str, expected: list[tuple[str, str]], same: int
) -> None:
    found = diff(bundle(*before), bundle(*after, kind=kind))
    assert [(one.name, one.what) for one in found.images] == expected
    assert found.same == same


def test_what_is_changed_in_an_image() -> None:
    (change,) = diff(bundle(AMD64_ONLY), bundle(APP.image)).images
    assert (change.before, change.after) == (APP.image.root.digest, APP.image.root.digest)
    assert (change.platforms_added, change.platforms_removed) == (("linux/arm64",), ())
    (change,) = diff(bundle(APP.image), bundle(AMD64_ONLY)).images
    assert (change.platforms_added, change.platforms_removed) == ((), ("linux/arm64",))
    (change,) = diff(bundle(APP.image), bundle(UNSIGNED)).images
    assert change.attachments_removed == (APP.image.attachments[0].root.digest,)
    text = diff(bundle(APP.image), bundle(AMD64_ONLY)).text()
    assert "linux/amd64, -linux/arm64" in text


@pytest.mark.parametrize(
    ("before", "after", "shared", "new", "gone"),
    [
        pytest.param(("abc", ""), ("bcd", ""), 2, 1, 1, id="full"),
        pytest.param(("abc", ""), ("d", "bc"), 2, 1, 1, id="what a patch needs is shared"),
        pytest.param(("ab", "c"), ("cd", ""), 1, 1, 2, id="what the first needs is there too"),
        pytest.param(("", ""), ("", ""), 0, 0, 0, id="nothing"),
    ],
)
def test_blobs_that_differ(before: tuple[str, str], after: tuple[str, str], shared: int, new: int, gone: int) -> None:
    first, second = (bundle(blobs=blobs, needed=needed) for blobs, needed in (before, after))
    found = diff(first, second)
    assert (found.shared, found.new, found.gone) == tuple(Blobs(count, count * 10) for count in (shared, new, gone))
    assert found.ids == (first.id, second.id)


def test_a_difference_as_text_and_as_json() -> None:
    found = diff(bundle(APP.image, blobs="ab"), bundle(NEW_APP.image, DB.image, blobs="bc"))
    lines = found.text().splitlines()
    assert "images: 1 added, 0 removed, 1 changed, 1 the same".replace("1 the", "0 the") in lines
    assert any("platform/db:v1" in line and line.startswith("added") for line in lines)
    value = json.loads(found.to_json())
    assert value["images"][1]["name"] == "platform/db:v1"
    assert value["new"] == {"count": 1, "size": 10}


# ------------------------------------------------------------------------------------------ forecasts

RATES = Rates(fetch=10.0, pack_plain=100.0, pack_lean=5.0, cores=2, usb=20.0, link=50.0, ratio=(0.5, 1.0))
SIZES = Sizes(blobs=7, total=990_000_000, gzip=800_000_000, head=1_000_000, body=999_000_000, volumes=2)


def test_times_come_from_sizes_and_rates() -> None:
    found = Forecast((), SIZES, 500_000_000, None, (), RATES)
    assert SIZES.plain == 1_000_000_000
    assert SIZES.lean(0.5) == 600_000_000
    assert dict(found.times(SIZES)) == {
        "pack_plain": (10.0, 10.0),
        "pack_lean": (86.0, 90.0),
        "copy_plain": (50.0, 50.0),
        "copy_lean": (30.0, 50.0),
        "sync": (19.8, 19.8),
    }


def test_a_forecast_as_text_and_as_json() -> None:
    row = Row("registry.hq/app:v1", "linux/amd64", 5, 2_000_000, 1_500_000)
    deltas = (Delta("patch", None, 0, (0, 0, 3)), Delta("upgrade", SIZES, 5_000_000, (1, 1, 1)))
    found = Forecast((row,), SIZES, 500_000_000, 10**9, deltas, RATES)
    text = found.text()
    assert "to fetch for all of it: 500.0 MB, 50 s at 10 MB/s" in text
    assert "plain  1000.0 MB, 2 volumes; pack 10 s, copy 50 s, sync 20 s" in text
    assert "lean   600.0 to 1000.0 MB, as its layers are made; pack 1 min to 2 min" in text
    assert "patch: nothing to do: 0 images new, 0 changed, 3 unchanged" in text
    assert "upgrade, 1 images new, 1 changed, 1 unchanged, 5.0 MB at the site: 7 blobs" in text
    value = json.loads(found.to_json())
    assert value["full"]["body"] == 999_000_000
    assert value["times"]["sync"] == [19.8, 19.8]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "under 1 s"),
        (1, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (3600, "1 h 00 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_span_of_one_value() -> None:
    assert (span("1", "1"), span("1", "2")) == ("1", "1 to 2")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], 1024), ([0], 512 + 1024), ([1], 1024 + 1024), ([512, 513], 1024 + 512 + 1024 + 1024)],
)
def test_the_size_of_a_tar(sizes: list[int], expected: int) -> None:
    blobs = [Descriptor("a/b", f"sha256:{number:064x}", size) for number, size in enumerate(sizes)]
    assert tar_size(blobs) == expected


# ------------------------------------------------------------------------------------------ probes

PGZIP = Encoder("pgzip", -1, 1024**2, bytes.fromhex("1f8b080000096e8800ff"))
PIGZ = Encoder("pigz", 6, 0, bytes.fromhex("1f8b0800000000000003"))
UNKNOWN = Gzip(11, 2, 5, "1f8b080005000000020b")
LAYERS = (
    Layer("sha256:" + "a" * 64, 60_000_000, str(PGZIP), ("r/a:1", "r/b:1"), PGZIP),
    Layer("sha256:" + "b" * 64, 20_000_000, str(PGZIP), ("r/a:1",), PGZIP),
    Layer("sha256:" + "c" * 64, 15_000_000, str(PIGZ), ("r/c:1",), PIGZ),
    Layer("sha256:" + "d" * 64, 5_000_000, "gzip of an unknown encoder", ("r/d:1",), unknown=UNKNOWN),
)


def test_a_probe_as_text_and_as_json() -> None:
    estimate = Estimate(1, 40_000_000, 20_000_000, 80_000_000, 20_000_000)
    found = Probe(4, LAYERS, (Problem("r/e:1", "HTTP status 401"),), estimate)
    lines = [" ".join(line.split()) for line in found.text().splitlines()]
    assert lines[0] == "4 images, 4 layers of 100.0 MB"
    assert "pgzip at the default level in blocks of 1024 KiB yes 2 2 80.0 80.0%" in lines
    assert "pigz at level 6 no 1 1 15.0 15.0%" in lines
    assert "11 2 5 1f8b080005000000020b 1 5.0 r/d:1" in lines
    assert "sample: 1 layers with 40.0 MB became 20.0 MB (ratio 0.50)" in lines
    assert any("80.0 MB of layers become 40.0 MB, 20.0 MB stay as they are: 60.0 of 100.0 MB" in line for line in lines)
    assert any("a larger sample tells more" in line for line in lines)
    assert lines[-1] == "r/e:1: HTTP status 401"
    value = json.loads(found.to_json())
    assert value["encoders"][0] == {
        "kind": str(PGZIP),
        "lean": True,
        "layers": 2,
        "images": 2,
        "size": 80_000_000,
    }
    assert value["layers"][3]["unknown"]["system"] == 11
    assert value["estimate"]["total"] == 60_000_000


def test_a_probe_without_a_sample_or_without_layers() -> None:
    found = Probe(1, LAYERS, (), Estimate(0, 0, 0, 80_000_000, 20_000_000))
    assert "80.0 MB of the layers can be stored lean; without a sample the gain is not known" in found.text()
    assert json.loads(found.to_json())["estimate"]["ratio"] is None
    assert Probe(0, (), (), Estimate(0, 0, 0, 0, 0)).text().startswith("0 images, 0 layers of 0.0 MB")
