"""Packing from a registry of the tests that has the referrers API, and manifests that real registries refuse."""

from __future__ import annotations

import http.server
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.bundle.verify import verify
from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import Descriptor
from tests.integration import registries
from tests.integration.packed import Maker, cosign_tag, packed, wanted

SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@dataclass
class Odd(http.server.ThreadingHTTPServer):
    """Gives out what is in a layout.

    Attributes:
        maker: has the layout.
        tags: what each tag stands for.
        referrers: what the API lists, by subject.
    """

    maker: Maker
    tags: dict[str, Descriptor] = field(default_factory=dict)
    referrers: dict[str, list[Descriptor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    def known(self, ref: str) -> Descriptor | None:
        """Return a manifest by tag or digest."""
        if ref in self.tags:
            return self.tags[ref]
        path = self.maker.layout.path / "blobs/sha256" / ref.rpartition(":")[2]
        if not oci.is_digest(ref) or not path.is_file():
            return None
        media_type = json.loads(path.read_bytes()).get("mediaType", oci.OCI_MANIFEST)
        return Descriptor(media_type, ref, path.stat().st_size)

    @property
    def host(self) -> str:
        return f"localhost:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Odd

    def do_GET(self) -> None:
        kind, _, ref = self.path.partition("?")[0].rpartition("/")
        layout = self.server.maker.layout
        if kind.endswith("/referrers"):
            found = [one.to_json() for one in self.server.referrers.get(ref, [])]
            self.answer(oci.canonical({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": found}))
        elif kind.endswith("/manifests") and (descriptor := self.server.known(ref)) is not None:
            self.answer(layout.blob_path(descriptor.digest).read_bytes(), descriptor.media_type, descriptor.digest)
        elif kind.endswith("/blobs") and layout.blob_path(ref).is_file():
            data = layout.blob_path(ref).read_bytes()
            begin = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            self.answer(data[int(begin[1]) if begin else 0 :], "application/octet-stream", ref)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, data: bytes, media_type: str = oci.OCI_INDEX, digest: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Odd]:
    server = Odd(Maker(tmp_path / "made"))
    with registries.serving(server):
        yield server


def test_what_the_referrers_api_lists_is_carried(odd: Odd, tmp_path: Path) -> None:
    maker = odd.maker
    image = maker.image("amd64", maker.layer("file", b"content"))
    index = maker.index(image)
    sbom, of_image = maker.artifact(index, b"an SBOM"), maker.artifact(image, b"of the image")
    signed = maker.artifact(sbom, b"signature of the SBOM")
    odd.tags["v1"] = index
    odd.tags[cosign_tag(index, ".sig")] = maker.signature(index)
    odd.referrers = {index.digest: [sbom], image.digest: [of_image], sbom.digest: [signed]}
    with packed(wanted(odd.host, "a/b:v1"), tmp_path) as archive:
        found = {(one.subject, one.root.digest) for one in archive.bundle.images[0].attachments if one.tag is None}
        assert found == {
            (index.digest, sbom.digest),
            (image.digest, of_image.digest),
            (sbom.digest, signed.digest),
        }
        assert cosign_tag(index, ".sig") in {one.tag for one in archive.bundle.images[0].attachments}
        verify(archive)
        assert len(archive.bundle.blobs) == len(list((maker.layout.path / "blobs/sha256").iterdir()))


def test_an_attachment_that_is_listed_and_gone_is_an_error(odd: Odd, tmp_path: Path) -> None:
    image = odd.maker.image("amd64", odd.maker.layer("file", b"content"))
    gone = odd.maker.artifact(image, b"gone")
    odd.maker.layout.blob_path(gone.digest).unlink()
    odd.tags["v1"], odd.referrers = image, {image.digest: [gone]}
    with pytest.raises(NetworkError, match=gone.digest):
        packed(wanted(odd.host, "a/b:v1"), tmp_path)


def test_a_manifest_of_schema_1(odd: Odd, tmp_path: Path) -> None:
    old = odd.maker.layout.put_blob(b'{"schemaVersion":1,"name":"a/b","tag":"v1"}', SCHEMA_1)
    odd.tags["v1"] = old
    with pytest.raises(InputError, match=rf"a/b: {old.digest}: the manifest is of schema 1") as caught:
        packed(wanted(odd.host, "a/b:v1"), tmp_path)
    assert "push it again in a current format" in caught.value.hint


def test_layers_that_may_not_be_passed_on(odd: Odd, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Descriptor(FOREIGN, f"sha256:{7:064x}", 1234)
    own = odd.maker.layer("file", b"content")
    odd.tags["v1"] = odd.maker.image("amd64", foreign, own, os="windows")
    with packed(wanted(odd.host, "a/b:v1"), tmp_path) as archive:
        assert archive.bundle.carries(own.digest)
        assert not archive.bundle.carries(foreign.digest)
        verify(archive)
    assert f"{foreign.digest}: a layer that may not be passed on" in capsys.readouterr().err


def test_a_child_of_another_size_than_its_index_says(odd: Odd, tmp_path: Path) -> None:
    image = odd.maker.image("amd64", odd.maker.layer("file", b"content"))
    odd.tags["v1"] = odd.maker.index(Descriptor(image.media_type, image.digest, image.size + 1, image.platform))
    with pytest.raises(NetworkError, match=rf"{image.digest} has {image.size} bytes, not the {image.size + 1}"):
        packed(wanted(odd.host, "a/b:v1"), tmp_path)
