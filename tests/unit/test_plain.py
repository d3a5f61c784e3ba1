"""Archives that are decompressed before dpkg needs them: the same members, or none at all."""

from __future__ import annotations

import lzma
import time
from pathlib import Path

import pytest

from pipeline.image.bases import plain

CONTROL = b"control, as it was"
FILES = bytes(range(256)) * 9001  # more than one piece


def member(name: str, content: bytes) -> bytes:
    header = f"{name:16}{'0':12}{'0':6}{'0':6}{'100644':8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def deb(data_name: str, data: bytes) -> bytes:
    return (
        b"!<arch>\n" + member("debian-binary", b"2.0\n") + member("control.tar.xz", CONTROL) + member(data_name, data)
    )


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "a_1%3a2_all.deb"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.mark.parametrize("files", [FILES, FILES[:-1], b""], ids=["even", "odd", "empty"])
@pytest.mark.parametrize("name", ["data.tar.xz", "data.tar.xz/"], ids=["as dpkg", "as ar"])
def test_data_is_decompressed_and_the_rest_is_kept(name: str, files: bytes, archive: Path, place: Path) -> None:
    archive.write_bytes(deb(name, lzma.compress(files)))
    plain.decompress(archive, place)
    assert (place / archive.name).read_bytes() == deb("data.tar", files)
    assert [path.name for path in place.iterdir()] == [archive.name]


def test_what_follows_the_data_is_kept(archive: Path, place: Path) -> None:
    archive.write_bytes(deb("data.tar.xz", lzma.compress(FILES[:-1])) + member("_gpgorigin", b"signed"))
    plain.decompress(archive, place)
    assert (place / archive.name).read_bytes() == deb("data.tar", FILES[:-1]) + member("_gpgorigin", b"signed")


@pytest.mark.parametrize("name", ["data.tar", "data.tar.gz", "data.tar.zst", "data.tar.xz2"])
def test_other_compressions_are_left_to_dpkg(name: str, archive: Path, place: Path) -> None:
    archive.write_bytes(deb(name, FILES))
    plain.decompress(archive, place)
    assert list(place.iterdir()) == []


WHOLE = deb("data.tar.xz", lzma.compress(FILES))
BAD = {
    "empty": (b"", ValueError),
    "no archive": (b"PK\3\4" * 100, ValueError),
    "cut in the data": (WHOLE[:-100], EOFError),
    "cut in a header": (WHOLE[:40], ValueError),
    "a size that is no number": (WHOLE.replace(b"4         `", b"four      `"), ValueError),
    "damaged": (WHOLE.replace(lzma.compress(FILES)[40:60], bytes(20)), lzma.LZMAError),
    "two streams": (deb("data.tar.xz", lzma.compress(FILES) * 2), lzma.LZMAError),
    "not xz": (deb("data.tar.xz", FILES), lzma.LZMAError),
    "xz without an end": (deb("data.tar.xz", lzma.compress(FILES)[:-8]), lzma.LZMAError),
}


@pytest.mark.parametrize(("content", "error"), BAD.values(), ids=BAD)
def test_a_bad_archive_leaves_nothing(content: bytes, error: type[Exception], archive: Path, place: Path) -> None:
    archive.write_bytes(content)
    with pytest.raises(error):
        plain.decompress(archive, place)
    assert list(place.iterdir()) == []


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives"


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_ahead_does_what_it_can(archives: Path, tmp_path: Path) -> None:
    place, whole = tmp_path / "ahead", ["a.deb", "b.deb", "c.deb"]
    for name in whole:
        (archives / name).write_bytes(WHOLE)
    (archives / "bad.deb").write_bytes(b"!<arch>\nbad")
    with plain.ahead(archives, place) as begin:
        begin()
        deadline = time.monotonic() + 60
        while names(place) != whole and time.monotonic() < deadline:
            time.sleep(0.01)
        assert names(place) == whole
    assert not place.exists()


def test_ahead_stops_when_it_is_left(archives: Path, tmp_path: Path) -> None:
    packed = deb("data.tar.xz", lzma.compress(FILES * 20, preset=0))
    for number in range(200):
        (archives / f"{number}.deb").write_bytes(packed)
    place = tmp_path / "ahead"
    with plain.ahead(archives, place) as begin:
        begin()
        found = names(place)
    assert len(found) < 200
    assert not place.exists()
