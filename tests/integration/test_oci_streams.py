"""Blobs that are sent from streams, and what a registry lists and deletes: with a real docker-registry."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import Descriptor, Layout, Platform, Registry, RegistryOptions
from tests.integration import registries
from tests.integration.registries import Served

MIB = 1024**2
NOISE = random.Random(12).randbytes(12 * MIB)  # noqa: S311 - just bytes
BLOB = Descriptor(oci.OCI_LAYER, oci.digest_of(NOISE), len(NOISE))
QUICK = {"retries": 3, "timeout": 20.0, "backoff": 0.01, "plain_http": True, "chunk_size": 2 * MIB}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registries.registry(tmp_path_factory.mktemp("streams") / "plain", tls=False) as served:
        yield served


def client(host: str, **changes: object) -> Registry:
    return Registry(host, RegistryOptions(**(QUICK | changes)))  # type: ignore[arg-type]


class Source:
    """Opens streams, and remembers where and whether they were closed."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offsets, self.streams = data, list[int](), list[io.BytesIO]()

    def __call__(self, offset: int) -> io.BytesIO:
        self.offsets.append(offset)
        self.streams.append(io.BytesIO(self.data[offset:]))
        return self.streams[-1]


def fetched(host: str, repo: str) -> bytes:
    stream = io.BytesIO()
    client(host).get_blob(repo, BLOB.digest, stream)
    return stream.getvalue()


@pytest.mark.parametrize("cuts", [[], [5 * MIB], [5 * MIB, 3 * MIB]], ids=["whole", "cut", "cut twice"])
def test_a_stream_is_opened_where_the_registry_has_got_to(plain: Served, cuts: list[int]) -> None:
    faults = registries.Faults(up=list(cuts))
    line = registries.Line(plain.host, faults)
    source, repo = Source(NOISE), f"stream{len(cuts)}"
    with registries.serving(line):
        client(line.host).put_blob(repo, BLOB, source)
    assert faults.broken == len(cuts)
    assert fetched(plain.host, repo) == NOISE
    assert source.offsets[0] == 0
    assert all(stream.closed for stream in source.streams)


@pytest.mark.parametrize(
    ("data", "how"),
    [(NOISE[:-1], "bytes instead of"), (NOISE + b"x", "more than"), (b"x" + NOISE[1:], "another hash")],
    ids=["short", "long", "other"],
)
def test_a_stream_that_is_not_the_blob(plain: Served, data: bytes, how: str) -> None:
    with pytest.raises(InputError, match=how):
        client(plain.host).put_blob("wrong", BLOB, Source(data))
    assert not client(plain.host).has_blob("wrong", BLOB.digest)


def test_an_upload_of_an_earlier_process(plain: Served) -> None:
    """It is gone on with, or begun anew if the registry has forgotten it: whole it is in the end."""
    begun: list[str] = []
    line = registries.Line(plain.host, registries.Faults(up=[5 * MIB]))
    with registries.serving(line):
        with pytest.raises(NetworkError):
            client(line.host, retries=0).put_blob("earlier", BLOB, Source(NOISE), on_begun=begun.append)
        assert begun
        client(line.host).put_blob("earlier", BLOB, Source(NOISE), begun=begun[-1])
    assert fetched(plain.host, "earlier") == NOISE
    forgotten = f"/v2/forgotten/blobs/uploads/{'0' * 8}-0000-0000-0000-{'0' * 12}?_state=none"
    client(plain.host).put_blob("forgotten", BLOB, Source(NOISE), begun=f"http://{plain.host}{forgotten}")
    assert fetched(plain.host, "forgotten") == NOISE


def test_lists_and_deletes(plain: Served, tmp_path: Path) -> None:
    layout, registry = Layout.create(tmp_path / "layout"), client(plain.host)
    config = layout.put_blob(b"{}", oci.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": config.to_json(), "layers": []}
    root = layout.put_manifest(manifest, oci.OCI_MANIFEST, Platform("linux", "amd64"))
    for tag in ("v1", "v2"):
        oci.push(layout, registry, "lists/app", tag, root=root)
    assert "lists/app" in registry.catalog()
    fallback = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [root.to_json()]}
    subject = oci.digest_of(b"a subject")
    registry.put_manifest("lists/app", oci.fallback_tag(subject), oci.canonical(fallback), oci.OCI_INDEX)
    found = registry.referrers("lists/app", subject)
    assert (found.has_api, [one.digest for one in found.found]) == (False, [root.digest])
    assert registry.referrers("lists/app", oci.digest_of(b"another")).found == ()
    registry.delete_manifest("lists/app", root.digest)
    assert registry.head_manifest("lists/app", "v1") is None
    with pytest.raises(oci.NotThereError):
        registry.delete_manifest("lists/app", root.digest)
