"""Names, descriptors, layouts and layers: tables of good and bad ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import resource
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.core.errors import InputError, StorageError, VerificationError
from pipeline.oci import Descriptor, LayerEntry, Layout, Platform, Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8

# ---------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("registry.site/a", ("registry.site", "a", None, None)),
        ("localhost/a", ("localhost", "a", None, None)),
        ("localhost:5000/a/b/c:v1", ("localhost:5000", "a/b/c", "v1", None)),
        (f"r.x:443/a@{DIGEST}", ("r.x:443", "a", None, DIGEST)),
        (f"r.x/a:v1.2_3-x@{DIGEST}", ("r.x", "a", "v1.2_3-x", DIGEST)),
        (f"r.x/a@{SHA512}", ("r.x", "a", None, SHA512)),
        ("10.0.0.1:5000/a.b/c__d/e-f--g", ("10.0.0.1:5000", "a.b/c__d/e-f--g", None, None)),
        ("[::1]:5000/a", ("[::1]:5000", "a", None, None)),
        ("Registry.Site/a:_x", ("Registry.Site", "a", "_x", None)),
    ],
)
def test_a_reference(text: str, parts: tuple[str | None, ...]) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.tag, found.digest) == parts
    assert str(found) == text
    assert found.name == parts[3] or parts[2] or "latest"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "''"),
        ("alpine", "''"),
        ("library/alpine", "'library' is not a registry's host"),
        ("https://r.x/a", "'https:'|not a path|not a tag"),
        ("r.x/A", "'A' is not a path"),
        ("r.x/a//b", "'a//b' is not a path"),
        ("r.x/a/", "'a/' is not a path"),
        ("r.x/../a", "'../a' is not a path"),
        ("r.x/-a", "'-a' is not a path"),
        ("r.x/a___b", "is not a path"),
        ("r.x/" + "a" * 256, "is not a path"),
        ("r.x/a:", "'' is not a tag"),
        ("r.x/a:-x", "'-x' is not a tag"),
        ("r.x/a:" + "x" * 129, "is not a tag"),
        ("r.x/a:v1\n", "is not a tag"),
        ("r.x/a@sha256:123", "'sha256:123' is not a digest"),
        ("r.x/a@", "'' is not a digest"),
        (f"r.x/a@{DIGEST.upper()}", "is not a digest"),
        ("r.x:0/a", "'r.x:0' is not a registry's host"),
        ("r.x:65536/a", "is not a registry's host"),
        ("r.x:port/a", "is not a registry's host"),
        ("user:word@r.x/a", "is not a"),
        ("-r.x/a", "'-r.x' is not a registry's host"),
        ("r..x/a", "'r..x' is not a registry's host"),
    ],
)
def test_no_reference(text: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        Reference.parse(text)
    assert "host[:port]/path" in caught.value.hint


# --------------------------------------------------------------------------------------------- descriptors


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"])
def test_a_platform(text: str) -> None:
    found = Platform.parse(text)
    assert str(found) == text
    assert Platform.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "linux", "linux/", "linux/amd64/", "Linux/amd64", "a/b/c/d"])
def test_no_platform(text: str) -> None:
    with pytest.raises(InputError):
        Platform.parse(text)


def test_a_descriptor_there_and_back() -> None:
    ours = Descriptor(oci.OCI_MANIFEST, DIGEST, 7, Platform("linux", "arm64", "v8"), {"b": "2", "a": "1"})
    assert Descriptor.from_json(json.loads(json.dumps(ours.to_json()))) == ours
    assert Descriptor(oci.OCI_LAYER, DIGEST, 0).to_json() == {
        "mediaType": oci.OCI_LAYER,
        "digest": DIGEST,
        "size": 0,
    }
    assert len({ours, ours}) == 1


def test_what_is_not_known_is_left_out() -> None:
    platform = {"os": "windows", "architecture": "amd64", "os.version": "10.0"}
    value = {"mediaType": "a/b", "digest": DIGEST, "size": 1, "urls": ["x"], "data": "eA==", "platform": platform}
    assert Descriptor.from_json(value).to_json() == {
        "mediaType": "a/b",
        "digest": DIGEST,
        "size": 1,
        "platform": {"os": "windows", "architecture": "amd64"},
    }


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": None},
        {"mediaType": "x"},
        {"mediaType": "a/b\r\nX: y"},
        {"digest": None},
        {"digest": "sha256:../../../etc/passwd"},
        {"digest": DIGEST + "\n"},
        {"digest": "md5:" + "0" * 32},
        {"size": None},
        {"size": -1},
        {"size": "7"},
        {"size": True},
        {"size": 1.5},
        {"platform": {"os": "linux"}},
        {"annotations": {"a": 1}},
        {"annotations": ["a"]},
    ],
    ids=str,
)
def test_no_descriptor(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Descriptor.from_json({"mediaType": "a/b", "digest": DIGEST, "size": 1} | change)


@pytest.mark.parametrize(
    ("data", "media_type", "what"),
    [
        (b"", oci.OCI_INDEX, "not JSON"),
        (b"\xff", oci.OCI_INDEX, "not JSON"),
        (b"[" * 100000, oci.OCI_INDEX, "not JSON"),
        (b"[]", oci.OCI_INDEX, "not a JSON object"),
        (b"{}", oci.OCI_INDEX, "refers to nothing"),
        (b'{"layers":{}}', oci.OCI_MANIFEST, "refers to nothing"),
        (b'{"manifests":[1]}', oci.OCI_INDEX, "not an object"),
        (b'{"schemaVersion":1}', oci.DOCKER_MANIFEST, "schema 1"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
    ],
)
def test_no_manifest(data: bytes, media_type: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        oci.links(data, media_type)


# -------------------------------------------------------------------------------------------------- layouts


def one_image(layout: Layout) -> Descriptor:
    config = layout.put_blob(b'{"os":"linux"}', oci.OCI_CONFIG)
    layer = layout.put_blob(b"layer", oci.OCI_LAYER)
    manifest = {"schemaVersion": 2, "config": config.to_json(), "layers": [layer.to_json()]}
    top = layout.put_manifest(manifest, oci.OCI_MANIFEST, Platform("linux", "amd64"), {oci.REF_NAME: "v1"})
    layout.set_index([top])
    return top


def everything(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_layout_is_the_same_each_time(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        layout = Layout.create(tmp_path / name)
        top = one_image(layout)
        one_image(layout)
        made.append(everything(layout.path))
        assert layout.index() == (top,)
        assert [found.digest for found in layout.verify()][-1] == top.digest
    assert made[0] == made[1]
    assert made[0]["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'
    assert len(made[0]) == 5
    assert Layout.create(tmp_path / "one").index() == Layout.open(tmp_path / "two").index()


def test_foreign_bytes_stay_as_they_are(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    data = b'{ "schemaVersion": 2,\n  "unknown": "\\u00e9", "manifests": [] }\n'
    assert layout.read(layout.put_manifest(data, oci.OCI_INDEX).digest) == data


def test_a_file_is_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, layout = tmp_path / "file", Layout.create(tmp_path / "layout")
    source.write_bytes(b"content")
    found = layout.put_file(source, oci.OCI_LAYER)
    for _ in range(2):
        assert layout.put_file(source, oci.OCI_LAYER) == found
        assert layout.blob_path(found.digest).samefile(source)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "protected_hardlinks")

    monkeypatch.setattr(os, "link", refuse)
    assert layout.put_file(source, oci.OCI_LAYER) == found
    assert not layout.blob_path(found.digest).samefile(source)
    assert layout.read(found.digest) == b"content"
    assert len(list((layout.path / "blobs/sha256").iterdir())) == 1
    with pytest.raises(InputError, match="No such file"):
        layout.put_file(tmp_path / "none", oci.OCI_LAYER)


def test_what_is_wrong_is_named_all_at_once(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    top = one_image(layout)
    config, layer = oci.links(layout.read(top.digest), top.media_type).blobs
    layout.blob_path(config.digest).unlink()
    layout.blob_path(layer.digest).write_bytes(b"lager")
    with pytest.raises(VerificationError) as caught:
        layout.verify()
    assert f"{config.digest}: missing" in caught.value.message
    assert f"{layer.digest}: damaged" in caught.value.message
    layout.blob_path(top.digest).write_bytes(b"{}")
    with pytest.raises(VerificationError, match=f"{top.digest}: its content has another hash"):
        layout.verify()
    with pytest.raises(VerificationError):
        layout.read(top.digest)
    one_image(layout)
    layout.put_blob(b"layer", oci.OCI_LAYER)
    layout.verify()


@pytest.mark.parametrize("digest", ["sha256:../../x", "sha256:" + "A" * 64, "x", "", "../x:" + "0" * 64])
def test_no_digest_leads_outside(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InputError):
        Layout.create(tmp_path).blob_path(digest)


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an OCI layout"):
        Layout.open(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(InputError, match=r"version '2\.0\.0'"):
        Layout.open(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.1.0"}')
    with pytest.raises(InputError, match=r"index\.json"):
        Layout.open(tmp_path).index()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        Layout.create(tmp_path / "file")


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may become larger than 10,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path: Path, small_disk: None) -> None:  # noqa: ARG001
    layout = Layout.create(tmp_path)
    one_image(layout)
    before = everything(tmp_path)
    with pytest.raises(StorageError, match="cannot be written: File too large"):
        layout.put_blob(bytes(20_000), oci.OCI_LAYER)
    with pytest.raises(StorageError, match="cannot be written: File too large"):
        oci.write_layer([LayerEntry("a", os.urandom(100_000))], tmp_path / "layer")
    assert everything(tmp_path) == before


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "directory", "link"):
        with pytest.raises(StorageError, match="is not a file"):
            oci.write_layer([], tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 3


# --------------------------------------------------------------------------------------------------- layers


def entries(folder: Path) -> list[LayerEntry]:
    (folder / "source").write_bytes(b"from a file")
    return [
        LayerEntry("p/bin/install", folder / "source", 0o755),
        LayerEntry("p/empty", b""),
        LayerEntry("p/dir", None, 0o700),
        LayerEntry("p-x", b"sorted by parts, not by text"),
        LayerEntry("p/" + "long" * 60 + "/名字", b"GNU long name", 0o600),
    ]


def test_a_layer_is_the_same_each_time(tmp_path: Path) -> None:
    listed = entries(tmp_path)
    first = oci.write_layer(listed, tmp_path / "one", mtime=1_700_000_000)
    os.utime(tmp_path / "source", (1, 1))
    (tmp_path / "source").chmod(0o600)
    for seed in range(3):
        random.Random(seed).shuffle(listed)  # noqa: S311 - just an order
        assert oci.write_layer(iter(listed), tmp_path / "two", mtime=1_700_000_000) == first
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert oci.write_layer(listed, tmp_path / "two", mtime=1) != first
    data = (tmp_path / "one").read_bytes()
    assert first.descriptor == Descriptor(oci.OCI_LAYER, oci.digest_of(data), len(data))
    assert first.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}"
    assert data[3:8] == bytes(5), "no name and no time in the gzip header"


def test_what_a_layer_holds(tmp_path: Path) -> None:
    oci.write_layer(entries(tmp_path), tmp_path / "layer", mtime=7)
    long = "p/" + "long" * 60
    with tarfile.open(tmp_path / "layer") as archive:
        members = archive.getmembers()
        assert [(found.name, stat.filemode(found.mode), found.isdir()) for found in members] == [
            ("p", "?rwxr-xr-x", True),
            ("p/bin", "?rwxr-xr-x", True),
            ("p/bin/install", "?rwxr-xr-x", False),
            ("p/dir", "?rwx------", True),
            ("p/empty", "?rw-r--r--", False),
            (long, "?rwxr-xr-x", True),
            (f"{long}/名字", "?rw-------", False),
            ("p-x", "?rw-r--r--", False),
        ]
        owners = {(found.uid, found.gid, found.uname, found.gname, found.mtime) for found in members}
        assert owners == {(0, 0, "", "", 7)}
        assert not archive.pax_headers
        file = archive.extractfile("p/bin/install")
        assert file is not None
        assert file.read() == b"from a file"


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a/..", "./a", "a/./b", "a//b", "a\0b", ".wh.a", "a/.wh..wh..opq"],
)
def test_a_path_that_leads_outside(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        oci.write_layer([LayerEntry(path, b"")], tmp_path / "layer")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("listed", "what"),
    [
        ([LayerEntry("a", b""), LayerEntry("a", b"")], "twice"),
        ([LayerEntry("a", b""), LayerEntry("a/", None)], "twice"),
        ([LayerEntry("a", b""), LayerEntry("a/b", b"")], "below 'a', which is a file"),
        ([LayerEntry("a", Path("/nonexistent/x"))], "cannot be read"),
        ([LayerEntry("a", Path("/dev/null"))], "is not a file"),
        ([LayerEntry("a", Path("/"))], "cannot be read"),
    ],
)
def test_no_layer(tmp_path: Path, listed: list[LayerEntry], what: str) -> None:
    with pytest.raises(InputError, match=what):
        oci.write_layer(listed, tmp_path / "layer")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_layer(tmp_path: Path) -> None:
    found = oci.write_layer([], tmp_path / "layer")
    assert found.size == (tmp_path / "layer").stat().st_size
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "layer").read_bytes())) as archive:
        assert archive.getnames() == []


def test_layers_that_may_not_be_passed_on(tmp_path: Path) -> None:
    layout = Layout.create(tmp_path)
    config = layout.put_blob(b"{}", oci.OCI_CONFIG)
    foreign = Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", DIGEST, 9)
    manifest = {"schemaVersion": 2, "config": config.to_json(), "layers": [foreign.to_json()]}
    top = layout.put_manifest(manifest, oci.DOCKER_MANIFEST)
    layout.set_index([top])
    assert [found.digest for found in layout.verify()] == [config.digest, top.digest]


def test_a_longer_hash(tmp_path: Path) -> None:
    layout, data = Layout.create(tmp_path), b'{"schemaVersion":2,"manifests":[]}'
    digest = f"sha512:{hashlib.sha512(data).hexdigest()}"
    layout.put_bytes(digest, data)
    layout.set_index([Descriptor(oci.OCI_INDEX, digest, len(data))])
    assert [found.digest for found in layout.verify()] == [digest]
    with pytest.raises(VerificationError, match="another hash"):
        layout.put_bytes(digest, b"other")
