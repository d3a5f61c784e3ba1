"""Node images in a real docker-registry and in one with the referrers API; skopeo and podman take them from there."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import image, oci
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import Pushed
from pipeline.image.artifact import manifests
from pipeline.oci import Registry, RegistryOptions
from tests.integration import builds, registries, sites
from tests.integration.conftest import Primed
from tests.integration.registries import Served
from tests.integration.sites import Site
from tests.unit import artifacts

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny-1-amd64"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("publish")


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
def built(folder: Path) -> dict[str, Path]:
    """An image of each architecture."""
    return {arch: artifacts.make(folder / "build", arch, seed=seed) for seed, arch in enumerate(("amd64", "arm64"))}


def options(served: Served) -> RegistryOptions:
    return RegistryOptions(ca=served.ca, auth_file=served.auth_file, plain_http=served.ca is None, backoff=0.01)


def client(served: Served) -> Registry:
    return Registry(served.host, options(served))


def stored(served: Served) -> dict[str, int]:
    """Return what a registry has on its disk, with the times."""
    return {str(path): path.stat().st_mtime_ns for path in served.root.rglob("*") if path.is_file()}


def document(served: Served, repository: str, ref: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client(served).get_manifest(repository, ref)[1])
    return found


# ------------------------------------------------------------------------------------------ there and back


def test_there_and_back(served: Served, built: dict[str, Path], tmp_path: Path) -> None:
    directory = built["amd64"]
    pushed = image.push_image(directory, f"{served.host}/there/back", options(served))
    assert pushed.reference == f"{served.host}/there/back:{NAME}@{pushed.digest}"
    assert pushed.sent > sum(map(len, artifacts.content(directory).values()))
    before = stored(served)
    again = image.push_image(directory, f"{served.host}/there/back", options(served))
    assert again == Pushed(pushed.reference, pushed.digest, pushed.index, 0)
    assert stored(served) == before

    for reference in (pushed.reference, f"{served.host}/there/back:{NAME}", f"{served.host}/there/back:tiny-1"):
        target = tmp_path / reference.rpartition(":")[2] / "made"
        assert image.pull_image(reference, target, options(served)) == target / NAME
        assert artifacts.content(target / NAME) == artifacts.content(directory)
        assert sorted(path.name for path in target.iterdir()) == ["logs", NAME]


def test_what_is_there_is_not_fetched_again(site: Site, built: dict[str, Path], tmp_path: Path) -> None:
    pushed = image.push_image(built["amd64"], f"{site.served.host}/x", options(site.served))
    pull = functools.partial(image.pull_image, pushed.reference, tmp_path, options(site.served))
    pull()
    site.seen.clear()
    pull()
    assert [method for method, _ in site.seen] == ["GET"]
    for harm in (b"", b"damaged"):
        (tmp_path / NAME / f"{NAME}.qcow2").write_bytes(harm)
        pull()
        assert artifacts.content(tmp_path / NAME) == artifacts.content(built["amd64"])
    (tmp_path / NAME / "plan.json").unlink()
    pull()
    assert artifacts.content(tmp_path / NAME) == artifacts.content(built["amd64"])


def test_the_same_build_has_the_same_digests(served: Served, site: Site, tmp_path: Path) -> None:
    pushed = []
    for number, where in enumerate((served, site.served)):
        directory = artifacts.make(tmp_path / str(number))
        for path in directory.iterdir():
            os.utime(path, (number, number))
            path.chmod(0o600 + number * 0o44)
        pushed.append(image.push_image(directory, f"{where.host}/same", options(where)))
    assert pushed[0].digest == pushed[1].digest
    assert pushed[0].index == pushed[1].index


def test_another_build_of_the_same_disk_shares_layer_and_configuration(served: Served, tmp_path: Path) -> None:
    found = []
    for revision in ("0123456789ab", "ba9876543210"):
        directory = artifacts.make(tmp_path / revision)
        disk = (directory / f"{NAME}.qcow2").read_bytes()
        artifacts.write(directory, artifacts.manifest(NAME, disk, arch="amd64", provenance={"revision": revision}))
        pushed = image.push_image(directory, f"{served.host}/two/builds", options(served))
        found.append((pushed, document(served, "two/builds", pushed.digest)))
    (first, one), (second, other) = found
    assert first.digest != second.digest
    assert second.sent < 10_000
    assert (one["layers"], one["config"]) == (other["layers"], other["config"])
    for pushed, revision in ((first, "0123456789ab"), (second, "ba9876543210")):
        back = image.pull_image(pushed.reference, tmp_path / "back", options(served))
        assert json.loads((back / "manifest.json").read_text())["provenance"]["revision"] == revision


# --------------------------------------------------------------------------------------------- architectures


def platforms(served: Served, repository: str) -> dict[str, str]:
    manifests = document(served, repository, "tiny-1")["manifests"]
    return {one["platform"]["architecture"]: one["digest"] for one in manifests}


def test_an_architecture_more_keeps_the_others(served: Served, built: dict[str, Path], tmp_path: Path) -> None:
    where = f"{served.host}/both"
    first, second = (image.push_image(built[arch], where, options(served)) for arch in ("amd64", "arm64"))
    assert platforms(served, "both") == {"amd64": first.digest, "arm64": second.digest}
    assert image.push_image(built["amd64"], where, options(served)).index == second.index
    other = artifacts.make(tmp_path / "other", "amd64", seed=7)
    third = image.push_image(other, where, options(served))
    assert platforms(served, "both") == {"amd64": third.digest, "arm64": second.digest}

    for arch in Architecture:
        found = image.pull_image(f"{where}:tiny-1", tmp_path / "back", options(served), arch=arch)
        assert found.name == f"tiny-1-{arch}"
    with pytest.raises(InputError, match="is of amd64, arm64, and none is chosen"):
        image.pull_image(f"{where}:tiny-1", tmp_path / "back", options(served))
    assert artifacts.content(image.pull_image(first.reference, tmp_path / "old", options(served))) == artifacts.content(
        built["amd64"]
    )


def test_two_servers_push_two_architectures_at_once(site: Site, folder: Path, built: dict[str, Path]) -> None:
    small = [artifacts.make(folder / "small", arch, size=1000) for arch in built]
    for turn in range(4):
        where = f"{site.served.host}/race{turn}"
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one, to=where: image.push_image(one, to, options(site.served)), small))
        assert set(platforms(site.served, f"race{turn}")) == {"amd64", "arm64"}


def test_an_index_that_another_server_spoils_meanwhile(site: Site, built: dict[str, Path]) -> None:
    first = image.push_image(built["amd64"], f"{site.served.host}/x", options(site.served))
    stale = site.repositories["x"].manifests["tiny-1"]

    def overwritten(request: sites.Handler) -> None:
        sites.Handler.good(request)
        site.repositories["x"].manifests["tiny-1"] = stale

    site.faults = [("PUT", "/manifests/tiny-1$", overwritten)] * 2
    second = image.push_image(built["arm64"], f"{site.served.host}/x", options(site.served))
    assert platforms(site.served, "x") == {"amd64": first.digest, "arm64": second.digest}


def test_another_build_of_the_same_image_takes_the_tag_meanwhile(site: Site, built: dict[str, Path]) -> None:
    known = sites.Repository()
    site.repositories["x"] = known
    other = oci.canonical({"schemaVersion": 2, "mediaType": oci.OCI_MANIFEST, "config": {}, "layers": []})

    def overwritten(request: sites.Handler) -> None:
        sites.Handler.good(request)
        known.manifests[NAME] = known.manifests[oci.digest_of(other)] = other, oci.OCI_MANIFEST

    site.faults = [("PUT", f"/manifests/{NAME}$", overwritten)]
    pushed = image.push_image(built["amd64"], f"{site.served.host}/x", options(site.served))
    assert platforms(site.served, "x") == {"amd64": oci.digest_of(other)}
    assert pushed.digest in known.manifests


# -------------------------------------------------------------------------------------------------- referrers


def check_referrers(listed: list[dict[str, Any]], served: Served, repository: str, subject: str) -> None:
    types = {}
    for one in listed:
        found = document(served, repository, one["digest"])
        (layer,) = found["layers"]
        assert found["subject"]["digest"] == subject
        types[layer["annotations"]["org.opencontainers.image.title"]] = found["artifactType"]
    assert sorted(types) == list(artifacts.FILES)
    assert types["sbom.cdx.json"] == "application/vnd.cyclonedx+json"
    assert len(set(types.values())) == len(artifacts.FILES)


def test_referrers_of_a_registry_that_has_no_list_of_them(served: Served, built: dict[str, Path]) -> None:
    pushed = image.push_image(built["amd64"], f"{served.host}/attached", options(served))
    found = client(served).referrers("attached", pushed.digest)
    assert not found.has_api
    listed = document(served, "attached", oci.fallback_tag(pushed.digest))["manifests"]
    assert [one.digest for one in found.found] == [one["digest"] for one in listed]
    assert all(one["artifactType"].startswith("application/vnd.") for one in listed)
    check_referrers(listed, served, "attached", pushed.digest)

    signature = oci.canonical({**document(served, "attached", listed[0]["digest"]), "artifactType": "application/x"})
    assert oci.attach(client(served), "attached", pushed.digest, [signature]) > 0
    assert image.push_image(built["amd64"], f"{served.host}/attached", options(served)).sent == 0
    found = client(served).referrers("attached", pushed.digest)
    assert {one.digest for one in found.found} == {*(one["digest"] for one in listed), oci.digest_of(signature)}


def test_what_is_gone_is_not_listed_any_more(served: Served, built: dict[str, Path]) -> None:
    pushed = image.push_image(built["amd64"], f"{served.host}/gone", options(served))
    registry, tag = client(served), oci.fallback_tag(pushed.digest)
    first = document(served, "gone", tag)["manifests"][0]
    gone, new = (
        oci.canonical({**document(served, "gone", first["digest"]), "artifactType": f"application/{kind}"})
        for kind in ("gone", "new")
    )
    oci.attach(registry, "gone", pushed.digest, [gone])
    registry.delete_manifest("gone", oci.digest_of(gone))
    oci.attach(registry, "gone", pushed.digest, [new])
    types = {one["artifactType"] for one in document(served, "gone", tag)["manifests"]}
    assert "application/new" in types
    assert "application/gone" not in types
    assert len(types) == len(artifacts.FILES) + 1


def test_referrers_of_a_registry_that_lists_them(site: Site, built: dict[str, Path]) -> None:
    pushed = image.push_image(built["amd64"], f"{site.served.host}/attached", options(site.served))
    found = client(site.served).referrers("attached", pushed.digest)
    assert found.has_api
    assert oci.fallback_tag(pushed.digest) not in site.repositories["attached"].manifests
    check_referrers([one.to_json() for one in found.found], site.served, "attached", pushed.digest)


def test_a_real_image(primed: Primed, site: Site, tmp_path: Path) -> None:
    pushed = image.push_image(primed.project.published, f"{site.served.host}/real", options(site.served))
    found = image.pull_image(pushed.reference, tmp_path, options(site.served))
    builds.check_published(found)
    listed = artifacts.content(primed.project.published)
    assert artifacts.content(found) == listed
    types = {manifests.type_of(name) for name in listed if not name.endswith(".qcow2")}
    assert manifests.FILE_TYPE not in types  # each has one of its own


# ----------------------------------------------------------------------------------------- second opinions


def skopeo(folder: Path, served: Served, *words: str | Path) -> str:
    certificates = folder / "certificates"
    certificates.mkdir(exist_ok=True)
    assert served.ca is not None
    shutil.copy(served.ca, certificates / "ca.crt")
    action, *rest = words
    source = "--src-" if action == "copy" else "--"
    reach = [f"{source}cert-dir={certificates}", f"--authfile={served.auth_file}"]
    return registries.skopeo(folder, action, *reach, *rest)


def test_skopeo_takes_it(served: Served, built: dict[str, Path], tmp_path: Path) -> None:
    where = f"{served.host}/second/opinion"
    pushed = [image.push_image(directory, where, options(served)) for directory in built.values()]
    for arch in built:
        words = (f"--override-arch={arch}", f"docker://{where}:tiny-1")
        found = json.loads(skopeo(tmp_path, served, "inspect", *words))
        assert (found["Architecture"], found["Os"], len(found["Layers"])) == (arch, "linux", 1)
        assert found["Labels"]["org.opencontainers.image.title"] == f"tiny-1-{arch}"
        assert found["Digest"] == pushed[-1].index
    skopeo(tmp_path, served, "copy", "--all", "--preserve-digests", f"docker://{where}:tiny-1", f"oci:{tmp_path}/all:x")
    skopeo(tmp_path, served, "copy", f"docker://{where}:{NAME}", f"dir:{tmp_path}/dir")
    layer = max((tmp_path / "dir").iterdir(), key=lambda path: path.stat().st_size)
    listed = subprocess.run(["tar", "--numeric-owner", "-tvf", layer], check=True, capture_output=True, text=True)
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("drwxr-xr-x", "107/107", "disk/"),
        ("-rw-r--r--", "107/107", f"disk/{NAME}.qcow2"),
    ]
    with tarfile.open(layer) as tar:
        file = tar.extractfile(f"disk/{NAME}.qcow2")
        assert file is not None
        assert file.read() == (built["amd64"] / f"{NAME}.qcow2").read_bytes()


@pytest.mark.root
@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_gives_the_disk(served: Served, built: dict[str, Path], scratch: Path) -> None:
    tmp_path = scratch / "podman"  # podman's own directories may not have long paths
    tmp_path.mkdir()
    where = f"{served.host}/podman:tiny-1"
    for directory in built.values():
        image.push_image(directory, f"{served.host}/podman", options(served))
    store = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]

    def podman(*words: str | Path) -> str:
        done = subprocess.run(["podman", *store, *map(str, words)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for arch, directory in built.items():
        reach = [f"--authfile={served.auth_file}", "--tls-verify=false", f"--arch={arch}"]
        podman("pull", "--quiet", *reach, where)
        container = podman("create", f"--arch={arch}", "--pull=never", where, "none")
        podman("cp", f"{container}:/disk", tmp_path / arch)
        (disk,) = (tmp_path / arch).iterdir()  # KubeVirt refuses more than one
        assert disk.name == f"tiny-1-{arch}.qcow2"
        assert disk.read_bytes() == (directory / disk.name).read_bytes()
        podman("export", "--output", tmp_path / f"{arch}.tar", container)
        with tarfile.open(tmp_path / f"{arch}.tar") as tar:
            found = tar.getmember(f"disk/{disk.name}")
            assert (found.uid, found.gid, found.mode & 0o777) == (107, 107, 0o644)
        podman("rm", container)
        podman("rmi", where)


# --------------------------------------------------------------------------------------------- the commands


def test_the_commands(served: Served, tmp_path: Path) -> None:
    for name in ("pipeline", "osprofiles", "overlays"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "tasks.py", tmp_path)
    directory = artifacts.make(tmp_path / "made", release="12").rename(tmp_path / "renamed")
    name = "debian-12-amd64"
    (directory / "tiny-12-amd64.qcow2").rename(directory / f"{name}.qcow2")
    disk = (directory / f"{name}.qcow2").read_bytes()
    artifacts.write(directory, artifacts.manifest(name, disk, os="debian", release="12", arch="amd64"))
    (tmp_path / "build").mkdir()
    directory.rename(tmp_path / "build" / name)

    def invoke(*words: str, code: int = 0) -> tuple[str, str]:
        argv = [sys.executable, "-I", "-m", "invoke", "--search-root", str(tmp_path), *words]
        argv += ["--ca", str(served.ca), "--auth-file", str(served.auth_file)]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.strip(), done.stderr

    where = f"{served.host}/commands"
    printed, said = invoke("publish", "--os", "all", "--arch", "all", "--to", where)
    assert printed.startswith(f"{where}:{name}@sha256:")
    assert "MB sent" in said
    assert "all of it was there" in invoke("publish", "--arch", "amd64", "--to", where)[1]
    assert "there is no image debian-12-arm64" in invoke("publish", "--arch", "arm64", "--to", where, code=2)[1]
    before = artifacts.content(tmp_path / "build" / name)
    fetch = ("fetch", "--arch", "amd64", "--repository", where)
    assert "is there already" in invoke(*fetch)[1]
    shutil.rmtree(tmp_path / "build" / name)
    assert invoke(*fetch)[0] == str(tmp_path / "build" / name)
    assert artifacts.content(tmp_path / "build" / name) == before
    assert hashlib.sha256(disk).hexdigest() in before["SHA256SUMS"].decode()
