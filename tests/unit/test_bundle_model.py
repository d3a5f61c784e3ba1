"""``bundle.json``: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline import oci
from pipeline.bundle.model import Blob, Bundle, HeadFile, LeanInfo, Volume, is_name
from pipeline.core.errors import InputError
from tests.unit.bundles import Made, described

HEX = "a" * 64
LEAN = LeanInfo(HEX, ({"name": "pgzip", "level": 6},), {"name": "pyfastcdc", "avg": 16384}, {"level": 9})


@pytest.fixture(scope="module")
def full() -> Bundle:
    bundle = described(Made(1))
    return bundle.with_volumes([Volume("v1.bundle.001", 10, HEX)], [HeadFile("index.json", 3, HEX)])


def test_it_is_read_as_it_was_written(full: Bundle) -> None:
    made = Made(1)
    patch = described(made, left=(made.layers[0],))
    stored = replace(full, store="lean", lean=LEAN, blobs=tuple(replace(one, stored="lean") for one in full.blobs))
    for bundle in (full, patch, stored):
        again = Bundle.from_bytes(bundle.to_bytes())
        assert again == bundle
        assert again.id == oci.digest_of(bundle.to_bytes())
    assert full.total == sum(map(len, made.blobs.values()))
    assert [full.carries(made.layers[0]), patch.carries(made.layers[0])] == [True, False]
    assert [root.digest for root in full.images[0].roots] == [made.image.manifests[0], made.image.manifests[-1]]


@pytest.mark.parametrize(("name", "good"), [("v1.2.0", True), ("a" * 64, True), ("a" * 65, False), ("", False)])
def test_names(name: str, good: bool) -> None:
    assert is_name(name) is good


@pytest.mark.parametrize("name", ["../v1", ".v1", "-v1", "v 1", "v/1", "v1\n", "版本"])
def test_names_that_are_none(name: str) -> None:
    assert not is_name(name)


def _set(*path: Any) -> Callable[[Any], None]:  # noqa: ANN401
    *way, last, new = path

    def change(value: Any) -> None:  # noqa: ANN401
        for step in way:
            value = value[step]
        if new is KeyError:
            del value[last]
        else:
            value[last] = new

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("version", 2), "of version 2; known is 1"),
        (_set("version", "1"), "of version '1'"),
        (_set("unknown", 1), "bundle.json: key 'unknown' is not known"),
        (_set("images", 0, "more", 1), r"images\[0\]: key 'more' is not known"),
        (_set("store", KeyError), "key 'store' is missing"),
        (_set("kind", "half"), "kind: 'half' is none of full, patch, upgrade"),
        (_set("store", "zip"), "store: 'zip' is none of plain, lean"),
        (_set("name", "../v1"), "name: '../v1' is not a name"),
        (_set("created", "yesterday"), "created: 'yesterday' is not a time"),
        (_set("images", {}), "images: "),
        (_set("images", 0, "source", "\x1b[2J"), "characters that cannot be shown"),
        (_set("images", 0, "repository", "../etc"), "is not a repository"),
        (_set("images", 0, "tags", ["-v"]), "is not a tag"),
        (_set("images", 0, "root", "digest", "sha256:1"), r"images\[0\].root: "),
        (_set("images", 0, "root", "artifactType", "x"), "canonical"),
        (_set("images", 0, "platforms", ["linux"]), "is not a platform"),
        (_set("images", 0, "manifests", ["md5:0"]), "is not a digest"),
        (_set("blobs", 0, "size", -1), r"blobs\[0\].size: is not a size"),
        (_set("blobs", 0, "size", True), "is not a size"),
        (_set("blobs", 0, "size", 1.0), "is not a size"),
        (_set("blobs", 0, "stored", "lean"), "lean: is null, but blobs are stored lean"),
        (_set("base", "bundles", [{"id": "x", "name": "v0"}]), "is not a digest"),
        (_set("volumes", 0, "name", "../v1.bundle.001"), "is not a file's name"),
        (_set("volumes", 0, "sha256", HEX.upper()), "is not a sha256"),
        (_set("files", 0, "path", 1), "is not a text"),
        (_set("lean", []), "lean: is not an object"),
    ],
)
def test_what_is_none(full: Bundle, change: Callable[[Any], None], message: str) -> None:
    value = json.loads(full.to_bytes())
    change(value)
    with pytest.raises(InputError, match=message) as caught:
        Bundle.from_bytes(oci.canonical(value))
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\xff", b"[1]", b"1", b"[" * 100_000, b'{"version": 1'])
def test_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(InputError, match=r"bundle\.json is"):
        Bundle.from_bytes(data)


def test_only_the_canonical_form_is_read(full: Bundle) -> None:
    with pytest.raises(InputError, match="canonical"):
        Bundle.from_bytes(full.to_bytes() + b"\n")


def test_what_is_there_twice(full: Bundle) -> None:
    other = replace(full.images[0], root=Made(2).image.root)
    for bundle, message in (
        (replace(full, images=(full.images[0], other)), "two images are called platform/app:v1"),
        (replace(full, blobs=(full.blobs[0], Blob(full.blobs[0].digest, 1, "plain"))), "is there twice"),
        (replace(full, volumes=full.volumes * 2), "v1.bundle.001 is there twice"),
    ):
        with pytest.raises(InputError, match=message):
            Bundle.from_bytes(bundle.to_bytes())
