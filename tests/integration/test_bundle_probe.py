"""Which encoders a real registry's layers have, found out without fetching them."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pipeline import oci
from pipeline.bundle import helper
from pipeline.bundle.assemble import Options
from pipeline.bundle.codec import Codec, Encoder
from pipeline.bundle.images import ImageList
from pipeline.bundle.pack import pack
from pipeline.bundle.probe import probe, probe_registry
from pipeline.core.cache import cache_root
from pipeline.core.errors import NetworkError
from tests.integration import registries
from tests.integration.packed import KIB, PGZIP, Maker, client, cosign_tag, noise, wanted
from tests.integration.registries import Served

GO = Encoder("go-gzip", -1, 0, bytes.fromhex("1f8b08000000000000ff"))
STRANGE = bytes.fromhex("1f8b080007000000020b")  # of a system that nobody has, with a time
LARGE = 6 * 1024 * KIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probing")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with registries.registry(folder / "plain", tls=False) as running:
        push(Maker(folder / "images"), running.host)
        yield running


def text(seed: int, size: int) -> bytes:
    """Return bytes that compress to about half their size."""
    return noise(seed, size // 2).hex().encode()[:size]


def encoded(maker: Maker, encoder: Encoder, content: bytes) -> oci.Descriptor:
    helper.build(cache_root())
    codec = Codec.find()
    assert codec is not None
    path = maker.folder / "content"
    path.write_bytes(content)
    with path.open("rb") as raw, codec.encode(encoder, raw) as stream:
        return maker.layout.put_blob(stream.read(), oci.OCI_LAYER)


def push(maker: Maker, host: str) -> None:
    registry = client(host)
    large = encoded(maker, PGZIP, text(1, LARGE))
    index = maker.index(
        maker.image("amd64", large, encoded(maker, PGZIP, text(2, 900 * KIB))),
        maker.image("arm64", large, encoded(maker, PGZIP, text(2, 900 * KIB) + b"arm64")),
    )
    maker.push(registry, "built/podman", index, "v1")
    maker.push(registry, "built/podman", maker.signature(index), cosign_tag(index, ".sig"))
    maker.push(registry, "built/docker", maker.image("amd64", encoded(maker, GO, text(3, 500 * KIB)), large), "v1")
    gnu = subprocess.run(["gzip", "-6n"], input=text(4, 300 * KIB), capture_output=True, check=True).stdout
    strange = gzip.compress(text(5, 300 * KIB), 1)
    others = [gnu, STRANGE + strange[len(STRANGE) :], zstandard.compress(text(6, 100 * KIB)), b"plain", b""]
    layers = [maker.layout.put_blob(data, oci.OCI_LAYER) for data in others]
    maker.push(registry, "built/otherwise", maker.image("amd64", *layers), "v1")


def test_every_encoder_is_named(served: Served, tmp_path: Path) -> None:
    found = probe_registry(served.host, client, tmp_path / ".store")
    assert found.problems == ()
    assert found.images == 3, "signatures are no images"
    kinds = {one["kind"]: one for one in json.loads(found.to_json())["encoders"]}
    pgzip, go = str(PGZIP), str(GO)
    assert {kind: (one["layers"], one["images"], one["lean"]) for kind, one in kinds.items()} == {
        pgzip: (3, 2, True),
        go: (1, 1, True),
        "gzip at level 6": (1, 1, False),
        "gzip of an unknown encoder": (1, 1, False),
        "zstd": (1, 1, False),
        "neither gzip nor zstd": (1, 1, False),
        "empty": (1, 1, False),
    }
    (unknown,) = [layer.unknown for layer in found.layers if layer.unknown]
    assert (unknown.system, unknown.flag, unknown.time, unknown.header) == (11, 2, 7, STRANGE.hex())
    assert STRANGE.hex() in found.text()
    assert json.loads(found.to_json())["images"] == 3


def test_only_the_beginning_of_a_large_layer_is_read(served: Served, tmp_path: Path) -> None:
    found = probe(wanted(served.host, "built/podman:v1"), client, tmp_path / ".store", sample=0)
    large = max(found.layers, key=lambda one: one.size)
    assert large.size > 2 * 1024 * KIB
    assert large.can_be_lean
    stored = [path for path in (tmp_path / ".store/blobs/sha256").iterdir() if path.stat().st_size > 10 * KIB]
    assert stored == [], "the store takes manifests only"
    assert found.estimate.ratio is None
    assert found.estimate.able == found.size


def test_the_estimate_is_near_what_lean_makes(served: Served, tmp_path: Path) -> None:
    images = ImageList(wanted(served.host, "built/podman:v1").images + wanted(served.host, "built/docker:v1").images)
    found = probe(images, client, tmp_path / ".store")
    one = found.estimate
    assert one.layers == 4
    assert one.sampled == one.able == found.size
    with pack(images, "l", client, tmp_path / ".store", Options(tmp_path, "lean")) as made:
        assert one.total == pytest.approx(made.volumes.size, rel=0.1)
    again = probe(images, client, tmp_path / ".store")
    assert again == found, "out of the store"
    part = probe(images, client, tmp_path / "other", sample=2 * 1024 * KIB)
    assert part.estimate.sampled == 2 * 1024 * KIB
    assert part.estimate.total is not None
    assert part.estimate.total < found.size


def test_an_image_that_cannot_be_read_does_not_end_it(served: Served, tmp_path: Path) -> None:
    names = ("built/none:v1", "built/podman:v1", "built/docker:v7")
    images = ImageList(tuple(one for name in names for one in wanted(served.host, name).images))
    found = probe(images, client, tmp_path / ".store")
    assert found.images == 1
    assert [problem.name.rpartition("/")[2] for problem in found.problems] == ["none:v1", "docker:v7"]
    assert "2 could not be read" in found.text()


def test_a_layer_that_is_gone_is_listed(folder: Path, tmp_path: Path) -> None:
    with registries.registry(folder / "broken", tls=False) as served:
        maker = Maker(tmp_path / "images")
        gone, there = (encoded(maker, PGZIP, text(seed, 100 * KIB)) for seed in (7, 8))
        maker.push(client(served.host), "half/there", maker.image("amd64", gone, there), "v1")
        hexadecimal = gone.digest.partition(":")[2]
        blob = served.root / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        blob.unlink()
        found = probe_registry(served.host, client, tmp_path / ".store")
        assert [layer.digest for layer in found.layers] == [there.digest]
        (problem,) = found.problems
        assert gone.digest in problem.name
        assert found.estimate.layers == 1


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    host = f"localhost:{registries.free_port()}"
    with pytest.raises(NetworkError):
        probe_registry(host, lambda host: client(host, retries=0), tmp_path / ".store")
    found = probe(wanted(host, "a/b:v1"), lambda host: client(host, retries=0), tmp_path / ".store")
    assert (found.images, len(found.problems)) == (0, 1)
