"""The installer image by its commands: from a mirror of real binaries to a real registry, judged by skopeo."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.arch import Architecture
from tests.cluster import packages
from tests.integration import registries
from tests.unit import installers
from tests.unit.installers import Site, archive, component

ROOT = Path(__file__).resolve().parents[2]
PART_OF_A_CHECKOUT = ("pipeline", "tasks.py")
REPOSITORY = "cluster/cluster-installer"
SCRIPT_LIMIT = 1_000_000  # what a node may have to pull after a script has changed
PADDING = 3_000_000  # that does not compress: a component weighs more than any script

pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> dict[Architecture, bytes]:
    """A real program of each architecture, from Debian's packages."""
    folder = tmp_path_factory.mktemp("binaries")
    try:
        apt = packages.Apt.updated(folder / "apt")
        found = {arch: apt.download(["hello"], arch, folder / arch.deb) for arch in Architecture}
    except RuntimeError as error:
        pytest.skip(f"packages cannot be downloaded: {error}")
    programs = {}
    for arch, debs in found.items():
        packages.unpack(debs, folder / f"{arch}-tree")
        programs[arch] = (folder / f"{arch}-tree/usr/bin/hello").read_bytes()
    return programs


@dataclass(frozen=True)
class Checkout:
    """A copy of this checkout with an installer of its own.

    Attributes:
        site: the installer's source and a mirror.
    """

    site: Site

    @property
    def built(self) -> Path:
        """What was built."""
        return self.site.build_dir / "cluster-installer"

    @property
    def digest(self) -> str:
        """Digest of what was built."""
        return (self.built / "digest").read_text().strip()

    def invoke(self, *words: str | Path, code: int = 0) -> str:
        """Run a command; returns what it printed, the errors after it."""
        argv = [sys.executable, "-I", "-m", "invoke", "--search-root", self.site.root, *words]
        env = dict(os.environ) | {"XDG_CACHE_HOME": str(self.site.root / "cache")}
        env.pop("SOURCE_DATE_EPOCH", None)
        done = subprocess.run(argv, env=env, cwd=self.site.root, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path, binaries: dict[Architecture, bytes]) -> Iterator[Checkout]:
    root = tmp_path / "checkout"
    site = installers.make(root)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in PART_OF_A_CHECKOUT:
        source = ROOT / name
        (shutil.copytree(source, root / name, ignore=ignored) if source.is_dir() else shutil.copy2(source, root / name))
    noise = hashlib.shake_256(b"noise").digest(PADDING)
    url = f"{installers.ORIGIN}/packed-{{version}}-{{arch}}.tar.xz"
    packed = component("packed", url=url, checksum=f"{installers.ORIGIN}/SHA256SUMS", members=["x-{arch}/bin/packed"])
    site.write_components({"plain": component("plain"), "packed": packed})
    sums = ""
    for arch, content in binaries.items():
        site.publish(f"plain-1.0-{arch}", content)
        tar = archive({f"x-{arch}/bin/packed": content + noise}, "w:xz")
        site.publish(f"packed-1.0-{arch}.tar.xz", tar)
        sums += f"{hashlib.sha256(tar).hexdigest()}  packed-1.0-{arch}.tar.xz\n"
    (root / "mirror/releases/SHA256SUMS").write_text(sums)
    yield Checkout(site)
    shutil.rmtree(root)


def skopeo(tmp_path: Path, *words: str | Path) -> str:
    return registries.skopeo(tmp_path, *words)


def inspected(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(skopeo(tmp_path, "inspect", *words))
    return found


def test_from_a_mirror_to_a_layout_that_skopeo_takes(checkout: Checkout, tmp_path: Path) -> None:
    assert "run ./invoke installer.lock" in checkout.invoke("installer.build", code=2)
    mirror = f"file://{checkout.site.mirror}"
    assert "packed: added, 1.0 for amd64, arm64" in checkout.invoke("installer.lock", "--mirror", mirror)
    assert "components.lock: unchanged" in checkout.invoke("installer.lock", "--mirror", mirror)
    planned = yaml.safe_load(checkout.invoke("installer.build", "--dry-run"))
    assert not checkout.built.exists()
    checkout.invoke("installer.build", "--mirror", mirror)
    digest = checkout.digest
    assert f"{digest} is up to date" in checkout.invoke("installer.build")
    assert json.loads((checkout.built / "manifest.json").read_text())["key"] == planned["key"]
    assert f"INSTALLER_IMAGE=r.test/{REPOSITORY}@{digest}\n" in checkout.invoke(
        "installer.show", "--to", f"r.test/{REPOSITORY}"
    )

    source = f"oci:{checkout.built}/oci:1.2.3"
    raw = skopeo(tmp_path, "inspect", "--raw", source)
    assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == digest
    skopeo(tmp_path, "copy", "--all", "--preserve-digests", source, f"oci:{tmp_path}/copy:x")
    blobs = {path.name for path in (checkout.built / "oci/blobs/sha256").iterdir()}
    assert {path.name for path in (tmp_path / "copy/blobs/sha256").iterdir()} == blobs
    for arch in Architecture:
        found = inspected(tmp_path, "--override-arch", arch.oci, source)
        assert (found["Architecture"], found["Os"], len(found["Layers"])) == (arch.oci, "linux", 3)
        assert found["Labels"]["org.opencontainers.image.version"] == "1.2.3"


def test_a_node_gets_only_what_changed(checkout: Checkout, tmp_path: Path) -> None:
    checkout.invoke("installer.lock", "--mirror", checkout.site.mirror)
    checkout.invoke("installer.build")
    with registries.registry(tmp_path / "registry", password=True) as served:
        assert served.ca is not None
        assert served.auth_file is not None
        to = f"{served.host}/{REPOSITORY}"
        push = ("installer.push", "--to", to, "--ca", served.ca, "--auth-file", served.auth_file)
        first = checkout.digest
        assert f"INSTALLER_IMAGE={to}@{first}\n" in checkout.invoke(*push)
        again = checkout.invoke(*push)
        assert "0.0 MB sent" in again
        (tmp_path / "certs").mkdir()
        shutil.copy(served.ca, tmp_path / "certs/ca.crt")
        credentials = (tmp_path / "certs", served.auth_file)
        for arch in Architecture:
            assert pulled(tmp_path, f"{to}@{first}", arch, *credentials) > PADDING

        (checkout.site.payload / "lib/utils.sh").write_text("#!/bin/bash\n# another script\n")
        checkout.invoke("installer.build")
        second = checkout.digest
        said = checkout.invoke(*push, "--tag", "next")
        sent = re.search(r"\(([0-9.]+) MB sent, ([0-9.]+) MB were there\)", said)
        assert sent is not None, said
        assert float(sent[1]) < SCRIPT_LIMIT / 1e6
        assert float(sent[2]) > PADDING / 1e6
        for arch in Architecture:
            assert 0 < pulled(tmp_path, f"{to}@{second}", arch, *credentials) < SCRIPT_LIMIT
        files = ("--cert-dir", credentials[0], "--authfile", credentials[1])
        tagged = skopeo(tmp_path, "inspect", *files, "--raw", f"docker://{to}:next")
        assert f"sha256:{hashlib.sha256(tagged.encode()).hexdigest()}" == second


def pulled(tmp_path: Path, name: str, arch: Architecture, *credentials: str | Path) -> int:
    """Pull what a node of an architecture pulls, and return the bytes that it did not have."""
    blobs = tmp_path / f"node-{arch}/blobs/sha256"
    had = set(blobs.iterdir()) if blobs.is_dir() else set()
    copy = ("copy", "--src-cert-dir", credentials[0], "--src-authfile", credentials[1], "--override-arch", arch.oci)
    skopeo(tmp_path, *copy, f"docker://{name}", f"oci:{tmp_path}/node-{arch}:x")
    return sum(path.stat().st_size for path in set(blobs.iterdir()) - had)


def test_a_binary_of_the_other_architecture_is_not_locked(
    checkout: Checkout, binaries: dict[Architecture, bytes]
) -> None:
    checkout.site.publish("plain-1.0-arm64", binaries[Architecture.AMD64])
    said = checkout.invoke("installer.lock", "--mirror", checkout.site.mirror, code=2)
    assert "error: plain 1.0 for arm64: plain is a binary for amd64, not for arm64" in said
    assert "hint: correct {arch} in its url" in said
    assert not checkout.site.source.lock.exists()


def test_a_push_says_what_is_wrong(checkout: Checkout, tmp_path: Path) -> None:
    assert "run ./invoke installer.build" in checkout.invoke("installer.push", "--to", "r.test/a", code=2)
    checkout.invoke("installer.lock", "--mirror", checkout.site.mirror)
    checkout.invoke("installer.build", "--arch", "amd64")
    with registries.registry(tmp_path / "registry", password=True) as served:
        assert served.ca is not None
        to = f"{served.host}/{REPOSITORY}"
        assert "error: " in checkout.invoke("installer.push", "--to", to, code=6)
        empty = tmp_path / "no-credentials.json"
        empty.write_text("{}")
        push = ("installer.push", "--to", to, "--ca", served.ca, "--auth-file", empty)
        assert "hint: " in checkout.invoke(*push, code=6)
