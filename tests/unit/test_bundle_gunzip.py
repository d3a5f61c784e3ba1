"""Gzip streams, decompressed while they are read, with isal and without."""

from __future__ import annotations

import gzip
import io
import sys
import zlib

import pytest

from pipeline.bundle.gunzip import gunzip
from pipeline.core.errors import VerificationError

CONTENT = b"".join(b"%d\n" % number for number in range(300_000))
GOOD = gzip.compress(CONTENT)


@pytest.fixture(params=["isal", "zlib"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)


def test_a_stream() -> None:
    source = io.BytesIO(GOOD)
    with gunzip(source) as stream:
        assert stream.read(10) == CONTENT[:10]
        assert stream.read() == CONTENT[10:]
    assert source.closed


@pytest.mark.parametrize(
    ("data", "content"),
    [(GOOD + gzip.compress(b"more"), CONTENT + b"more"), (gzip.compress(b""), b""), (GOOD + bytes(100), CONTENT)],
    ids=["two members", "empty", "padded"],
)
def test_unusual_streams(data: bytes, content: bytes) -> None:
    with gunzip(io.BytesIO(data)) as stream:
        assert stream.read() == content


@pytest.mark.parametrize(
    "data",
    [
        b"no gzip",
        GOOD[: len(GOOD) // 2],
        GOOD[:-4],
        GOOD[:-8] + bytes(8),
        GOOD[:1000] + bytes(50) + GOOD[1050:],
        zlib.compress(CONTENT),
        GOOD + b"garbage",
    ],
    ids=["text", "half", "no end", "wrong sum", "damaged", "zlib", "more"],
)
def test_no_stream(data: bytes) -> None:
    with gunzip(io.BytesIO(data)) as stream, pytest.raises(VerificationError, match="gzip stream is damaged"):
        stream.read()


def test_a_fault_of_the_source_is_its_own() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _buffer: object) -> int:
            raise VerificationError("a volume is missing", hint="")

    with gunzip(io.BufferedReader(Broken())) as stream, pytest.raises(VerificationError, match="a volume is missing"):
        stream.read()
