"""What encoders are called, what gzip headers say, how a program is fed, and where the helper is looked for."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.bundle import codec, helper, identify
from pipeline.bundle.codec import Codec, Encoder, piped, unzstd
from pipeline.core.errors import DependencyError, InputError, NetworkError, ToolError, VerificationError

PGZIP = bytes.fromhex("1f8b080000096e8800ff")
GO = bytes.fromhex("1f8b08000000000000ff")
GNU = bytes.fromhex("1f8b0800000000000003")
CONTENT = b"".join(b"%d some words %d\n" % (number, number * 7919) for number in range(40_000))


# --- names

GOOD = [Encoder("pgzip", -1, 1024**2, PGZIP), Encoder("go-gzip", 9, 0, GO), Encoder("zlib", 6), Encoder("pgzip", -2)]
BAD: list[object] = [
    None,
    [],
    {},
    {"name": "pgzip", "level": 1, "block": 0},
    {"name": "pgzip", "level": 1, "block": 0, "header": "", "more": 1},
    {"name": "brotli", "level": 1, "block": 0, "header": ""},
    {"name": ["pgzip"], "level": 1, "block": 0, "header": ""},
    {"name": "pgzip", "level": 10, "block": 0, "header": ""},
    {"name": "pgzip", "level": -3, "block": 0, "header": ""},
    {"name": "pgzip", "level": True, "block": 0, "header": ""},
    {"name": "pgzip", "level": "1", "block": 0, "header": ""},
    {"name": "pgzip", "level": 1, "block": -1, "header": ""},
    {"name": "pgzip", "level": 1, "block": 2**30, "header": ""},
    {"name": "pgzip", "level": 1, "block": 0.5, "header": ""},
    {"name": "pgzip", "level": 1, "block": 0, "header": "1f8"},
    {"name": "pgzip", "level": 1, "block": 0, "header": 31},
]


@pytest.mark.parametrize("encoder", GOOD)
def test_an_encoder_is_read_as_it_was_written(encoder: Encoder) -> None:
    assert Encoder.from_json(encoder.to_json()) == encoder


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_encoder_is_refused(value: object) -> None:
    with pytest.raises(InputError):
        Encoder.from_json(value)


def test_an_encoder_is_shown_in_words() -> None:
    assert str(Encoder("pgzip", -1, 256 * 1024)) == "pgzip at the default level in blocks of 256 KiB"
    assert str(Encoder("go-gzip", 1)) == "go-gzip at level 1"


# --- headers


def header(flags: int, rest: bytes = b"") -> bytes:
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(5) + b"\xff" + rest


@pytest.mark.parametrize(
    "whole",
    [
        header(0),
        header(8, b"layer.tar\0"),
        header(16, b"a comment\0"),
        header(4, b"\x03\x00abc"),
        header(4, b"\x00\x00"),
        header(2, b"\x12\x34"),
        header(31, b"\x02\x00xyname\0comment\0\x56\x78"),
    ],
)
def test_a_header_is_found_whole(whole: bytes) -> None:
    assert identify.header_of(whole + b"what follows\0") == whole


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b\x08",
        b"\x28\xb5\x2f\xfd" + bytes(20),
        b"\x1f\x8b\x07" + bytes(20),
        header(0x20) + bytes(9),
        header(8, b"a name without end"),
        header(8, b"x" * 5000 + b"\0"),
        header(4, b"\xff\xff" + bytes(100)),
        header(2, b"\x12"),
    ],
)
def test_what_is_no_header_is_none(data: bytes) -> None:
    assert identify.header_of(data) == b""


def test_the_likeliest_encoder_is_tried_first() -> None:
    first = {name: next(identify.candidates(given)) for name, given in (("p", PGZIP), ("g", GO), ("z", GNU))}
    assert first["p"] == Encoder("pgzip", -1, 1024**2, PGZIP)
    assert first["g"] == Encoder("go-gzip", -1, 0, GO)
    assert first["z"] == Encoder("zlib", 6, 0, GNU)


@pytest.mark.parametrize(("flag", "level"), [(2, 9), (4, 1)])
@pytest.mark.parametrize("given", [PGZIP, GO, GNU])
def test_the_extra_flag_tells_the_level(given: bytes, flag: int, level: int) -> None:
    changed = given[:8] + bytes([flag]) + given[9:]
    assert {encoder.level for encoder in identify.candidates(changed)} == {level}


def test_no_candidate_is_tried_twice() -> None:
    for given in (PGZIP, GO, GNU):
        found = list(identify.candidates(given))
        assert len(set(found)) == len(found)
        assert {encoder.header for encoder in found} == {given}


# --- programs that are fed


def test_a_program_is_fed_and_read_at_once() -> None:
    data = os.urandom(5_000_000)  # more than pipes hold
    with piped(["cat"], io.BytesIO(data), what="copying") as stream:
        assert stream.read() == data


def test_a_stream_may_be_left_before_its_end() -> None:
    before = threading.active_count()
    with piped(["cat"], io.BytesIO(bytes(5_000_000)), what="copying") as stream:
        assert stream.read(10) == bytes(10)
    assert threading.active_count() == before
    with piped(["cat"], io.BytesIO(bytes(5_000_000)), what="copying"):
        pass


def test_a_program_that_fails_is_told_at_the_end() -> None:
    words = ["sh", "-c", "head -c 3; echo it broke >&2; exit 4"]
    source, told = io.BytesIO(b"abcdef" * 1_000_000), pytest.raises(ToolError, match="it broke")
    with piped(words, source, what="copying") as stream, told:
        while stream.read(100):
            pass


def test_a_program_that_does_not_exist_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="no-such"):
        piped([tmp_path / "no-such"], io.BytesIO(), what="copying")


class Breaking(io.RawIOBase):
    """Gives some bytes and then breaks, as a registry may."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.left, self.error = 3, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        if not self.left:
            raise self.error
        self.left -= 1
        buffer[:7] = b"content"
        return 7


@pytest.mark.parametrize("error", [NetworkError("the line is cut"), OSError(5, "the disk is old")])
def test_a_source_that_breaks_is_told_at_the_end(error: Exception) -> None:
    with piped(["cat"], io.BufferedReader(Breaking(error)), what="copying") as stream, pytest.raises(type(error)):
        stream.read()


def test_a_broken_pipe_of_the_source_is_not_the_end() -> None:
    source, told = io.BufferedReader(Breaking(BrokenPipeError(32, "a peer left"))), (ToolError, BrokenPipeError)
    with piped(["cat"], source, what="copying") as stream, pytest.raises(told):
        stream.read()


# --- zstd


def test_a_frame_is_read() -> None:
    frame = zstandard.ZstdCompressor(level=9).compress(CONTENT)
    assert unzstd(frame, len(CONTENT), None) == CONTENT
    assert unzstd(zstandard.ZstdCompressor().compress(b""), 0, None) == b""


@pytest.mark.parametrize("size", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(VerificationError):
        unzstd(zstandard.ZstdCompressor().compress(CONTENT), size, None)


@pytest.mark.parametrize("change", [lambda frame: frame[:-10], lambda frame: b"x" + frame, lambda _: b""])
def test_a_damaged_frame_is_refused(change: type[bytes]) -> None:
    with pytest.raises(VerificationError):
        unzstd(change(zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)), len(CONTENT), None)


def test_without_any_reader_of_zstd_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DependencyError) as caught:
        unzstd(b"", 0, None)
    assert "bundle.pyz" in caught.value.hint


# --- where the helper is


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A package as bundle.pyz has it, with a helper of our own in it."""
    program = b"#!/bin/sh\necho '{}'\n"
    package = tmp_path / "package" / "field_of_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for arch in ("amd64", "arm64"):
        (package / f"helper-{arch}").write_bytes(program)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(codec, "FIELD", "field_of_test")
    codec._carried_program.cache_clear()
    yield program
    codec._carried_program.cache_clear()


def test_a_carried_helper_is_written_where_it_can_be_run(
    carried: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    missing = tmp_path / "missing"
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(missing))
    monkeypatch.setattr(codec, "PLACES", (str(tmp_path / "missing too"), str(place)))
    found = Codec.find()
    assert found is not None
    assert found.program.parent.parent == place
    assert found.program.read_bytes() == carried
    assert found.program.stat().st_mode & 0o777 == 0o700
    assert found.program.parent.stat().st_mode & 0o777 == 0o700
    again = Codec.find()
    assert again is not None
    assert (again.program, again.id) == (found.program, found.id)


def test_a_helper_that_runs_nowhere_leaves_nothing_behind(tmp_path: Path) -> None:
    assert codec._written(tmp_path, b"\x7fELF of another machine") is None
    assert codec._written(tmp_path / "missing", b"#!/bin/sh\n") is None
    assert list(tmp_path.iterdir()) == []


def test_without_any_helper_there_is_no_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Codec.find() is None
    assert helper.built(tmp_path) == {}


def test_an_encoder_that_is_only_a_name_is_not_asked_of_the_helper(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_bytes(b"")
    for encoder in (Encoder("zlib", 6, 0, GNU), Encoder("go-gzip", 6), Encoder("go-gzip", 6, 0, bytes(5000))):
        with pytest.raises(InputError):
            Codec(program).encode(encoder, io.BytesIO())


def test_what_is_only_a_name_proves_nothing(tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_bytes(b"")
    data = gzip.compress(CONTENT)
    assert not identify.prove(Encoder("zlib", 9, 0, GNU), lambda: io.BytesIO(data), "sha256:00", Codec(program))


# --- the build


@pytest.mark.parametrize(
    ("version", "upstream"),
    [("1.15.12+ds1-3", "1.15.12"), ("1.2.5-2", "1.2.5"), ("1%3a2.0~rc1-1", "2.0"), ("2:1.19.8-2", "1.19.8")],
)
def test_a_library_is_named_by_its_own_version(version: str, upstream: str) -> None:
    assert helper._upstream(version) == upstream


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.19.8", (1, 19)), ("go1.26.1\ntime 2026", (1, 26)), ("go1.27", None), ("go1.18.1", None), ("devel", None)],
)
def test_only_a_go_that_writes_the_known_bytes_is_used(
    text: str, version: tuple[int, int] | None, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/go").touch()
    (tmp_path / "VERSION").write_text(text)
    assert helper._go_version(tmp_path) == version


def test_the_trailer_that_is_compared_is_that_of_gzip() -> None:
    trial = gzip.compress(CONTENT, 6, mtime=0)
    encoder = Encoder("zlib", 6, 0, trial[:10])
    with identify._made(encoder, CONTENT, None) as stream:  # type: ignore[arg-type]  # zlib needs no helper
        assert zlib.decompress(trial[:10] + stream.read(), 31) == CONTENT
