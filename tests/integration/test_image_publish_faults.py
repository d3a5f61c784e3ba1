"""Publishing and fetching under faults: refused, full, cut off, not trusted, changed, damaged, foreign."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import image, oci
from pipeline.core import namespace
from pipeline.core.errors import InputError, NetworkError, PipelineError, StorageError, VerificationError
from pipeline.oci import Registry, RegistryOptions
from tests.integration import registries, sites
from tests.integration.registries import Served
from tests.integration.sites import Handler, Site
from tests.unit import artifacts

MIB = 1024**2
NAME = "tiny-1-amd64"
REPOSITORY = "node-images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("publish-faults")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A registry with TLS and a password."""
    with registries.registry(folder / "secure", password=True) as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with sites.site() as running:
        yield running


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    return artifacts.make(folder / "build")


def options(served: Served, **changes: Any) -> RegistryOptions:  # noqa: ANN401
    known = {"ca": served.ca, "auth_file": served.auth_file, "plain_http": served.ca is None}
    return RegistryOptions(**({"backoff": 0.01, "retries": 2, "timeout": 20.0} | known | changes))


def push(directory: Path, served: Served, **changes: Any) -> image.Pushed:  # noqa: ANN401
    return image.push_image(directory, f"{served.host}/{REPOSITORY}", options(served, **changes))


def tags(site: Site) -> list[str]:
    found = site.repositories.get(REPOSITORY, sites.Repository()).manifests
    return sorted(name for name in found if not name.startswith("sha256:"))


# ------------------------------------------------------------------------------------ the store refuses a push


def answers(status: int) -> Callable[[Handler], None]:
    def answer(request: Handler) -> None:
        request.take(bytearray())
        request.say(status)

    return answer


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "podman login"),
        (403, "ask for the right"),
        (405, "read-only"),
        (413, "client_max_body_size"),
        (507, "free some space"),
    ],
)
@pytest.mark.parametrize("where", [("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")], ids=str)
def test_the_store_refuses(site: Site, built: Path, status: int, hint: str, where: tuple[str, str]) -> None:
    site.faults = [(*where, answers(status))] * 20
    with pytest.raises(NetworkError, match=f"HTTP status {status}") as caught:
        push(built, site.served)
    assert hint in caught.value.hint
    assert tags(site) == []
    site.faults = []
    push(built, site.served)
    assert tags(site) == ["tiny-1", NAME]


@pytest.mark.parametrize("pattern", ["/uploads/", "/manifests/sha256", f"/manifests/{NAME}$", "/manifests/tiny-1$"])
@pytest.mark.parametrize("fault", [Handler.busy, Handler.reset], ids=["busy", "reset"])
def test_a_push_goes_on(
    site: Site, built: Path, tmp_path: Path, pattern: str, fault: Callable[[Handler], None]
) -> None:
    site.faults = [("PUT", pattern, fault)]
    pushed = push(built, site.served, chunk_size=MIB)
    assert site.faults == []
    found = image.pull_image(pushed.reference, tmp_path, options(site.served))
    assert artifacts.content(found) == artifacts.content(built)


def test_a_store_that_stays_busy(site: Site, built: Path) -> None:
    site.faults = [("PUT", "/uploads/", answers(503))] * 20
    with pytest.raises(NetworkError, match=r"HTTP status 503 .*\(tried 3 times\)"):
        push(built, site.served)
    assert tags(site) == []


def test_the_line_breaks_within_the_disk(served: Served, tmp_path: Path) -> None:
    directory = artifacts.make(tmp_path / "large", size=20 * MIB + 1)
    faults = registries.Faults(up=[5 * MIB, 9 * MIB], down=[])
    line = registries.Line(served.host, faults)
    with registries.serving(line):
        auth = registries.auth_file(tmp_path / "auth.json", line.host)
        reach = options(served, auth_file=auth, chunk_size=2 * MIB)
        pushed = image.push_image(directory, f"{line.host}/broken", reach)
        assert faults.broken == 2
        faults.down = [7 * MIB, 6 * MIB]
        found = image.pull_image(pushed.reference, tmp_path / "back", reach)
        assert faults.broken == 4
    assert artifacts.content(found) == artifacts.content(directory)
    assert image.push_image(directory, f"{served.host}/broken", options(served)).sent == 0


def test_a_registry_that_is_read_only(folder: Path, built: Path) -> None:
    with (
        registries.registry(folder / "read-only", tls=False, read_only=True) as running,
        pytest.raises(NetworkError, match="HTTP status 405") as caught,
    ):
        push(built, running)
    assert "read-only" in caught.value.hint


@pytest.mark.root
def test_a_registry_on_a_full_disk(folder: Path, tmp_path: Path) -> None:
    registries.program("docker-registry", folder, "docker-registry")
    directory = artifacts.make(tmp_path / "build", size=3 * MIB)
    small = folder / "full"
    (small / "storage").mkdir(parents=True)

    def work() -> list[str]:
        namespace.mount("tmpfs", small / "storage", kind="tmpfs", options="size=2m")
        with registries.registry(small, tls=False) as running:
            with pytest.raises(NetworkError, match="HTTP status 50") as caught:
                push(directory, running)
            client = Registry(running.host, options(running))
            return [caught.value.hint, *client.tags(REPOSITORY)]

    (hint,) = namespace.run_private(work)
    assert "its own log says more" in hint


def test_a_registry_that_does_not_list_what_it_has_taken(site: Site, built: Path) -> None:
    def nothing(request: Handler) -> None:
        index = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []}
        request.say(200, oci.canonical(index), Content_Type=oci.OCI_INDEX)

    site.faults = [("GET", "/referrers/", nothing)] * 2
    with pytest.raises(NetworkError, match="is not listed with sha256:") as caught:
        push(built, site.served)
    assert "its own log" in caught.value.hint
    assert tags(site) == []
    site.faults = [("GET", "/referrers/", nothing)]  # as a registry that has been upgraded: it learns by a push
    site.seen.clear()
    push(built, site.served)
    assert site.count("PUT", "/manifests/sha256") == len(artifacts.FILES)


def test_credentials_and_authority(served: Served, folder: Path, built: Path) -> None:
    wrong = registries.auth_file(folder / "wrong.json", served.host, password="wrong-word")
    for auth in (wrong, None):
        with pytest.raises(NetworkError, match="credentials are missing or wrong: HTTP status 401") as caught:
            push(built, served, auth_file=auth)
        assert "wrong-word" not in caught.value.message + caught.value.hint
    other, _ = registries.certificate(folder, "other")
    with pytest.raises(NetworkError, match="the registry's certificate is not trusted") as caught:
        push(built, served, ca=other)
    assert "authority" in caught.value.hint


# --------------------------------------------------------------------------------------- the image changes


def changes_now(path: Path) -> Callable[[Handler], None]:
    def change(request: Handler) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        Handler.reset(request)

    return change


def test_the_disk_changes_while_it_is_pushed(site: Site, tmp_path: Path) -> None:
    directory = artifacts.make(tmp_path)
    site.faults = [("PUT", "/uploads/[0-9]+.digest=", Handler.good)] * 6
    site.faults += [("PUT", "/uploads/", changes_now(directory / f"{NAME}.qcow2"))]
    with pytest.raises(InputError, match="has changed while it was pushed") as caught:
        push(directory, site.served)
    assert caught.value.hint == "run the same command again"
    assert tags(site) == []
    with pytest.raises(VerificationError, match="is not what SHA256SUMS says"):
        push(directory, site.served)


def test_the_image_is_built_anew_while_it_is_pushed(site: Site, tmp_path: Path) -> None:
    directory = artifacts.make(tmp_path / "build")
    old, new = artifacts.content(directory), artifacts.make(tmp_path / "new", seed=1)

    def exchange(request: Handler) -> None:
        directory.rename(tmp_path / "old")
        new.rename(directory)
        Handler.good(request)

    site.faults = [("PUT", "/uploads/", exchange)]
    pushed = push(directory, site.served)
    found = image.pull_image(pushed.reference, tmp_path / "back", options(site.served))
    assert artifacts.content(found) == old
    assert push(directory, site.served).digest != pushed.digest


# ------------------------------------------------------------------------------------ what is fetched is not it


def blob_file(served: Served, digest: str) -> Path:
    return served.root / f"docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"


@pytest.mark.parametrize("what", ["manifest", "layer", *artifacts.FILES])
def test_the_storage_of_the_registry_is_damaged(served: Served, built: Path, tmp_path: Path, what: str) -> None:
    where = f"{served.host}/damaged"
    pushed = image.push_image(built, where, options(served))
    manifest = json.loads(Registry(served.host, options(served)).get_manifest("damaged", NAME)[1])
    digests = {"manifest": pushed.digest, "layer": manifest["layers"][0]["digest"]}
    digest = digests[what] if what in digests else oci.digest_of((built / what).read_bytes())
    stored = blob_file(served, digest)
    good = stored.read_bytes()
    kept = artifacts.make(tmp_path / "target", seed=5)
    before = artifacts.content(kept)
    try:
        stored.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(NetworkError):
            image.pull_image(pushed.reference, tmp_path / "target", options(served))
    finally:
        stored.write_bytes(good)
    assert artifacts.content(kept) == before
    assert {path.name for path in (tmp_path / "target").iterdir()} <= {NAME, "logs"}


def spoilt(site: Site, ref: str, **changes: Any) -> str:  # noqa: ANN401
    """Replace an image's manifest by one that somebody has changed; returns its name."""
    known = site.repositories[REPOSITORY].manifests
    manifest = json.loads(known[ref][0])
    data = oci.canonical(manifest | changes)
    known["spoilt"] = known[oci.digest_of(data)] = data, oci.OCI_MANIFEST
    return f"{site.served.host}/{REPOSITORY}:spoilt"


def put(site: Site, data: bytes) -> str:
    """Put a blob into the registry; returns its sha256."""
    digest = oci.digest_of(data)
    site.repositories[REPOSITORY].blobs[digest] = data
    return digest.partition(":")[2]


def annotated(site: Site, **changes: str) -> dict[str, Any]:
    annotations = json.loads(site.repositories[REPOSITORY].manifests[NAME][0])["annotations"]
    return {"annotations": annotations | changes}


def another_disk(site: Site, built: Path) -> dict[str, Any]:
    """Put the layer of another disk into the image."""
    other = artifacts.make(built.parent / "other-disk", seed=9)
    pushed = image.push_image(other, f"{site.served.host}/other", options(site.served))
    manifest = json.loads(site.repositories["other"].manifests[pushed.digest][0])
    site.repositories[REPOSITORY].blobs |= site.repositories["other"].blobs
    return {"layers": manifest["layers"]}


def sums_of(site: Site, built: Path, **files: bytes) -> dict[str, Any]:
    """Put changed files into the registry, with a list of all of them; every hash is right."""
    known = artifacts.content(built) | {key.replace("_", "."): value for key, value in files.items()}
    known.pop("SHA256SUMS")
    lines = [f"{put(site, data)}  {name}\n" for name, data in sorted(known.items())]
    return annotated(site, **{"node-images.sha256sums": put(site, "".join(lines).encode())})


def other_manifest(built: Path, **changes: Any) -> bytes:  # noqa: ANN401
    return json.dumps(json.loads((built / "manifest.json").read_bytes()) | changes).encode()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda _site, _built: {"annotations": {}}, InputError, "is not a node image: it lacks what"),
        (lambda _site, _built: {"annotations": None}, InputError, "is not a node image"),
        (lambda _site, _built: {"layers": []}, InputError, "is not a node image"),
        (lambda site, _: annotated(site, **{"org.opencontainers.image.title": "../x"}), InputError, "not a node image"),
        (lambda site, _: annotated(site, **{"node-images.sha256sums": "x"}), InputError, "not a node image"),
        (
            lambda site, _: annotated(site, **{"org.opencontainers.image.title": "other-1-amd64"}),
            VerificationError,
            f"it calls itself other-1-amd64, and its manifest.json {NAME}",
        ),
        (
            lambda site, _: annotated(site, **{"node-images.sha256sums": put(site, b"nonsense")}),
            VerificationError,
            "SHA256SUMS is damaged",
        ),
        (
            lambda site, _: annotated(site, **{"node-images.sha256sums": put(site, b"0" * 64 + b"  ../../x\n")}),
            VerificationError,
            "SHA256SUMS is damaged",
        ),
        (
            lambda site, _: annotated(site, **{"node-images.sha256sums": put(site, b"0" * 64 + b"  plan.json\n")}),
            NetworkError,
            "plan.json is not there",
        ),
        (
            lambda site, _: annotated(site, **{"node-images.sha256sums": put(site, b"0" * 64 + b"  x.qcow2\n")}),
            VerificationError,
            "SHA256SUMS does not list manifest.json",
        ),
        (lambda site, built: sums_of(site, built, manifest_json=b"{}"), InputError, "manifest.json: name: Field"),
        (
            lambda site, built: sums_of(site, built, manifest_json=other_manifest(built, epoch=1)),
            VerificationError,
            f"its layer is not a tar with disk/{NAME}.qcow2",
        ),
        (another_disk, VerificationError, f"{NAME}.qcow2 is not what SHA256SUMS says"),
    ],
)
def test_what_somebody_has_changed_is_not_taken(
    site: Site,
    built: Path,
    tmp_path: Path,
    change: Callable[[Site, Path], dict[str, Any]],
    kind: type[PipelineError],
    said: str,
) -> None:
    push(built, site.served)
    directory = artifacts.make(tmp_path / "copy")
    reference = spoilt(site, NAME, **change(site, directory))
    with pytest.raises(kind, match=said) as caught:
        image.pull_image(reference, tmp_path / "target", options(site.served))
    assert caught.value.hint
    assert not list((tmp_path / "target").glob("*tiny*"))
    assert not (tmp_path / "x").exists()


def test_a_copy_without_referrers(served: Served, built: Path, tmp_path: Path) -> None:
    pushed = push(built, served)
    copy = f"{served.host}/copied/images:v1"
    reach = ["--src-tls-verify=false", "--dest-tls-verify=false", f"--authfile={served.auth_file}"]
    source = f"docker://{served.host}/{REPOSITORY}@{pushed.digest}"
    registries.skopeo(tmp_path, "copy", "--preserve-digests", *reach, source, f"docker://{copy}")
    with pytest.raises(NetworkError, match="SHA256SUMS is not there") as caught:
        image.pull_image(copy, tmp_path / "target", options(served))
    assert "oras copy --recursive" in caught.value.hint


@pytest.mark.parametrize("what", ["nothing:v1", f"{REPOSITORY}:tiny-2-amd64", f"{REPOSITORY}@sha256:{'0' * 64}"])
def test_what_is_not_there(served: Served, built: Path, tmp_path: Path, what: str) -> None:
    push(built, served)
    with pytest.raises(oci.NotThereError, match="not there"):
        image.pull_image(f"{served.host}/{what}", tmp_path, options(served))
    assert list(tmp_path.iterdir()) == []


def test_something_else_has_the_tag_of_an_architecture(site: Site, built: Path) -> None:
    pushed = push(built, site.served)
    known = site.repositories[REPOSITORY].manifests
    known["tiny-1-arm64"] = known["tiny-1"]
    assert push(built, site.served).index == pushed.index


# ------------------------------------------------------------------------------------------- our own disk


@pytest.mark.root
def test_no_room_for_what_is_fetched(site: Site, built: Path, tmp_path: Path) -> None:
    pushed = push(built, site.served)
    place = tmp_path / "small"
    place.mkdir()

    def work() -> list[str]:
        namespace.mount("tmpfs", place, kind="tmpfs", options="size=1m")
        with pytest.raises(StorageError) as caught:
            image.pull_image(pushed.reference, place, options(site.served))
        assert "free some space" in caught.value.hint
        return sorted(path.name for path in place.iterdir())

    assert namespace.run_private(work) == ["logs"]


def test_what_a_killed_fetch_has_left_is_removed(site: Site, built: Path, tmp_path: Path) -> None:
    pushed = push(built, site.served)
    left = tmp_path / f".{NAME}.0123abcd"
    left.mkdir()
    (left / f"{NAME}.qcow2").write_bytes(b"half")
    image.pull_image(pushed.reference, tmp_path, options(site.served))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", NAME]
