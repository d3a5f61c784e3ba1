"""Layers stored lean: what goes in comes out, each chunk is kept once, and what is damaged is refused."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import pytest
import zstandard

from pipeline.bundle import chunks
from pipeline.bundle.archive import Archive
from pipeline.bundle.codec import Codec, Encoder
from pipeline.bundle.lean import LeanStore, content_size
from pipeline.bundle.lean_write import LeanResult, LeanWriter
from pipeline.bundle.model import BlobSource
from pipeline.bundle.recipe import Recipe
from pipeline.core.errors import DependencyError, InputError, VerificationError
from pipeline.oci import digest_of

KIB = 1024
PGZIP = Encoder("pgzip", -1, KIB * KIB, bytes.fromhex("1f8b080000096e8800ff"))
FRAME = 64 * KIB


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 - just bytes


SHARED = noise(1, 300 * KIB)
CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "compressible": b"a line of text\n" * 40_000,
    "noise": noise(2, 500 * KIB),
    "shared": noise(3, 10 * KIB) + SHARED,
    "shared as well": SHARED + noise(4, 70 * KIB),
    "twice the same": noise(5, 90 * KIB) * 2,
}
LAYERS = {digest_of(name.encode()): content for name, content in CONTENTS.items()}


class Nothing:
    """In place of the helper: contents can be had without it."""

    id = "0" * 64


class Blobs(BlobSource):
    """Gzip layers in memory, by digest."""

    def __init__(self, layers: Mapping[str, bytes]) -> None:
        self.layers = layers

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        return io.BytesIO(gzip.compress(self.layers[digest])[offset:])

    def open_raw(self, digest: str) -> IO[bytes]:
        return io.BytesIO(self.layers[digest])


def write(
    folder: Path, layers: Mapping[str, bytes], *, threads: int = 2, base: Mapping[str, bytes] | None = None
) -> LeanResult:
    """Store layers lean."""
    writer = LeanWriter(folder, cast("Codec", Nothing()), level=3, frame_size=FRAME, threads=threads)
    if base:
        writer.seed(cast("Archive", Blobs(base)), base)
    for digest, content in layers.items():
        blob = gzip.compress(content)
        assert writer.add(digest, len(blob), PGZIP, partial(io.BytesIO, blob))
    return writer.finish()


def members(result: LeanResult) -> dict[str, bytes]:
    """Return what a bundle would hold of it."""
    found = {f"lean/recipes/{digest.partition(':')[2]}": data for digest, data in result.recipes.items()}
    return found | {f"lean/frames/{number:06d}.zst": path.read_bytes() for number, path in enumerate(result.frames)}


def store(held: Mapping[str, bytes], base: BlobSource | None = None) -> LeanStore:
    return LeanStore(lambda name: io.BytesIO(held[name]), held, None, base, None)


def content(opened: LeanStore, digest: str) -> bytes:
    with opened.open_raw(digest) as file:
        return file.read()


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    result = write(tmp_path / "scratch", LAYERS)
    opened = store(members(result))
    assert {digest: content(opened, digest) for digest in LAYERS} == LAYERS
    assert len(result.frames) > 5
    assert result.sources == ()
    assert result.info.encoders == ({"name": "pgzip", "level": -1, "block": KIB * KIB},)


def test_each_chunk_is_kept_once(tmp_path: Path) -> None:
    layers = {digest_of(str(number).encode()): noise(number, KIB) + SHARED for number in range(5)}
    size = sum(path.stat().st_size for path in write(tmp_path / "scratch", layers).frames)
    assert len(SHARED) < size < len(SHARED) * 1.5  # where the heads are cut differs


def test_the_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    results = [write(tmp_path / str(threads), LAYERS, threads=threads) for threads in (1, 4)]
    assert members(results[0]) == members(results[1])
    assert results[0].info == results[1].info


def test_what_a_base_has_is_taken_from_there(tmp_path: Path) -> None:
    base = {digest_of(b"base"): noise(7, 20 * KIB) + SHARED, digest_of(b"unused"): noise(8, 100 * KIB)}
    new = {digest_of(b"new"): noise(9, 5 * KIB) + SHARED}
    result = write(tmp_path / "scratch", new, base=base)
    held = members(result)
    assert sum(path.stat().st_size for path in result.frames) < len(SHARED) / 2
    assert result.sources == (digest_of(b"base"),)
    opened = store(held, Blobs(base))
    assert content(opened, digest_of(b"new")) == new[digest_of(b"new")]
    opened.close()
    with pytest.raises(VerificationError, match=digest_of(b"base")):
        content(store(held), digest_of(b"new"))


def test_an_encoder_that_is_not_carried(tmp_path: Path) -> None:
    writer = LeanWriter(tmp_path / "scratch", cast("Codec", Nothing()))
    assert not writer.add(digest_of(b""), 20, Encoder("gzip", 6, 0, PGZIP.header), lambda: io.BytesIO(b""))
    assert writer.finish().recipes == {}


def test_without_the_helper_there_are_contents_only(tmp_path: Path) -> None:
    opened = store(members(write(tmp_path / "scratch", LAYERS)))
    with pytest.raises(DependencyError, match="compresses layers again"):
        opened.open_blob(digest_of(b"noise"))


# ------------------------------------------------------------------------------------------ what is damaged


@pytest.fixture
def held(tmp_path: Path) -> dict[str, bytes]:
    return members(write(tmp_path / "scratch", {digest_of(b"noise"): CONTENTS["noise"]}))


def test_a_missing_frame(held: dict[str, bytes]) -> None:
    del held["lean/frames/000001.zst"]
    with pytest.raises(VerificationError, match=r"000001\.zst"):
        content(store(held), digest_of(b"noise"))


@pytest.mark.parametrize("part", [slice(0, 3), slice(0, 100), slice(0, 0)])
def test_a_frame_that_is_cut_off(held: dict[str, bytes], part: slice) -> None:
    held["lean/frames/000000.zst"] = held["lean/frames/000000.zst"][part]
    with pytest.raises(VerificationError):
        content(store(held), digest_of(b"noise"))


def test_a_frame_that_is_another(held: dict[str, bytes]) -> None:
    held["lean/frames/000000.zst"] = zstandard.compress(b"short")
    with pytest.raises(VerificationError, match="names bytes that are not there"):
        content(store(held), digest_of(b"noise"))


def test_recipes_that_are_missing_or_another(held: dict[str, bytes]) -> None:
    opened = store(held)
    assert not opened.has(digest_of(b"other"))
    with pytest.raises(VerificationError, match="no recipe"):
        opened.recipe(digest_of(b"other"))
    name = f"lean/recipes/{digest_of(b'noise').partition(':')[2]}"
    held[f"lean/recipes/{digest_of(b'other').partition(':')[2]}"] = held[name]
    with pytest.raises(VerificationError, match="is that of"):
        store(held).recipe(digest_of(b"other"))
    held[name] = b"no zstd"
    with pytest.raises(VerificationError, match="zstd"):
        store(held).recipe(digest_of(b"noise"))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 3_000_000])
def test_the_size_of_a_frame(size: int) -> None:
    assert content_size(zstandard.ZstdCompressor(level=1).compress(bytes(size))) == size


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\xb5\x2f\xfd",
        b"no frame at all",
        zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000),
        b"\x28\xb5\x2f\xfd\xc0\x88" + (1 << 40).to_bytes(8, "little"),
    ],
)
def test_no_size_of_a_frame(data: bytes) -> None:
    with pytest.raises(VerificationError):
        content_size(data)


# ------------------------------------------------------------------------------------------------- recipes

RECIPE = Recipe(digest_of(b"a"), 5, 30, PGZIP, (digest_of(b"b"),), ((0, 0, 10), (-1, 5, 20)))


def changed(**changes: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps(json.loads(RECIPE.to_bytes()) | changes).encode()


def test_a_recipe_and_back() -> None:
    assert Recipe.from_bytes(RECIPE.to_bytes()) == RECIPE


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"[]",
        b"{",
        changed(version=2),
        changed(more=1),
        changed(digest="sha256:0"),
        changed(digest=5),
        changed(sources=["no digest"]),
        changed(sources=[]),
        changed(sources=5),
        changed(runs=5),
        changed(runs=[5]),
        changed(size=-1),
        changed(raw_size=31),
        changed(raw_size="30"),
        changed(runs=[[0, 0, 30, 1]]),
        changed(runs=[[0, 0]]),
        changed(runs=[[-2, 0, 30]]),
        changed(runs=[[0, -1, 30]]),
        changed(runs=[[0, 0, 40], [0, 0, -10]]),
        changed(runs=[[0, 0, 30.0]]),
        changed(encoder={"name": "unheard of", "level": 1, "block": 0, "header": ""}),
    ],
)
def test_no_recipe(data: bytes) -> None:
    with pytest.raises(InputError):
        Recipe.from_bytes(data)


# ------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("name", CONTENTS)
def test_chunks_are_the_stream(name: str) -> None:
    found = list(chunks.cut(io.BytesIO(CONTENTS[name])))
    assert b"".join(found) == CONTENTS[name]
    assert all(len(chunk) <= chunks.LARGEST for chunk in found)
    assert all(len(chunk) >= chunks.SMALLEST for chunk in found[:-1])


def test_what_is_alike_is_cut_alike() -> None:
    first, second = (set(chunks.cut(io.BytesIO(noise(seed, 30_000) + SHARED))) for seed in (11, 12))
    assert sum(map(len, first & second)) > len(SHARED) - 4 * chunks.LARGEST
