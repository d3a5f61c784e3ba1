"""Bundles as files: written, found, read where they lie; and everything that can be wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle import listing, tar
from pipeline.bundle.archive import Archive
from pipeline.bundle.model import Bundle
from pipeline.bundle.verify import verify
from pipeline.bundle.volumes import Volumes
from pipeline.bundle.write import LAYOUT_VERSION, Writer, index
from pipeline.core.errors import InputError, PipelineError, StorageError, VerificationError
from tests.unit.bundles import HOST, KIB, SMALL, Made, described, noise, write

HASH = "b" * 64


@pytest.fixture(scope="module")
def made() -> Made:
    return Made(1)


@pytest.fixture
def folder(tmp_path: Path, made: Made) -> Path:
    write(tmp_path / "v1", made)
    return tmp_path / "v1"


def volumes(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bundle.*"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def problems(folder: Path) -> str:
    with Archive.open(folder) as archive, pytest.raises(VerificationError) as caught:
        verify(archive)
    assert caught.value.hint
    return caught.value.message


# --- written


def test_the_volumes_in_a_row_are_one_tar_of_an_image_layout(folder: Path, made: Made) -> None:
    names = [path.name for path in volumes(folder)]
    assert names == [f"v1.bundle.{number:03d}" for number in range(len(names))]
    assert {path.stat().st_size for path in volumes(folder)[1:-1]} == {SMALL}
    joined = b"".join(path.read_bytes() for path in volumes(folder))
    with tarfile.open(fileobj=io.BytesIO(joined)) as archive:
        members = archive.getmembers()
        found = {one.name: archive.extractfile(one).read() for one in members}  # type: ignore[union-attr]
    assert [one.name for one in members[:3]] == ["bundle.json", "oci-layout", "index.json"]
    assert {(one.uid, one.gid, one.mode, one.mtime, one.uname) for one in members} == {(0, 0, 0o644, 0, "")}
    assert json.loads(found.pop("oci-layout")) == LAYOUT_VERSION
    listed = json.loads(found.pop("index.json"))["manifests"]
    assert [one.get("annotations", {}).get(oci.REF_NAME) for one in listed] == [None, f"{HOST}/platform/app:v1"]
    bundle = Bundle.from_bytes(found.pop("bundle.json"))
    assert [(one.name, one.size) for one in bundle.volumes] == [
        (path.name, path.stat().st_size) for path in volumes(folder)[1:]
    ]
    assert found == {tar.blob_path(digest): data for digest, data in made.blobs.items()}


def test_the_same_bundle_has_the_same_bytes(folder: Path, made: Made, tmp_path: Path) -> None:
    write(tmp_path / "again", made)
    assert content(tmp_path / "again") == content(folder)


def test_checksums_are_as_sha256sum_wants_them(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in volumes(folder)]


def test_chunks_for_a_portal(tmp_path: Path, made: Made) -> None:
    write(tmp_path, made, volume_size=100 * KIB, chunk_size=SMALL)
    listed = json.loads((tmp_path / "chunks.json").read_text())
    assert [one["name"] for one in listed["files"]] == [path.name for path in volumes(tmp_path)]
    for one in listed["files"]:
        data = (tmp_path / one["name"]).read_bytes()
        parts = [data[part["offset"] :][: part["size"]] for part in one["chunks"]]
        assert b"".join(parts) == data
        assert [hashlib.sha256(part).hexdigest() for part in parts] == [part["sha256"] for part in one["chunks"]]
        assert {len(part) for part in parts[:-1]} <= {SMALL}


def test_one_volume_if_no_size_is_given(tmp_path: Path, made: Made) -> None:
    write(tmp_path, made, volume_size=None)
    assert len(volumes(tmp_path)) == 2
    with Archive.open(tmp_path) as archive:
        assert verify(archive).volumes == 2


def test_names_in_the_index(made: Made) -> None:
    def names(**changes: object) -> list[str | None]:
        image = replace(made.image, attachments=(), **changes)  # type: ignore[arg-type]
        listed = json.loads(index(described(made, images=(image,))))["manifests"]
        return [one["annotations"][oci.REF_NAME] for one in listed]

    digest = made.image.root.digest
    assert names(tags=("v1", "latest")) == [f"{HOST}/platform/app:latest", f"{HOST}/platform/app:v1"]
    assert names(source=f"{HOST}/platform/app:v1@{digest}") == [f"{HOST}/platform/app:v1"]
    assert names(source=f"{HOST}/platform/app@{digest}", tags=()) == [f"{HOST}/platform/app@{digest}"]


@pytest.mark.parametrize("size", [1, 511, SMALL - 1])
def test_volumes_that_are_too_small(tmp_path: Path, size: int) -> None:
    with pytest.raises(InputError, match="too small: at least 65536"):
        Writer(tmp_path, "v1", size)


def test_more_volumes_than_names_that_sort(tmp_path: Path) -> None:
    data = bytes(1000 * SMALL)
    with Writer(tmp_path, "v1", SMALL) as writer, pytest.raises(InputError, match="more than 999 volumes"):
        writer.add(f"blobs/sha256/{HASH}", len(data), data)


@pytest.mark.parametrize(
    ("size", "digest", "message"),
    [(5, None, "4 bytes came instead of 5"), (3, None, "more bytes came instead of 3"), (4, HASH, "has another hash")],
)
def test_content_that_is_not_what_was_said(tmp_path: Path, size: int, digest: str | None, message: str) -> None:
    with Writer(tmp_path, "v1", None) as writer, pytest.raises(VerificationError, match=message):
        writer.add(f"blobs/sha256/{HASH}", size, io.BytesIO(b"1234"), digest=digest and f"sha256:{digest}")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "blobs/sha256/ABC", "file"])
def test_a_member_that_could_not_be_read_again_is_not_written(tmp_path: Path, path: str) -> None:
    with Writer(tmp_path, "v1", None) as writer, pytest.raises(InputError, match="cannot be in a bundle"):
        writer.add(path, 0, b"")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        Writer(tmp_path / "file/v1", "v1", None)


# --- read


def test_a_whole_bundle(folder: Path, made: Made) -> None:
    before = content(folder)
    seen: list[tuple[str, int, int]] = []
    with Archive.open(folder) as archive:
        report = verify(archive, lambda *one: seen.append(one))
        assert {digest: archive.read(digest) for digest in made.blobs} == made.blobs
        assert archive.lean is None
        assert not archive.has("sha256:" + HASH)
        assert archive.size(made.layers[0]) == made.size
    total = sum(path.stat().st_size for path in volumes(folder)[1:])
    assert (report.blobs, report.images, report.left) == (len(made.blobs), 1, 0)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1] == (volumes(folder)[-1].name, total, total)
    assert content(folder) == before
    assert archive.id in report.text()
    assert made.image.root.digest in listing.text(archive.bundle)


@pytest.mark.parametrize("offset", [0, 1, SMALL - 1, SMALL, 100 * KIB - 1, 100 * KIB, 200 * KIB])
def test_a_blob_from_an_offset_on(folder: Path, made: Made, offset: int) -> None:
    with Archive.open(folder) as archive:
        for digest in made.layers:
            with archive.open_blob(digest, offset) as file:
                assert file.read() == made.blobs[digest][offset:]


def test_the_row_can_be_sought(folder: Path) -> None:
    row = b"".join(path.read_bytes() for path in volumes(folder))[100:-100]
    with Archive.open(folder) as archive, archive.volumes.open_range(100, len(row)) as file:
        assert file.seek(0, os.SEEK_END) == len(row)
        assert file.read() == b""
        for place in (0, 3 * SMALL, 5, SMALL):
            file.seek(place)
            assert file.read(SMALL + 1) == row[place:][: SMALL + 1]


def test_no_descriptor_is_left_open(folder: Path, made: Made) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Archive.open(folder) as archive:
        verify(archive)
        for digest in made.blobs:
            with archive.open_blob(digest) as file:
                file.read(1)
        files = [archive.open_blob(made.layers[0]) for _ in range(50)]
        assert len(list(Path("/proc/self/fd").iterdir())) == before  # opened when they are read
        for file in files:
            file.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_children_come_before_what_lists_them(folder: Path, made: Made) -> None:
    with Archive.open(folder) as archive:
        found = [(one.digest, data is None) for one, data in archive.walk(made.image.root)]
    assert len(found) == 7
    assert found[-1] == (made.image.root.digest, False)
    assert [is_blob for _, is_blob in found] == [True, True, False, True, True, False, False]


def test_an_image_that_is_left_out_is_not_walked(tmp_path: Path, made: Made) -> None:
    _, amd64, arm64, _ = made.image.manifests
    kept = replace(made.image, manifests=(made.image.root.digest, arm64), left_out=(amd64,), attachments=())
    bundle = described(made, images=(kept,))
    write(tmp_path, made, replace(bundle, blobs=tuple(one for one in bundle.blobs if one.digest != amd64)))
    with Archive.open(tmp_path) as archive:
        found = [one.digest for one, data in archive.walk(made.image.root) if data is not None]
        assert found == [arm64, made.image.root.digest]
        assert verify(archive).images == 1


def test_a_patch_is_whole_with_what_its_base_brings(tmp_path: Path, made: Made) -> None:
    write(tmp_path, made, described(made, left=(made.layers[0],)))
    with Archive.open(tmp_path) as archive:
        assert verify(archive).needed == 1
        with pytest.raises(VerificationError, match=f"does not carry {made.layers[0]}"):
            archive.open_blob(made.layers[0])
    assert "needs 1 blobs" in listing.text(archive.bundle)


def test_what_is_not_carried_is_named(tmp_path: Path, made: Made) -> None:
    bundle = described(made, left=(made.layers[0], made.image.manifests[1]))
    write(tmp_path, made, replace(bundle, base=replace(bundle.base, digests=())))
    text = problems(tmp_path)
    assert f"its manifest {made.image.manifests[1]} is not carried" in text


# --- found


@pytest.mark.parametrize("name", ["", "v1.bundle.000", "v1.bundle.002"])
def test_a_directory_or_any_volume_names_the_bundle(folder: Path, name: str) -> None:
    assert Volumes.find(folder / name).head == folder / "v1.bundle.000"


def test_two_bundles_in_one_directory(folder: Path, made: Made) -> None:
    write(folder, Made(2), described(Made(2), "v2"))
    with pytest.raises(InputError, match="several bundles lie there: v1, v2") as caught:
        Archive.open(folder)
    assert "v1.bundle.000" in caught.value.hint
    for name in ("v1", "v2"):
        with Archive.open(folder / f"{name}.bundle.001") as archive:
            assert verify(archive).name == name
    assert made.blobs


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bundle lies there"):
        Archive.open(tmp_path)
    with pytest.raises(InputError, match="no bundle: No such file"):
        Archive.open(tmp_path / "none")


def test_without_its_head(folder: Path) -> None:
    (folder / "v1.bundle.000").unlink()
    with pytest.raises(InputError, match=r"v1\.bundle\.000: the first volume cannot be read: No such file"):
        Archive.open(folder)


# --- what is wrong with volumes


def _swap(first: Path, second: Path) -> None:
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda all_: all_[2].unlink(), [f"v1.bundle.002 is missing ({SMALL} bytes)"]),
        (lambda all_: [one.unlink() for one in all_[1:]], ["001 is missing", "002 is missing", "003 is missing"]),
        (lambda all_: os.truncate(all_[1], 100), ["v1.bundle.001 is cut off, or still being copied: 100 bytes inst"]),
        (lambda all_: os.truncate(all_[1], 0), ["v1.bundle.001 is cut off"]),
        (lambda all_: all_[1].write_bytes(bytes(SMALL + 1)), ["v1.bundle.001 is too long"]),
        (lambda all_: _flip(all_[2], 5000), ["v1.bundle.002 is damaged, or belongs to another bundle"]),
        (lambda all_: _swap(all_[1], all_[2]), ["001 has the content of v1.bundle.002", "002 has the content of v1.b"]),
        (lambda all_: _swap(all_[1], all_[-1]), ["v1.bundle.001 has the content of"]),
        (lambda all_: shutil.copy(all_[1], all_[1].with_name("v1.bundle.077")), ["077 is none of its volumes"]),
        (lambda all_: _flip(all_[0].parent / "SHA256SUMS", 0), ["v1.bundle.000 is not what SHA256SUMS says"]),
    ],
)
def test_every_volume_that_is_not_right_is_named(
    folder: Path, harm: Callable[[list[Path]], object], message: list[str]
) -> None:
    harm(volumes(folder))
    before = content(folder)
    text = problems(folder)
    assert [part for part in message if part not in text] == []
    assert content(folder) == before


def test_reading_a_blob_of_volumes_that_are_not_whole(folder: Path, made: Made) -> None:
    volumes(folder)[2].unlink()
    with Archive.open(folder) as archive, pytest.raises(VerificationError, match=r"v1\.bundle\.002 is missing"):
        archive.open_blob(made.layers[0])


def test_volumes_that_go_while_they_are_read(folder: Path, made: Made) -> None:
    with Archive.open(folder) as archive:
        assert archive.members
        os.truncate(volumes(folder)[1], 10)
        volumes(folder)[2].unlink()
        seen = set()
        for digest in made.blobs:
            with archive.open_blob(digest) as file:
                try:
                    file.read()
                except VerificationError as error:
                    seen.add(error.message.rpartition("/")[2])
    assert any("001: this volume is cut off after" in text for text in seen)
    assert any("002: this volume is missing" in text for text in seen)


def test_volumes_of_another_bundle_of_that_name(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", Made(3))
    shutil.copy(tmp_path / "other/v1.bundle.002", folder)
    assert "v1.bundle.002 is damaged, or belongs to another bundle" in problems(folder)


def test_a_head_under_another_name(folder: Path) -> None:
    for path in volumes(folder):
        path.rename(path.with_name(path.name.replace("v1", "v2")))
    with pytest.raises(VerificationError, match="is the head of v1, not of v2"):
        Archive.open(folder)


# --- what is wrong inside


def _rewrite_head(folder: Path, files: dict[str, bytes]) -> None:
    parts = [tar.header(path, len(data)) + data + tar.padding(len(data)) for path, data in files.items()]
    (folder / "v1.bundle.000").write_bytes(b"".join(parts))


def _head(folder: Path) -> dict[str, bytes]:
    with Archive.open(folder) as archive:
        return dict(archive.head)


def test_a_bundle_json_that_was_altered_has_another_identity(folder: Path) -> None:
    head = _head(folder)
    was = Bundle.from_bytes(head["bundle.json"])
    head["bundle.json"] = replace(was, created="2027-01-01T00:00:00Z").to_bytes()
    _rewrite_head(folder, head)
    with Archive.open(folder) as archive:
        assert archive.id != was.id
    assert "v1.bundle.000 is not what SHA256SUMS says" in problems(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index.json": b"{}"}, "altered or damaged: index.json"),
        ({"signatures/a/signature-1": b"x"}, "altered or damaged: signatures/a/signature-1"),
        ({"oci-layout": None}, "altered or damaged: oci-layout"),
        ({"bundle.json": None}, "holds no bundle.json"),
        ({"bundle.json": b"{}"}, "version None"),
        ({f"blobs/sha256/{HASH}": b"1"}, "which no bundle has"),
    ],
)
def test_a_head_that_was_altered(folder: Path, change: dict[str, bytes | None], message: str) -> None:
    head = {**_head(folder), **change}
    _rewrite_head(folder, {path: data for path, data in head.items() if data is not None})
    with pytest.raises(PipelineError, match=message):
        Archive.open(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(b""), "no tar file"),
        (lambda path: path.write_bytes(noise(5, 5000)), "no tar file"),
        (lambda path: os.truncate(path, 300), "no tar file"),
        (lambda path: os.truncate(path, 1000), "cut off"),
        (lambda path: path.write_bytes((path.parent / "v1.bundle.001").read_bytes()), "which no bundle has|no tar fil"),
    ],
)
def test_a_head_that_is_none(folder: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(folder / "v1.bundle.000")
    with pytest.raises(VerificationError, match=message) as caught:
        Archive.open(folder)
    assert "v1.bundle.000" in caught.value.message


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


BLOB = f"blobs/sha256/{HASH}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_member("../x"), "'../x', which no bundle has"),
        (_member("/etc/passwd"), "'/etc/passwd', which"),
        (_member(f"blobs/sha256/../{HASH}"), "which no bundle has"),
        (_member(f"{BLOB}\n"), "which no bundle has"),
        (_member(BLOB, tarfile.SYMTYPE, "/etc/passwd"), "a link, directory or device"),
        (_member(BLOB, tarfile.LNKTYPE, "x"), "a link, directory or device"),
        (_member(BLOB, tarfile.DIRTYPE), "a link, directory or device"),
        (_member(BLOB, tarfile.GNUTYPE_SPARSE), "which no bundle has|no tar file"),
        (_member(BLOB) * 2, "twice"),
        (tar.header(BLOB, 2**70), "ends|cut off"),
        (tar.header(BLOB, 100)[:300], "no tar file"),
        (tar.header(BLOB, 1000), "ends|cut off"),
    ],
)
def test_a_tar_that_no_bundle_is(data: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        tar.members(io.BytesIO(data), "here")


def test_members_of_any_size_are_found_by_their_headers() -> None:
    size = 9 * 1024**3
    file = io.BytesIO(tar.header(BLOB, size))
    info = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "strict")
    assert (info.name, info.size) == (BLOB, size)


@pytest.mark.parametrize("length", [0, 10, 100 * KIB])
def test_a_blob_whose_content_is_not_its_digests(tmp_path: Path, made: Made, length: int) -> None:
    digest = made.layers[1]
    write(tmp_path, made, instead={digest: noise(99, length)})
    what = "its content has another hash" if length == made.size else f"{length} bytes instead of {made.size}"
    assert f"{digest}: {what}" in problems(tmp_path)


def test_a_manifest_whose_content_is_not_its_digests(tmp_path: Path, made: Made) -> None:
    digest = made.image.root.digest
    write(tmp_path, made, instead={digest: made.blobs[digest][:-1] + b" "})
    assert f"{digest}: its content has another hash" in problems(tmp_path)
    with Archive.open(tmp_path) as archive, pytest.raises(VerificationError, match="another hash"):
        archive.read(digest)


def test_a_blob_that_is_not_listed(tmp_path: Path, made: Made) -> None:
    write(tmp_path, made, extra={BLOB: b"more"})
    assert f"{BLOB} is not listed" in problems(tmp_path)


def test_a_blob_that_is_listed_but_not_there(tmp_path: Path, made: Made) -> None:
    bundle = described(made)
    more = replace(bundle.blobs[0], digest="sha256:" + HASH)
    with Writer(tmp_path, "v1", None) as writer:
        for digest, data in made.blobs.items():
            writer.add(tar.blob_path(digest), len(data), data, digest=digest)
        writer.finish(replace(bundle, blobs=(*bundle.blobs, more)), head_files={})
    assert f"sha256:{HASH}: is not there" in problems(tmp_path)
    with Archive.open(tmp_path) as archive, pytest.raises(VerificationError, match="has no blobs/sha256/bbb"):
        archive.open_blob("sha256:" + HASH)


def test_empty_blobs(tmp_path: Path) -> None:
    made = Made(4, size=0)
    write(tmp_path, made)
    with Archive.open(tmp_path) as archive:
        assert verify(archive).blobs == len(made.blobs)
        assert archive.read(made.layers[0]) == b""
