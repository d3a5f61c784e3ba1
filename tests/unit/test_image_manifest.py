"""Manifests: sizes, checksums and the bill of materials, from a tree and packages that are made here."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom

from pipeline.core.arch import Architecture
from pipeline.image import manifest
from pipeline.image.bases.deb import Package
from pipeline.image.bases.medium import Kind, Medium
from pipeline.image.bases.probe import Probe
from pipeline.image.plan import Plan
from tests.unit.projects import Project

ROOT = Path(__file__).resolve().parents[2]
EPOCH = 1_700_000_000
PACKAGES = (
    Package(name="big", version="1:2.0+dfsg-1~deb12u1", architecture="amd64", sha256="a" * 64, source="big-src",
            maintainer="Grüße GmbH <x@example.org>"),
    Package(name="libsame", version="3", architecture="amd64", sha256="b" * 64, source="libsame", maintainer="M"),
    Package(name="small", version="0.1", architecture="all", sha256="c" * 64, source="small", maintainer="M"),
)  # fmt: skip


def put(root: Path, path: str, size: int) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(b"x" * size)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a merged /usr and a package database."""
    found = tmp_path / "tree"
    put(found, "usr/bin/big", 3_000_000)
    put(found, "usr/lib/libsame.so.3", 8192)
    put(found, "etc/small.conf", 100)
    (found / "bin").symlink_to("usr/bin")
    (found / "lib").symlink_to("usr/lib")
    (found / "usr/lib/libsame.so").symlink_to("/usr/lib/libsame.so.3")
    listings = {
        "big.list": ["/.", "/bin", "/bin/big", "/usr", "/usr/share", "/usr/share/doc/big/left-out.gz"],
        "libsame:amd64.list": ["/.", "/lib", "/lib/libsame.so.3", "/usr/lib/libsame.so"],
        "small.list": ["/.", "/etc", "/etc/small.conf"],
    }
    for name, lines in listings.items():
        put(found, f"var/lib/dpkg/info/{name}", 0)
        (found / "var/lib/dpkg/info" / name).write_text("".join(f"{line}\n" for line in lines))
    return found


@pytest.fixture
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return Project(tmp_path_factory.mktemp("project")).plan()


@pytest.fixture
def written(tmp_path: Path, root: Path, plan: Plan) -> Path:
    """The directory of an image, with everything that belongs to it."""
    target = tmp_path / "target"
    target.mkdir()
    (target / f"{plan.name}.qcow2").write_bytes(b"an image")
    facts = manifest.Facts(
        packages=PACKAGES,
        kernels=("6.1.0-2", "6.1.0-1"),
        epoch=EPOCH,
        keys={"base": "1" * 64, "image": plan.key},
        identifiers={"disk": "d", "root": "r", "esp": "e"},
        maker="mmdebstrap 1.2.3",
    )
    write(target, plan, root, target / f"{plan.name}.qcow2", facts)
    return target


def write(target: Path, plan: Plan, root: Path, image: Path, facts: manifest.Facts) -> None:
    files = manifest.package_files(root, plan.family, facts.packages)
    manifest.write(target, plan, image, manifest.describe(plan, root, facts, files))


def load(path: Path) -> Any:  # noqa: ANN401  JSON
    return json.loads(path.read_text())


def test_every_file_has_a_checksum_that_coreutils_confirms(written: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=written, capture_output=True, text=True, check=True
    )
    assert checked.stdout.splitlines() == [
        "debian-12-amd64.qcow2: OK", "manifest.json: OK", "packages.json: OK", "plan.json: OK", "sbom.cdx.json: OK",
    ]  # fmt: skip


def test_the_manifest_says_what_the_image_is(written: Path, plan: Plan) -> None:
    found = load(written / "manifest.json")
    assert {name: found[name] for name in ("schema", "name", "os", "release", "arch", "key", "epoch", "kernels")} == {
        "schema": 1, "name": "debian-12-amd64", "os": "debian", "release": "12", "arch": "amd64", "key": plan.key,
        "epoch": EPOCH, "kernels": ["6.1.0-2", "6.1.0-1"],
    }  # fmt: skip
    assert found["image"] == {
        "file": "debian-12-amd64.qcow2",
        "size": 8,
        "virtual_size": 4 * 1024**3,
        "sha256": hashlib.sha256(b"an image").hexdigest(),
    }
    assert found["expectations"]["services"]
    assert found["steps"] == {"base": "1" * 64, "image": plan.key}
    assert found["provenance"]["tools"]["base"] == "mmdebstrap 1.2.3"
    assert found["provenance"]["tools"]["mke2fs"].startswith("mke2fs 1.")
    assert len(found["provenance"]["sources"]) == 1


def test_sizes_are_those_in_the_image_however_this_machine_keeps_the_files(
    root: Path, tmp_path: Path, plan: Plan
) -> None:
    subprocess.run(["fallocate", "--keep-size", "--length", "1M", root / "etc/small.conf"], check=True)
    assert (root / "etc/small.conf").stat().st_blocks * 512 >= 2**20
    (tmp_path / "image").touch()
    facts = manifest.Facts(packages=PACKAGES, kernels=(), epoch=EPOCH, keys={}, identifiers={}, maker="x")
    write(tmp_path, plan, root, tmp_path / "image", facts)
    assert {row["name"]: row["size"] for row in load(tmp_path / "packages.json")}["small"] == 4096


@pytest.mark.parametrize(("said", "size"), [({}, 4096), ({"page_size": 65536}, 65536)])
def test_the_manifest_says_how_large_a_page_of_memory_is(
    root: Path, tmp_path: Path, said: dict[str, int], size: int
) -> None:
    project = Project(tmp_path)
    project.release["arch"]["arm64"] |= said
    (tmp_path / "i.qcow2").write_bytes(b"an image")
    facts = manifest.Facts(packages=PACKAGES, kernels=(), epoch=EPOCH, keys={}, identifiers={}, maker="x")
    write(tmp_path, project.plan(Architecture.ARM64), root, tmp_path / "i.qcow2", facts)
    assert load(tmp_path / "manifest.json")["page_size"] == size


def test_a_deb_image_has_no_medium_and_was_not_asked(written: Path) -> None:
    provenance = load(written / "manifest.json")["provenance"]
    assert (provenance["medium"], provenance["probe"]) == (None, None)


@pytest.mark.parametrize(("kind", "file"), [("iso", "Kylin V10 (1).iso"), ("rootfs", "unpacked")])
def test_what_the_medium_was_and_said_is_kept_but_not_where_it_lay(
    root: Path, plan: Plan, tmp_path: Path, kind: Kind, file: str
) -> None:
    medium = Medium(kind=kind, path=tmp_path / "vault" / file, digest="d" * 64, size=5)
    said = Probe(os_release={"ID": "kylin"}, backend="bdb", boot_packages=("kernel-4.19-1",), efi_vendors=("kylin",))
    (tmp_path / "i.qcow2").write_bytes(b"an image")
    facts = manifest.Facts(packages=PACKAGES, kernels=(), epoch=EPOCH, keys={}, identifiers={}, maker="x", probe=said)
    write(tmp_path, plan.model_copy(update={"medium": medium}), root, tmp_path / "i.qcow2", facts)
    provenance = load(tmp_path / "manifest.json")["provenance"]
    assert provenance["medium"] == {"kind": kind, "digest": "d" * 64, "file": file}
    assert provenance["probe"] == {
        "os_release": {"ID": "kylin"}, "rpm_version": "", "database": "", "backend": "bdb", "payload": "",
        "boot_packages": ["kernel-4.19-1"], "efi_vendors": ["kylin"],
    }  # fmt: skip
    for name in ("manifest.json", "plan.json"):
        assert "vault" not in (tmp_path / name).read_text()


def test_nothing_of_this_machine_is_in_it(written: Path, tmp_path: Path) -> None:
    for file in written.glob("*.json"):
        assert str(tmp_path) not in file.read_text()
        assert str(ROOT) not in file.read_text()


def test_the_plan_is_kept(written: Path, plan: Plan) -> None:
    assert load(written / "plan.json") == json.loads(json.dumps(plan.inputs))


def test_packages_weigh_what_is_really_there(written: Path) -> None:
    rows = {row["name"]: row for row in load(written / "packages.json")}
    assert list(rows) == ["big", "libsame", "small"]
    assert 3_000_000 <= rows["big"]["size"] < 3_100_000  # found although it says /bin; what was left out is not counted
    assert rows["libsame"]["size"] in range(8192, 3 * 4096 + 1)  # a short link takes nothing or a block
    assert rows["small"]["size"] in range(1, 4097)
    assert rows["big"]["version"] == "1:2.0+dfsg-1~deb12u1"
    assert list(load(written / "manifest.json")["largest_packages"])[-1] != "big"  # keys are sorted by name ...
    assert max(load(written / "manifest.json")["largest_packages"].items(), key=lambda item: item[1])[0] == "big"


def test_directories_weigh_what_is_in_them(written: Path) -> None:
    found = load(written / "manifest.json")["tree"]
    assert 3_000_000 <= found["directories"]["usr/bin"] < 3_100_000
    assert set(found["directories"]) == {"usr/bin"}  # the others have less than a mebibyte
    assert found["size"] >= 3_008_192


def test_the_bill_of_materials_is_read_back_by_its_library(written: Path, plan: Plan) -> None:
    document = load(written / "sbom.cdx.json")
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    bom = Bom.from_json(document)  # type: ignore[attr-defined]
    assert isinstance(bom, Bom)
    assert bom.validate()
    assert bom.serial_number == uuid.UUID(plan.key[:32])
    assert bom.metadata.timestamp.timestamp() == EPOCH
    components = {component.name: component for component in bom.components}
    assert set(components) == {"big", "libsame", "small"}
    big = components["big"]
    assert big.version == "1:2.0+dfsg-1~deb12u1"
    assert str(big.purl) == "pkg:deb/debian/big@1:2.0%2Bdfsg-1~deb12u1?arch=amd64&distro=debian-12"
    assert {item.content for item in big.hashes} == {"a" * 64}
    assert big.publisher == "Grüße GmbH <x@example.org>"


def test_the_bill_of_materials_depends_on_its_inputs_only(
    written: Path, root: Path, plan: Plan, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    (again / "i.qcow2").write_bytes(b"another image")
    facts = manifest.Facts(
        packages=tuple(reversed(PACKAGES)), kernels=(), epoch=EPOCH, keys={}, identifiers={}, maker="x"
    )
    write(again, plan, root, again / "i.qcow2", facts)
    assert (again / "sbom.cdx.json").read_bytes() == (written / "sbom.cdx.json").read_bytes()
