"""The helper against real layers: what made them is named and makes them again byte for byte, or is not trusted."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pipeline import oci
from pipeline.bundle import helper
from pipeline.bundle.codec import CARRIED, Codec, Encoder, piped, unzstd
from pipeline.bundle.identify import header_of, identify, prove
from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.core.cache import cache_root
from pipeline.core.errors import ToolError, VerificationError
from tests.bundles import images, tools
from tests.integration import registries

MIB = 1024**2
PGZIP = bytes.fromhex("1f8b080000096e8800ff")
GO = bytes.fromhex("1f8b08000000000000ff")
# What each tool's layers are made by: encoder, level, block.
MADE_BY = {
    "buildah": ("pgzip", -1, MIB),
    "podman": ("pgzip", -1, MIB),
    "skopeo": ("pgzip", -1, MIB),
    "umoci": ("pgzip", -1, MIB // 4),
    "docker": ("go-gzip", -1, 0),
    "ko": ("go-gzip", 1, 0),
}


@pytest.fixture(scope="module")
def codec() -> Codec:
    helper.build(cache_root())
    found = Codec.find()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(scratch: Path) -> images.Made:
    return images.make(scratch / "images", small=True)


@pytest.fixture(scope="module")
def content() -> bytes:
    """What layers hold: programs, text, nothing at all, and what is compressed already."""
    numbers = random.Random(5)  # noqa: S311 - the same each time
    text = b"".join(b"%d words and numbers %d\n" % (i, numbers.getrandbits(40)) for i in range(60_000))
    return Path(sys.executable).resolve().read_bytes()[: 2 * MIB] + bytes(2 * MIB) + text + numbers.randbytes(MIB)


def named(data: bytes, codec: Codec) -> Encoder | None:
    return identify(lambda: io.BytesIO(data), len(data), codec)


def proven(encoder: Encoder | None, data: bytes, codec: Codec) -> bool:
    return encoder is not None and prove(encoder, lambda: io.BytesIO(data), oci.digest_of(data), codec)


def encoded(encoder: Encoder, raw: bytes, codec: Codec) -> bytes:
    with codec.encode(encoder, io.BytesIO(raw)) as stream:
        return stream.read()


# --- layers of real tools


@pytest.mark.parametrize("tool", MADE_BY)
def test_every_layer_of_a_tool_is_made_again(tool: str, made: images.Made, codec: Codec) -> None:
    layers = made.layers(tool)
    assert layers
    for layer in layers:
        path = made.layout.blob_path(layer.digest)
        encoder = identify(lambda path=path: path.open("rb"), layer.size, codec)  # type: ignore[misc]
        assert encoder is not None
        assert (encoder.name, encoder.level, encoder.block) == MADE_BY[tool]
        assert prove(encoder, lambda path=path: path.open("rb"), layer.digest, codec)  # type: ignore[misc]


def test_layers_of_zstd_have_no_encoder(made: images.Made, codec: Codec) -> None:
    for layer in made.layers("zstd"):
        path = made.layout.blob_path(layer.digest)
        assert identify(lambda path=path: path.open("rb"), layer.size, codec) is None  # type: ignore[misc]


@pytest.mark.root
def test_a_layer_that_docker_pushed_is_made_again(scratch: Path, content: bytes, codec: Codec) -> None:
    if not shutil.which("dockerd") or not shutil.which("docker"):
        pytest.skip("docker is not installed")
    place = scratch / "docker"
    place.mkdir()
    (place / "file").write_bytes(content)
    subprocess.run(["tar", "-cf", place / "layer.tar", "-C", place, "file"], check=True)
    words: list[str | Path] = ["dockerd", "--data-root", place / "data", "--exec-root", place / "exec"]
    words += ["--pidfile", place / "pid", "--host", f"unix://{place}/socket"]
    words += ["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"]
    docker = ["docker", "--host", f"unix://{place}/socket"]

    def answers() -> bool:
        return subprocess.run([*docker, "info"], capture_output=True, check=False).returncode == 0

    with registries.registry(place / "registry", tls=False) as site:
        image = f"{site.host}/from-docker:v1"
        with process.background(words, output=place / "log") as daemon:
            try:
                while daemon.poll() is None and not answers():
                    time.sleep(0.1)
                if daemon.poll() is not None:
                    pytest.skip(f"dockerd does not run here: {(place / 'log').read_text()[-300:]}")
                for arguments in (["import", str(place / "layer.tar"), image], ["push", image]):
                    subprocess.run([*docker, *arguments], check=True, capture_output=True, timeout=60)
            finally:
                daemon.terminate()  # so that it ends its containerd
                daemon.wait(30)
        registry = oci.Registry(site.host, oci.RegistryOptions(plain_http=True))
        _, manifest = registry.get_manifest("from-docker", "v1")
        layer = io.BytesIO()
        registry.get_blob("from-docker", json.loads(manifest)["layers"][0]["digest"], layer)
    encoder = named(layer.getvalue(), codec)
    assert encoder is not None
    assert (encoder.name, encoder.level) == ("go-gzip", -1)
    assert proven(encoder, layer.getvalue(), codec)


def test_the_images_reach_a_registry_as_they_are(made: images.Made, scratch: Path) -> None:
    assert made.layout.verify()
    with registries.registry(scratch / "registry", tls=False) as site:
        registry = oci.Registry(site.host, oci.RegistryOptions(plain_http=True))
        references = images.push_all(made, registry)
        for image, reference in zip(made.images, references, strict=True):
            words = ("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
            assert oci.digest_of(registries.skopeo(scratch, *words).encode()) == image.root.digest
            for part in image.attachments:
                found = registry.head_manifest(image.spec.repository, part.tag or part.root.digest)
                assert found is not None
                assert found.digest == part.root.digest


def test_signatures_are_what_cosign_checks(made: images.Made) -> None:
    image = made.image("platform/certificates:v1")
    key = load_pem_public_key(made.public_key.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signed = [part for part in image.attachments if part.tag and part.tag.endswith(".sig")]
    children = oci.links(made.layout.read(image.root.digest), image.root.media_type).manifests
    assert {part.subject for part in signed} == {image.root.digest, *(child.digest for child in children)}
    for part in signed:
        (layer,) = json.loads(made.layout.read(part.root.digest))["layers"]
        payload = made.layout.read(layer["digest"])
        signature = base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"])
        key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        assert json.loads(payload)["critical"]["image"]["docker-manifest-digest"] == part.subject


# --- encoders, levels, headers


@pytest.mark.parametrize("level", [-1, 1, 2, 3, 4, 5, 6, 7, 8, 9, -2])
@pytest.mark.parametrize(
    ("name", "block"), [("pgzip", MIB), ("pgzip", MIB // 4), ("go-gzip", 0), ("klauspost-gzip", 0)]
)
def test_every_level_is_found(name: str, block: int, level: int, content: bytes, codec: Codec) -> None:
    first = PGZIP if name == "pgzip" else GO
    header = first[:8] + bytes([{9: 2, 1: 4}.get(level, 0)]) + first[9:]
    data = encoded(Encoder(name, level, block, header), content, codec)
    assert gzip.decompress(data) == content
    encoder = named(data, codec)
    assert encoder is not None
    assert (encoder.name, encoder.block, encoder.header) == (name, block, header)
    assert proven(encoder, data, codec)


@pytest.mark.parametrize(
    "header",
    [
        PGZIP[:3] + b"\x08" + PGZIP[4:] + b"layer.tar\0",
        GO[:3] + b"\x18" + GO[4:] + b"layer.tar\0made on a Monday\0",
        GO[:3] + b"\x04" + GO[4:] + b"\x06\x00AB\x02\x00xy",
        GO[:4] + b"\x01\x02\x03\x04" + GO[8:],
        GO[:9] + b"\x03",
    ],
)
def test_any_header_is_kept(header: bytes, content: bytes, codec: Codec) -> None:
    name, block = ("pgzip", MIB) if header[4:8] == PGZIP[4:8] else ("go-gzip", 0)
    data = encoded(Encoder(name, -1, block, header), content, codec)
    assert gzip.decompress(data) == content
    encoder = named(data, codec)
    assert encoder == Encoder(name, -1, block, header)
    assert proven(encoder, data, codec)


@pytest.mark.parametrize("raw", [b"", bytes(1024), b"x", bytes(MIB), bytes(MIB // 4), bytes(50 * MIB)])
@pytest.mark.parametrize(("name", "block", "header"), [("pgzip", MIB, PGZIP), ("go-gzip", 0, GO)])
def test_layers_of_next_to_nothing_are_made_again(
    name: str, block: int, header: bytes, raw: bytes, codec: Codec
) -> None:
    data = encoded(Encoder(name, -1, block, header), raw, codec)
    encoder = named(data, codec)
    assert encoder is not None
    assert encoder.name == name
    assert proven(encoder, data, codec)


# --- what is only a name, and what is nothing


@pytest.mark.parametrize("words", [["gzip", "-1"], ["gzip"], ["gzip", "-9"], ["pigz"]])
def test_other_programs_are_named_at_most(words: list[str], content: bytes, codec: Codec) -> None:
    path, settings = tools.program(words[0])
    env = os.environ | dict(settings)
    data = subprocess.run([path, *words[1:]], input=content, env=env, capture_output=True, check=True).stdout
    encoder = named(data, codec)
    assert encoder is None or encoder.name not in CARRIED
    if words[0] == "gzip":
        assert encoder is not None
        assert encoder.name == "gzip"
    assert not proven(encoder, data, codec)


@pytest.mark.parametrize("level", [1, 4, 6, 9])
def test_zlib_is_named(level: int, content: bytes, codec: Codec) -> None:
    for data in (gzip.compress(content, level), _zlib(content, level)):
        encoder = named(data, codec)
        assert encoder is not None
        assert (encoder.name, encoder.level) == ("zlib", level)
        assert not proven(encoder, data, codec)


def _zlib(content: bytes, level: int) -> bytes:
    deflate = zlib.compressobj(level, zlib.DEFLATED, 31)
    return deflate.compress(content) + deflate.flush()


# As small as a trial, and larger: the end is seen, or it is not.
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "without its trailer": lambda data: data[:-8],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "two members": lambda data: data + data,
    "an empty member more": lambda data: data + gzip.compress(b""),
    "garbage behind": lambda data: data + b"\0",
    "a wrong checksum": lambda data: data[:-8] + bytes(4) + data[-4:],
    "a flipped bit": lambda data: data[:-99] + bytes([data[-99] ^ 1]) + data[-98:],
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("size", [100_000, 100_000_000])
def test_what_is_not_one_whole_stream_is_not_proven(what: str, size: int, content: bytes, codec: Codec) -> None:
    whole = encoded(Encoder("pgzip", -1, MIB, PGZIP), content[:size], codec)
    data = BROKEN[what](whole)
    encoder = named(data, codec)
    assert not proven(encoder, data, codec)
    if size == 100_000:
        assert encoder is None


def test_what_is_no_gzip_has_no_encoder(content: bytes, codec: Codec) -> None:
    noise = random.Random(7).randbytes(MIB)  # noqa: S311
    compressed = zstandard.ZstdCompressor().compress(content)
    for data in (b"", b"\x1f", PGZIP, PGZIP + b"\0", noise, GO + noise, compressed, content):
        assert named(data, codec) is None


def test_a_stream_whose_end_another_encoder_made_is_not_proven(content: bytes, codec: Codec) -> None:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    start = encoded(Encoder("pgzip", -1, MIB, PGZIP), content, codec)
    inflate = zlib.decompressobj(31)
    head = inflate.decompress(start[: len(start) - 200_000])  # blocks end at a byte, but where is not known to us
    rest = content[len(head) :]
    data = PGZIP + start[10 : len(start) - 200_000] + deflate.compress(rest) + deflate.flush()
    assert not proven(named(data, codec), data, codec)


# --- the helper itself


def test_the_helper_tells_what_it_is_made_of(codec: Codec) -> None:
    said = codec.describe()
    assert {encoder["name"] for encoder in said["encoders"]} == CARRIED
    assert said["go"].startswith("go1.")
    assert codec.id == hashlib.sha256(codec.program.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["unknown"],
        ["encode"],
        ["encode", "--name", "zlib", "--header", GO.hex()],
        ["encode", "--name", "go-gzip", "--header", "1f8b"],
        ["encode", "--name", "go-gzip", "--header", "x" * 20],
        ["encode", "--name", "go-gzip", "--level", "10", "--header", GO.hex()],
        ["encode", "--name", "pgzip", "--block", "10", "--header", GO.hex()],
        ["encode", "--name", "go-gzip", "--header", GO.hex(), "more"],
        ["encode", "--surprise"],
    ],
)
def test_the_helper_refuses_what_cannot_be_meant(words: list[str], codec: Codec) -> None:
    done = subprocess.run([codec.program, *words], input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"helper: ")
    assert done.stderr.count(b"\n") == 1


def test_the_helper_says_that_its_output_is_not_wanted(codec: Codec) -> None:
    words: list[str | Path] = [codec.program, "encode", "--name", "go-gzip", "--header", GO.hex()]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, input=os.urandom(3 * MIB), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"no space left" in done.stderr


def test_a_helper_that_dies_is_told(codec: Codec, content: bytes) -> None:
    stream = piped(["sh", "-c", "kill -9 $$"], io.BytesIO(content), what="making gzip again")
    with stream, pytest.raises(ToolError):
        stream.read()
    encoder = Encoder("pgzip", -1, 10, PGZIP)  # a block that the library refuses
    with codec.encode(encoder, io.BytesIO(content)) as refused, pytest.raises(ToolError, match="block size"):
        refused.read()


def test_the_helper_reads_zstd_where_python_cannot(
    content: bytes, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(9, window_log=27, write_checksum=True)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    frame = packer.compress(content) + packer.flush()  # its size is not known when it begins: the window is all of it
    assert zstandard.get_frame_parameters(frame).window_size == 128 * MIB
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert unzstd(frame, len(content), codec) == content
    for broken in (frame[:-1], frame[: len(frame) // 2], b"", b"x" + frame, frame[:-1] + bytes([frame[-1] ^ 1])):
        with pytest.raises(VerificationError):
            unzstd(broken, len(content), codec)
    for size in (0, len(content) - 1, len(content) + 1):
        with pytest.raises(VerificationError):
            unzstd(frame, size, codec)


def test_both_architectures_write_the_same_bytes(content: bytes, codec: Codec) -> None:
    arch = next(one for one in Architecture if one is not Architecture.host())
    emulator = shutil.which(f"qemu-{arch.qemu}-static")
    if emulator is None:
        pytest.skip(f"qemu-{arch.qemu}-static is not installed")
    other = helper.build(cache_root())[arch]
    raw = content[: 3 * MIB] + content[-MIB:]
    for encoder in (
        Encoder("pgzip", -1, MIB, PGZIP),
        Encoder("pgzip", 9, MIB // 4, PGZIP),
        Encoder("go-gzip", -1, 0, PGZIP),
        Encoder("klauspost-gzip", 1, 0, PGZIP),
    ):
        words = ["encode", "--name", encoder.name, "--level", str(encoder.level), "--block", str(encoder.block)]
        words += ["--header", encoder.header.hex()]
        done = subprocess.run([emulator, other, *words], input=raw, capture_output=True, check=True)
        assert done.stdout == encoded(encoder, raw, codec)
        assert header_of(done.stdout) == PGZIP


def test_the_helper_is_written_as_gofmt_writes() -> None:
    found = shutil.which("gofmt") or next(iter(map(str, sorted(helper.SYSTEM_GO.glob("go-1.*/bin/gofmt")))), None)
    if found is None:
        pytest.skip("gofmt is not installed")
    done = subprocess.run([found, "-l", *sorted(helper.SOURCES.glob("*.go"))], capture_output=True, check=True)
    assert done.stdout == b""


@pytest.mark.network
@pytest.mark.slow
def test_a_machine_without_go_builds_the_same_helper(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("apt-get"):
        pytest.skip("there is no apt")
    monkeypatch.setattr(helper, "SYSTEM_GO", scratch / "nowhere")
    monkeypatch.setattr(helper, "SYSTEM_LIBRARIES", scratch / "nowhere")
    built = helper.build(scratch / "cache-of-helper")
    assert built == helper.built(scratch / "cache-of-helper")
    usual = helper.build(cache_root())
    if b"go1.19" in usual[Architecture.host()].read_bytes():
        for arch in Architecture:
            assert built[arch].read_bytes() == usual[arch].read_bytes()
