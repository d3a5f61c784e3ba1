"""Our registry client against a real docker-registry, and skopeo as the second opinion."""

from __future__ import annotations

import io
import json
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
NOISE = random.Random(11).randbytes(24 * MIB)  # noqa: S311 - just bytes
QUICK = {"retries": 3, "timeout": 20.0, "backoff": 0.01}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registries")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A registry with TLS and a password."""
    with registries.registry(folder / "secure", password=True) as running:
        yield running


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Served]:
    """A registry without both."""
    with registries.registry(folder / "plain", tls=False) as running:
        yield running


def client(served: Served, **changes: object) -> Registry:
    known = {"ca": served.ca, "auth_file": served.auth_file, "plain_http": served.ca is None}
    return Registry(served.host, RegistryOptions(**(QUICK | known | changes)))  # type: ignore[arg-type]


def make_image(folder: Path) -> tuple[Layout, Descriptor]:
    """Make an index of two images that share a layer."""
    layout = Layout.create(folder / "layout")
    shared = oci.write_layer([oci.LayerEntry("payload/shared", b"for both" * 1000)], folder / "shared.tar.gz")
    images = []
    for arch in ("amd64", "arm64"):
        own = oci.write_layer([oci.LayerEntry(f"payload/bin/{arch}", arch.encode(), 0o755)], folder / f"{arch}.tar.gz")
        layers = [layout.put_file(folder / f"{name}.tar.gz", oci.OCI_LAYER) for name in ("shared", arch)]
        config = {
            "os": "linux",
            "architecture": arch,
            "config": {"Cmd": ["/payload"]},
            "rootfs": {"type": "layers", "diff_ids": [shared.diff_id, own.diff_id]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": layout.put_blob(oci.canonical(config), oci.OCI_CONFIG).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        images.append(layout.put_manifest(manifest, oci.OCI_MANIFEST, Platform("linux", arch)))
    index = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image.to_json() for image in images]}
    top = layout.put_manifest(index, oci.OCI_INDEX, annotations={oci.REF_NAME: "v1"})
    layout.set_index([top])
    return layout, top


@pytest.fixture(scope="module")
def image(folder: Path) -> tuple[Layout, Descriptor]:
    return make_image(folder)


BLOBS, MANIFESTS = 5, 3  # two configurations, two layers of their own and a shared one; two images and their index


def blobs(layout: Layout) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout.path / "blobs/sha256").iterdir()}


# ------------------------------------------------------------------------------------------ there and back


def test_push_and_pull(served: Served, image: tuple[Layout, Descriptor], tmp_path: Path) -> None:
    (layout, top), registry = image, client(served)
    told: list[str] = []
    first = oci.push(layout, registry, "platform/installer", "v1", lambda what, _: told.append(what))
    assert (first.digest, first.uploaded, first.skipped) == (top.digest, BLOBS + MANIFESTS, 0)
    assert told == ["uploaded"] * (BLOBS + MANIFESTS)
    assert first.uploaded_bytes == sum(map(len, blobs(layout).values()))
    again = oci.push(layout, registry, "platform/installer", "v1")
    assert (again.uploaded, again.skipped, again.skipped_bytes) == (0, BLOBS + MANIFESTS, first.uploaded_bytes)
    mounted = oci.push(layout, registry, "other", None, mount_from=["platform/installer"])
    assert (mounted.uploaded, mounted.mounted) == (MANIFESTS, BLOBS)
    assert registry.tags("platform/installer") == ("v1",)
    assert registry.tags("nobody/knows") == ()
    assert registry.has_repository("platform/installer")
    assert not registry.has_repository("nobody/knows")
    assert registry.tags("other") == ()
    assert registry.head_manifest("platform/installer", "v1") == Descriptor(top.media_type, top.digest, top.size)

    back = Layout.create(tmp_path / "back")
    pulled = oci.pull(registry, "platform/installer", "v1", back)
    assert (pulled.downloaded, pulled.skipped) == (BLOBS + MANIFESTS, 0)
    assert blobs(back) == blobs(layout)
    assert back.index() == (top,)
    assert len(back.verify()) == BLOBS + MANIFESTS
    damaged = back.blob_path(layout.verify()[0].digest)
    damaged.write_bytes(bytes(damaged.stat().st_size))
    repaired = oci.pull(registry, "platform/installer", top.digest, back, name="v1")
    assert (repaired.downloaded, repaired.skipped) == (1, BLOBS + MANIFESTS - 1)
    assert blobs(back) == blobs(layout)


def test_one_image_of_an_index(served: Served, image: tuple[Layout, Descriptor], tmp_path: Path) -> None:
    layout, top = image
    registry, back = client(served), Layout.create(tmp_path / "back")
    oci.push(layout, registry, "platform/one", "v1")
    arm64 = oci.links(layout.read(top.digest), top.media_type).manifests[1]
    assert oci.pull(registry, "platform/one", arm64.digest, back).downloaded == 4
    assert [found.digest for found in back.index()] == [arm64.digest]
    back.verify()


def test_a_real_token_server(folder: Path, image: tuple[Layout, Descriptor]) -> None:
    tokens = registries.TokenServer(folder)
    with registries.serving(tokens), registries.registry(folder / "token", tls=False, token=tokens) as served:
        registry = client(served)
        oci.push(image[0], registry, "a", "v1", mount_from=["b"])
        assert oci.push(image[0], registry, "c", "v1", mount_from=["a"]).mounted == BLOBS
        assert registry.tags("c") == ("v1",)
        scopes = [tuple(query["scope"]) for query in tokens.asked]
        assert ("repository:c:pull,push", "repository:a:pull") in scopes
        assert len(scopes) == len(set(scopes)), "one token for each scope"
        wrong = registries.auth_file(folder / "wrong.json", served.host, password="wrong-word")
        for auth in (wrong, None):
            with pytest.raises(NetworkError, match=r"its token server .* refuses: HTTP status 401") as caught:
                client(served, auth_file=auth).tags("a")
            assert "podman login" in caught.value.hint
            assert "wrong-word" not in caught.value.message


def test_every_tag_of_many(plain: Served, image: tuple[Layout, Descriptor]) -> None:
    registry = client(plain)
    data = image[0].read(image[1].digest)
    oci.push(image[0], registry, "many", None)
    names = sorted(f"t{number}" for number in range(7))
    for name in names:
        registry.put_manifest("many", name, data, image[1].media_type)
    assert registry.tags("many") == tuple(names)


# -------------------------------------------------------------------------------------- a second opinion


def test_skopeo_keeps_every_digest(
    served: Served, image: tuple[Layout, Descriptor], folder: Path, tmp_path: Path
) -> None:
    layout, top = image
    assert served.ca is not None
    assert served.auth_file is not None
    certificates = tmp_path / "certs"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(served.ca.read_bytes())
    copy = ("copy", "--all", "--preserve-digests", "--authfile", served.auth_file)
    theirs = f"docker://{served.host}/theirs:v1"
    registries.skopeo(folder, *copy, "--dest-cert-dir", certificates, f"oci:{layout.path}:v1", theirs)
    back = Layout.create(tmp_path / "back")
    assert oci.pull(client(served), "theirs", "v1", back).descriptor.digest == top.digest
    assert blobs(back) == blobs(layout)

    oci.push(layout, client(served), "ours", "v1")
    ours = f"docker://{served.host}/ours:v1"
    registries.skopeo(folder, *copy, "--src-cert-dir", certificates, ours, f"oci:{tmp_path}/skopeo:v1")
    fetched = Layout.open(tmp_path / "skopeo")
    assert [found.digest for found in fetched.index()] == [top.digest]
    assert blobs(fetched) == blobs(layout)
    fetched.verify()
    raw = registries.skopeo(
        folder, "inspect", "--raw", "--authfile", served.auth_file, "--cert-dir", certificates, ours
    )
    assert raw.encode() == layout.read(top.digest)


# ------------------------------------------------------------------------------------ a line that breaks


@pytest.fixture
def blob(tmp_path: Path) -> tuple[Path, Descriptor]:
    path = tmp_path / "blob"
    path.write_bytes(NOISE)
    return path, Descriptor(oci.OCI_LAYER, oci.digest_of(NOISE), len(NOISE))


@pytest.mark.parametrize(
    "cuts",
    [[0], [5 * MIB], [5 * MIB, 6 * MIB, 9 * MIB]],
    ids=["at-once", "once", "thrice"],
)
def test_an_upload_goes_on(plain: Served, blob: tuple[Path, Descriptor], cuts: list[int]) -> None:
    faults = registries.Faults(up=list(cuts))
    line = registries.Line(plain.host, faults)
    repo = f"up{len(cuts)}-{cuts[0]}"
    with registries.serving(line):
        registry = Registry(line.host, RegistryOptions(plain_http=True, chunk_size=2 * MIB, **QUICK))  # type: ignore[arg-type]
        registry.put_blob(repo, blob[1], blob[0])
    assert (faults.up, faults.broken) == ([], len(cuts))
    stream = io.BytesIO()
    assert client(plain).get_blob(repo, blob[1].digest, stream) == len(NOISE)
    assert stream.getvalue() == NOISE


def test_a_download_goes_on(plain: Served, blob: tuple[Path, Descriptor], tmp_path: Path) -> None:
    client(plain).put_blob("down", blob[1], blob[0])
    cuts = [5 * MIB, 6 * MIB, MIB]
    for target in (tmp_path / "fetched", io.BytesIO()):
        faults = registries.Faults(down=list(cuts))
        line = registries.Line(plain.host, faults)
        with registries.serving(line):
            registry = Registry(line.host, RegistryOptions(plain_http=True, **QUICK))  # type: ignore[arg-type]
            assert registry.get_blob("down", blob[1].digest, target, size=len(NOISE)) == len(NOISE)
        assert (target.read_bytes() if isinstance(target, Path) else target.getvalue()) == NOISE
        assert faults.broken == len(cuts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob", "fetched"]


def test_an_interrupted_download_is_taken_up(plain: Served, blob: tuple[Path, Descriptor], tmp_path: Path) -> None:
    client(plain).put_blob("left", blob[1], blob[0])
    target, part = tmp_path / "fetched", tmp_path / ".fetched.part"
    for left in (NOISE[: 7 * MIB], b"something else", NOISE + b"more", NOISE):
        part.write_bytes(left)
        assert client(plain).get_blob("left", blob[1].digest, target, size=len(NOISE)) == len(NOISE)
        assert target.read_bytes() == NOISE
        assert not part.exists()
        target.unlink()


# ---------------------------------------------------------------------------------------- what is refused


def test_wrong_authority(served: Served, folder: Path) -> None:
    other, _ = registries.certificate(folder, "other")
    for ca in (other, None):
        with pytest.raises(NetworkError, match="the registry's certificate is not trusted") as caught:
            client(served, ca=ca).tags("a")
        assert "authority" in caught.value.hint
    assert client(served, ca=None, insecure_tls=True).tags("nobody/knows") == ()
    with pytest.raises(InputError, match="there is no such certificate"):
        client(served, ca=folder / "none.pem")


def test_wrong_credentials(served: Served, image: tuple[Layout, Descriptor], folder: Path) -> None:
    wrong = registries.auth_file(folder / "wrong.json", served.host, password="wrong-word")
    for auth in (wrong, None):
        with pytest.raises(NetworkError, match="credentials are missing or wrong: HTTP status 401") as caught:
            oci.push(image[0], client(served, auth_file=auth), "a", "v1")
        assert "podman login" in caught.value.hint
        assert "wrong-word" not in caught.value.message + caught.value.hint


def test_wrong_protocol(served: Served, plain: Served) -> None:
    with pytest.raises(NetworkError, match="no TLS is spoken there") as caught:
        client(plain, plain_http=False).tags("a")
    assert "plain HTTP" in caught.value.hint
    with pytest.raises(NetworkError, match="HTTP status 400"):
        client(served, plain_http=True).tags("a")


def test_nobody_listens() -> None:
    host = f"localhost:{registries.free_port()}"
    with pytest.raises(NetworkError, match=r"Connection refused \(tried 2 times\)") as caught:
        Registry(host, RegistryOptions(retries=1)).tags("a")
    assert "runs" in caught.value.hint


def test_what_is_not_there(plain: Served, image: tuple[Layout, Descriptor], tmp_path: Path) -> None:
    registry = client(plain)
    digest = oci.digest_of(b"nobody has it")
    assert registry.head_manifest("a", "none") is None
    assert not registry.has_blob("a", digest)
    assert not registry.mount_blob("a", digest, "b")
    with pytest.raises(oci.NotThereError, match=r"not there: HTTP status 404 .*MANIFEST_UNKNOWN"):
        registry.get_manifest("a", "none")
    with pytest.raises(oci.NotThereError, match="not there"):
        registry.get_blob("a", digest, tmp_path / "blob")
    assert list(tmp_path.iterdir()) == []
    manifest = oci.links(image[0].read(image[1].digest), image[1].media_type).manifests[0]
    with pytest.raises(NetworkError, match=r"HTTP status 404 .*BLOB_UNKNOWN|HTTP status 400 .*MANIFEST_BLOB_UNKNOWN"):
        registry.put_manifest("empty", "v1", image[0].read(manifest.digest), manifest.media_type)


def test_a_file_that_is_not_the_blob(plain: Served, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"right")
    for data, how in ((b"wrong", "another hash"), (b"longer", "6 bytes instead of 5")):
        descriptor = Descriptor(oci.OCI_LAYER, oci.digest_of(b"right"), 5)
        path.write_bytes(data)
        with pytest.raises(InputError, match=how):
            client(plain).put_blob("a", descriptor, path)
    path.write_bytes(b"")
    client(plain).put_blob("a", Descriptor(oci.OCI_LAYER, oci.digest_of(b""), 0), path)
    assert client(plain).has_blob("a", oci.digest_of(b""))


def test_a_registry_with_damaged_storage(plain: Served, image: tuple[Layout, Descriptor], tmp_path: Path) -> None:
    registry, digest = client(plain), oci.digest_of(b"to be damaged")
    path = tmp_path / "blob"
    path.write_bytes(b"to be damaged")
    registry.put_blob("damaged", Descriptor(oci.OCI_LAYER, digest, 13), path)
    stored = plain.root / f"docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
    stored.write_bytes(b"it was damage")
    with pytest.raises(NetworkError, match="another hash"):
        registry.get_blob("damaged", digest, tmp_path / "fetched")
    assert [found.name for found in tmp_path.iterdir()] == ["blob"]
    oci.push(image[0], registry, "damaged", "v1")
    manifest = json.loads(image[0].read(image[1].digest))["manifests"][0]["digest"]
    stored = plain.root / f"docker/registry/v2/blobs/sha256/{manifest[7:9]}/{manifest[7:]}/data"
    stored.write_bytes(stored.read_bytes().replace(b"layers", b"layerz"))
    with pytest.raises(NetworkError):
        oci.pull(registry, "damaged", "v1", Layout.create(tmp_path / "back"))
