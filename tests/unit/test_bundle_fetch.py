"""What of an index is taken, what the store believes, what a release payload names, and what a bundle carries."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
import time
from pathlib import Path

import pytest
import zstandard

from pipeline import oci
from pipeline.bundle import assemble, release, trees
from pipeline.bundle.fetch import Hosts
from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.model import Attachment, Image
from pipeline.bundle.store import LayoutSource, check
from pipeline.bundle.trees import Choice
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.oci import Descriptor, Layout, Platform, Reference, Registry, RegistryOptions

AMD64, ARM64, ARMV7 = Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v7")
UNKNOWN = Platform("unknown", "unknown")


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def child(number: int, platform: Platform | None, subject: int | None = None) -> Descriptor:
    annotations = {} if subject is None else {trees.SUBJECT: digest(subject)}
    return Descriptor(oci.OCI_MANIFEST, digest(number), 1, platform, annotations)


# ------------------------------------------------------------------------------------------ platforms


@pytest.mark.parametrize(
    ("platform", "wanted", "does"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("windows/amd64", "linux/amd64", False),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm/v7", "linux/arm", True),
        ("linux/amd64/v3", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v3", False),
    ],
)
def test_a_platform_fits(platform: str, wanted: str, does: bool) -> None:
    assert trees.fits(Platform.parse(platform), Platform.parse(wanted)) is does


INDEX = (
    child(1, AMD64),
    child(2, ARM64),
    child(3, ARMV7),
    child(4, UNKNOWN, subject=1),
    child(5, UNKNOWN, subject=2),
    child(6, UNKNOWN),
    child(7, None),
    child(8, UNKNOWN, subject=99),
)


@pytest.mark.parametrize(
    ("platforms", "also", "taken"),
    [
        (None, (), (1, 2, 3, 4, 5, 6, 7, 8)),
        ((AMD64,), (), (1, 4, 6, 7, 8)),
        ((AMD64, ARM64), (), (1, 2, 4, 5, 6, 7, 8)),
        ((AMD64,), (2,), (1, 2, 4, 5, 6, 7, 8)),
        ((Platform("linux", "s390x"),), (), (6, 7, 8)),
    ],
    ids=str,
)
def test_attestations_go_with_their_image(
    platforms: tuple[Platform, ...] | None, also: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    found = trees.choose(INDEX, Choice(platforms, frozenset(map(digest, also))))
    assert [one.digest for one in found] == [digest(number) for number in taken]


# ------------------------------------------------------------------------------------------ the store


def test_the_store_believes_a_mark_as_long_as_the_file_is_the_same(tmp_path: Path) -> None:
    source = LayoutSource(Layout.create(tmp_path))
    blob = source.layout.put_blob(b"content", oci.OCI_LAYER)
    path = source.layout.blob_path(blob.digest)
    assert source.holds(blob)
    with source.open_blob(blob.digest, 3) as file:
        assert file.read() == b"tent"
    times = path.stat()
    path.write_bytes(b"CONTENT")
    assert not source.holds(blob)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert source.holds(blob), "that is the price; the bundle's writer finds it"
    with pytest.raises(VerificationError, match="was damaged since it was fetched, and is removed") as caught:
        check(source, blob.digest)
    assert "fetched again" in caught.value.hint
    assert not source.holds(blob)
    assert not source.holds(Descriptor(oci.OCI_LAYER, digest(1), 1))
    with pytest.raises(VerificationError, match=digest(1)):
        source.open_blob(digest(1))


def test_the_store_is_not_deceived_by_size(tmp_path: Path) -> None:
    source = LayoutSource(Layout.create(tmp_path))
    blob = source.layout.put_blob(b"content", oci.OCI_LAYER)
    assert source.holds(blob)
    assert not source.holds(Descriptor(oci.OCI_LAYER, blob.digest, 8))
    check(source, blob.digest)


# ------------------------------------------------------------------------------------------ several at once


def registry(host: str) -> Registry:
    return Registry(host, RegistryOptions(parallel=2, plain_http=True))


def test_what_comes_of_each_is_in_order_and_each_host_has_its_limit() -> None:
    running: dict[str, int] = {"a.b": 0, "c.d": 0}
    most, lock, told = dict(running), threading.Lock(), list[int]()

    def work(item: tuple[str, int]) -> int:
        host, number = item
        with lock:
            running[host] += 1
            most[host] = max(most[host], running[host])
        time.sleep(0.005)
        with lock:
            running[host] -= 1
        return number

    items = [(host, number) for number in range(20) for host in running]
    with Hosts(registry) as hosts:
        assert hosts.each(items, lambda item: item[0], work, told.append) == [number for _, number in items]
        assert hosts.registry("a.b") is hosts.registry("a.b")
    assert max(most.values()) <= 2
    assert told[-1] == len(items)


def test_the_first_failure_ends_the_rest() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise NetworkError("broken")
        time.sleep(0.01)

    with Hosts(registry) as hosts, pytest.raises(NetworkError, match="broken"):
        hosts.each(range(1000), lambda _: "a.b", work, lambda _: None)
    assert len(begun) < 1000


# ------------------------------------------------------------------------------------------ release payloads


def layer(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["tar", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("release-manifests/image-references", b"text"),
        ("./release-manifests/image-references", b"text"),
        ("release-manifests/other", None),
        ("x/release-manifests/image-references", None),
    ],
)
def test_the_list_of_components_is_found_in_a_layer(pack: object, name: str, found: bytes | None) -> None:
    assert callable(pack)
    assert release._find(io.BytesIO(pack(layer(name, b"text")))) == found


def stream(*tags: object) -> bytes:
    return json.dumps({"kind": "ImageStream", "spec": {"tags": tags}}).encode()


def tag(name: str, kind: str = "DockerImage") -> dict[str, object]:
    return {"name": "etcd", "from": {"kind": kind, "name": name}}


def test_components_by_digest() -> None:
    names = [f"quay.io/release/dev@{digest(number)}" for number in (1, 2)]
    assert list(release._components(stream(*map(tag, names)), "payload")) == list(map(Reference.parse, names))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is no ImageStream"),
        (b"[]", "is no ImageStream"),
        (b'{"spec": {"tags": 7}}', "is no ImageStream"),
        (stream({"name": "etcd"}), "is no ImageStream"),
        (stream(tag("a.b/c", kind="ImageStreamTag")), "comes from a ImageStreamTag"),
        (stream(), "names no component"),
        (stream(tag("quay.io/release/dev:v1")), "its component etcd is quay.io/release/dev:v1, without a digest"),
        (stream(tag("dev:v1")), "is not an image's name"),
    ],
)
def test_what_is_no_list_of_components(text: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        list(release._components(text, "payload"))
    assert said in caught.value.message


# ------------------------------------------------------------------------------------------ release signatures


def image(number: int, source: str = "a.b/c:v1", *, manifests: tuple[int, ...] = ()) -> Image:
    root = child(number, None)
    listed = (root.digest, *map(digest, manifests))
    return Image(source=source, repository="c", tags=("v1",), root=root, platforms=(), manifests=listed)


def sign(folder: Path, number: int, *contents: bytes) -> None:
    place = folder / digest(number).replace(":", "=")
    place.mkdir(parents=True)
    for position, content in enumerate(contents, 1):
        (place / f"signature-{position}").write_bytes(content)


@pytest.mark.parametrize("as_url", [False, True])
def test_signatures_are_kept_by_their_path(tmp_path: Path, as_url: bool) -> None:
    sign(tmp_path, 1, b"one", b"two")
    sign(tmp_path, 7, b"child")
    listed = ImageList((), tmp_path.as_uri() if as_url else str(tmp_path))
    found = release.signatures(listed, [image(1, manifests=(7,)), image(2)])
    names = [f"signatures/{digest(1).replace(':', '=')}/signature-{number}" for number in (1, 2)]
    last = f"signatures/{digest(7).replace(':', '=')}/signature-1"
    assert found == {names[0]: b"one", names[1]: b"two", last: b"child"}


def test_no_place_for_signatures() -> None:
    assert release.signatures(ImageList(()), [image(1)]) == {}


def test_a_payload_without_its_signature(tmp_path: Path) -> None:
    payload = Reference.parse("a.b/c:v1")
    listed = ImageList((Wanted(payload, "c"),), str(tmp_path), payload)
    with pytest.raises(NetworkError, match=r"there is no signature of a\.b/c:v1") as caught:
        release.signatures(listed, [image(1)])
    assert "signature-1" in caught.value.hint
    sign(tmp_path, 1, b"one")
    assert len(release.signatures(listed, [image(1), image(2, "a.b/d:v1")])) == 1


def test_what_is_no_signature(tmp_path: Path) -> None:
    sign(tmp_path, 1, b"")
    with pytest.raises(InputError, match="0 bytes are no signature"):
        release.signatures(ImageList((), str(tmp_path)), [image(1)])
    with pytest.raises(InputError, match="no such directory"):
        release.signatures(ImageList((), str(tmp_path / "none")), [image(1)])


# ------------------------------------------------------------------------------------------ contents


def test_everything_of_an_image(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    config = layout.put_blob(b"{}", oci.OCI_CONFIG)
    shared, own = (layout.put_blob(text, oci.OCI_LAYER) for text in (b"shared", b"own"))
    foreign = Descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", digest(5), 9)

    def manifest(*layers: Descriptor) -> Descriptor:
        value = {"schemaVersion": 2, "config": config.to_json(), "layers": [one.to_json() for one in layers]}
        return layout.put_manifest(value, oci.OCI_MANIFEST)

    one, two, signature = manifest(shared, foreign), manifest(own), manifest(shared, shared)
    index = layout.put_manifest({"schemaVersion": 2, "manifests": [one.to_json(), two.to_json()]}, oci.OCI_INDEX)
    made = Image(
        source="a.b/c:v1",
        repository="c",
        tags=("v1",),
        root=index,
        platforms=(AMD64,),
        manifests=(index.digest, one.digest, signature.digest),
        left_out=(two.digest,),
        attachments=(Attachment(index.digest, signature, "sha256-0.sig"),),
    )
    found = assemble.everything([made, made], LayoutSource(layout))
    assert sorted(item.digest for item in found) == sorted(
        item.digest for item in (index, one, signature, config, shared)
    )


@pytest.mark.parametrize(("epoch", "said"), [("0", "1970-01-01T00:00:00Z"), ("1795575600", "2026-11-25T03:00:00Z")])
def test_the_time_of_a_bundle(monkeypatch: pytest.MonkeyPatch, epoch: str, said: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert assemble.created() == said


@pytest.mark.parametrize("epoch", ["yesterday", "1e9", "99999999999999999999"])
def test_what_is_no_time(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        assemble.created()
