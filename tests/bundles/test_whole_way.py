"""From registry to registry by the commands that users type: plain and lean, full and patch, killed in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.oci import Reference, Registry, RegistryOptions
from tests.bundles import images, signing
from tests.bundles.checkouts import Checkout, finished, started
from tests.bundles.images import Made
from tests.integration import registries
from tests.integration.registries import Served

pytestmark = [pytest.mark.slow, pytest.mark.network]

VOLUME = "8M"
V1 = ("apps/runc:v1", "platform/certificates:v1", "platform/shell:v1", "web/curl:v1", "tools/redis:v1", "tools/zstd:v1")
V2 = ("apps/runc:v2", *V1[1:])


@dataclass(frozen=True)
class Place:
    """Headquarters and a site.

    Attributes:
        checkout: where bundles are packed.
        made: the images.
        hq: the registry that they are in.
        site: the site's registry, with TLS and a password.
        folder: for files.
    """

    checkout: Checkout
    made: Made
    hq: Served
    site: Served
    folder: Path

    def list_images(self, names: tuple[str, ...]) -> Path:
        """Write an ``images.yaml``."""
        path = self.folder / "images.yaml"
        path.write_text(json.dumps({"images": [f"{self.hq.host}/{name}" for name in names]}))
        return path

    @property
    def reach(self) -> list[str]:
        """How the site's registry is reached."""
        return ["--ca", str(self.site.ca), "--auth-file", str(self.site.auth_file)]

    def sync_words(self, name: str, prefix: str) -> list[str]:
        """Return the command line of the field's program."""
        bundle = self.checkout.bundle(name)
        state = self.folder / "state"
        words = ["sync", "--to", f"{self.site.host}/{prefix}", *self.reach, "--state", str(state), "--lang", "en"]
        return [sys.executable, "-I", "-S", str(bundle / "bundle.pyz"), *words]

    def has_blobs(self, prefix: str) -> bool:
        """Whether the site's registry has taken a first blob below a prefix."""
        return any((self.site.root / "docker/registry/v2/repositories" / prefix).glob("*/*/_layers/sha256/*/link"))

    def client(self) -> Registry:
        """Return a client of the site's registry."""
        return Registry(self.site.host, RegistryOptions(ca=self.site.ca, auth_file=self.site.auth_file))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("bundles")
    made = images.make(folder / "images", small=True)
    with (
        registries.registry(folder / "hq", tls=False) as hq,
        registries.registry(folder / "site", password=True) as site,
    ):
        images.push_all(made, Registry(hq.host, RegistryOptions(plain_http=True)))
        yield Place(Checkout.make(folder / "checkout"), made, hq, site, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def full(place: Place) -> dict[str, str]:
    """Version 1 as a plain and as a lean bundle; their names."""
    names = {}
    for store in ("plain", "lean"):
        names[store] = f"v1-{store}"
        listed = place.list_images(V1)
        words: list[str | Path] = ["--images", listed, "--name", names[store], "--store", store]
        words += ["--volume-size", VOLUME, "--plain-http"]
        place.checkout.invoke("bundle.pack", *words)
    return names


def check_at_the_site(place: Place, prefix: str, names: tuple[str, ...]) -> None:
    """Everything is there, and skopeo says that it is what it was at headquarters; signatures are right."""
    registry = place.client()
    for name in names:
        image = place.made.image(name)
        repository = f"{prefix}/{image.spec.repository}"
        found = registry.head_manifest(repository, image.spec.tag)
        assert found is not None
        assert found.digest == image.root.digest
        for part in image.attachments:
            at = registry.head_manifest(repository, part.tag or part.root.digest)
            assert at is not None
            assert at.digest == part.root.digest
            if part.tag is not None and part.tag.endswith(".sig"):
                signing.check(registry, repository, part.tag, place.made.public_key)
        children = oci.links(place.made.layout.read(image.root.digest), image.root.media_type).manifests
        for digest in (image.root.digest, *(child.digest for child in children)):
            words = ["inspect", "--raw", "--authfile", str(place.site.auth_file), "--tls-verify=false"]
            raw = registries.skopeo(place.folder, *words, f"docker://{place.site.host}/{repository}@{digest}")
            assert oci.digest_of(raw.encode()) == digest


@pytest.mark.parametrize("store", ["plain", "lean"])
def test_a_full_bundle_whose_sync_is_killed(place: Place, full: dict[str, str], store: str) -> None:
    directory = place.checkout.bundle(full[store])
    assert len(list(directory.glob("*.bundle.*"))) > 2
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=directory, check=True)
    assert "is whole" in place.checkout.invoke("bundle.verify", full[store])
    words = place.sync_words(full[store], f"full-{store}")
    with started(words) as child:
        while not place.has_blobs(f"full-{store}") and child.poll() is None:
            time.sleep(0.005)
        child.kill()
    first = finished(words)
    check_at_the_site(place, f"full-{store}", V1)
    assert "nothing to do" not in first
    assert "nothing to do" in finished(words)
    assert (place.folder / "state").is_dir()


def test_plain_is_read_by_skopeo_and_lean_is_smaller(place: Place, full: dict[str, str]) -> None:
    sizes = {}
    for store, name in full.items():
        volumes = sorted(place.checkout.bundle(name).glob("*.bundle.*"))
        sizes[store] = sum(path.stat().st_size for path in volumes)
    joined = place.folder / "joined.tar"
    with joined.open("wb") as target:
        for path in sorted(place.checkout.bundle(full["plain"]).glob("*.bundle.*")):
            target.write(path.read_bytes())
    image = place.made.image(V1[0])
    raw = registries.skopeo(place.folder, "inspect", "--raw", f"oci-archive:{joined}:{place.hq.host}/{image.name}")
    assert oci.digest_of(raw.encode()) == image.root.digest
    assert sizes["lean"] < sizes["plain"] * 0.8


def test_patches(place: Place, full: dict[str, str]) -> None:
    """A patch that needs its base says so before it writes; on its base it brings version 2; composed, it is full."""
    listed = place.list_images(V2)
    for store in ("plain", "lean"):
        name, prefix = f"v2-{store}", f"full-{store}"
        words: list[str | Path] = ["--base", full[store], "--images", listed, "--name", name]
        words += ["--store", store, "--plain-http"]
        place.checkout.invoke("bundle.patch", *words)
        refused = finished(place.sync_words(name, "nobody"), code=7)
        assert "lacks" in refused
        assert full[store] in refused
        assert place.client().tags("nobody/apps/runc") == ()
        finished(place.sync_words(full[store], prefix))
        finished(place.sync_words(name, prefix))
        check_at_the_site(place, prefix, V2)
    assert "apps/runc" in place.checkout.invoke("bundle.diff", full["plain"], "v2-plain")
    for store in ("plain", "lean"):
        composed = ["--bundle", full[store], "--bundle", f"v2-{store}", "--name", f"v2-full-{store}", "--store", store]
        place.checkout.invoke("bundle.compose", *composed)
        finished(place.sync_words(f"v2-full-{store}", f"composed-{store}"))
        check_at_the_site(place, f"composed-{store}", V2)


def test_pulled_by_digest(place: Place, full: dict[str, str]) -> None:
    """podman pulls what arrived, for both architectures."""
    finished(place.sync_words(full["lean"], "pulled"))
    image = place.made.image(V1[0])
    name = Reference(place.site.host, f"pulled/{image.spec.repository}", digest=image.root.digest)
    with tempfile.TemporaryDirectory(prefix="podman-") as folder:  # podman wants short paths
        (Path(folder) / "certs").mkdir()
        shutil.copy(str(place.site.ca), f"{folder}/certs/ca.crt")
        for arch in ("amd64", "arm64"):
            podman = ["podman", "--root", f"{folder}/{arch}", "--runroot", f"{folder}/run", "--storage-driver=vfs"]
            pull = ["pull", "--quiet", "--arch", arch, "--cert-dir", f"{folder}/certs", "--authfile"]
            subprocess.run([*podman, *pull, str(place.site.auth_file), str(name)], check=True)
            shown = ["image", "inspect", "--format", "{{.Architecture}}", str(name)]
            found = subprocess.run([*podman, *shown], check=True, capture_output=True, text=True)
            assert found.stdout.strip() == arch
