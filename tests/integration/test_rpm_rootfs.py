"""A tree from a container's root file system: archives and images, good ones and all that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.core import namespace, progress
from pipeline.core.errors import InputError, NetworkError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import probe, rpm
from pipeline.image.bases.medium import Request
from pipeline.image.bases.repositories import Repository
from tests.integration import media, rpms
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution

pytestmark = [pytest.mark.root]
WANTED = (*media.PACKAGES, "kernel", "shim")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def system(tiny: Distribution, scratch: Path) -> Path:
    """The root directory of a container: rpm and a shell."""
    place = scratch / "container"
    place.mkdir()
    (place / "workspace").mkdir()
    found = media.repository(tiny.repository)

    def make() -> None:
        rpm.make(
            media.base(tiny.key), media.ARCH, ("bash", "rpm", "odd-firmware", "gone"), found, place,
            workspace=place / "workspace", package_cache=place / "packages",
        )  # fmt: skip

    with progress.session(place / "log"):
        namespace.run_private(make)
    tree.write(place / "tree", "etc/fstab", "UUID=1 / ext4 defaults 0 1\n")
    (place / "tree/etc/outside").symlink_to("../../../../../../../../tmp")
    return place / "tree"


def tarball(target: Path, root: Path, *options: str) -> Path:
    subprocess.run(["tar", "--create", "--file", target, "--xattrs", *options, "-C", root, "."], check=True)
    return target


@pytest.fixture(scope="module")
def archive(system: Path, scratch: Path) -> Path:
    return tarball(scratch / "tiny.tar.zst", system, "--zstd")


def asked(tiny: Distribution, repository: Path | None = None, **changes: object) -> Request:
    found = media.repository(repository or tiny.repository)
    return media.request(media.base(tiny.key), repositories=found, **({"packages": WANTED} | changes))


def test_what_is_lacking_is_installed_by_the_trees_own_rpm(archive: Path, tiny: Distribution, tmp_path: Path) -> None:
    base = media.base(tiny.key, avoid=["gone"])
    made = media.make(tmp_path, media.resolved("rootfs", archive), asked(tiny, base=base))
    root = made / "tree"
    assert not (root / "usr/share/tiny/gone").exists()
    assert (root / "etc/greeting").read_text().startswith("hello from ")
    rows = {row["name"]: row for row in json.loads((made / "packages.json").read_text())}
    assert set(rows) == {"tiny-release", "filesystem", "libraries", "bash", "rpm", "greeter", "kernel", "shim"}
    (file,) = tiny.repository.glob("greeter-*.rpm")
    assert rows["greeter"]["sha256"] == tree.file_sha256(file)
    assert rows["bash"]["sha256"] == ""  # what it came from, nobody knows
    assert json.loads((made / "origin.json").read_text())["epoch"] > 1_700_000_000
    facts = probe.Probe.model_validate(json.loads((made / "origin.json").read_text())["probe"])
    assert (facts.backend, facts.efi_vendors, facts.boot_packages) == (
        "sqlite",
        ("Tiny",),
        ("kernel-2-1.ty1", "shim-1-1.ty1"),
    )
    assert not list((root / "boot").glob("initramfs*"))
    assert (root / f"boot/vmlinuz-{rpms.KERNELS['kernel']}").exists()
    assert not (root / "usr/lib/firmware/odd.bin").exists()
    assert not (root / "etc/fstab").exists()
    assert list((root / "dev").iterdir()) == list((root / "run").iterdir()) == []
    assert not [path for path in root.rglob("*") if path.is_symlink() and path.readlink() == Path("/dev/null")]


def test_nothing_is_asked_of_a_network_if_nothing_is_lacking(archive: Path, tiny: Distribution, tmp_path: Path) -> None:
    nowhere = Repository(id="tiny", url="http://127.0.0.1:9/none")
    request = media.request(media.base(tiny.key), repositories=(nowhere,), packages=("rpm", "bash"))
    media.make(tmp_path, media.resolved("rootfs", archive), request)
    with pytest.raises(NetworkError):
        lacking = media.request(media.base(tiny.key), repositories=(nowhere,))
        media.make(tmp_path, media.resolved("rootfs", archive), lacking, name="lacking")
    assert media.left(tmp_path, "lacking") == []


MAKE = f"""
import sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from tests.integration import media
from tests.integration.test_rpm_base import digest
request = media.request(media.base(sys.argv[2]), repositories=media.repository(Path(sys.argv[4])), packages={WANTED!r})
print(digest(media.make(Path(sys.argv[3]), media.resolved("rootfs", Path(sys.argv[1])), request)))
"""


def test_an_ordinary_user_makes_the_same_tree(
    archive: Path, tiny: Distribution, tmp_path: Path, ordinary: OrdinaryUser
) -> None:
    from tests.integration.test_rpm_base import digest

    first = digest(media.make(tmp_path, media.resolved("rootfs", archive), asked(tiny)))
    result = ordinary.run([sys.executable, "-c", MAKE, archive, tiny.key, ordinary.directory, tiny.repository])
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] == first


# ------------------------------------------------------------------------------------------------ container images


def blob(layout: Path, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content), "mediaType": "application/octet-stream"}


def oci(layout: Path, layers: list[bytes], arches: tuple[str, ...] = (media.ARCH.oci,), nested: bool = False) -> Path:
    """Write an OCI layout; the layers are the first architecture's, the others' are empty."""
    layout.mkdir()
    found = []
    for number, arch in enumerate(arches):
        config = blob(layout, json.dumps({"architecture": arch, "os": "linux"}).encode())
        parts = [blob(layout, layer) for layer in (layers if number == 0 else [])]
        manifest = blob(layout, json.dumps({"config": config, "layers": parts, "schemaVersion": 2}).encode())
        found.append(manifest | ({"platform": {"architecture": arch, "os": "linux"}} if nested else {}))
    if nested:
        found.append(blob(layout, b"{}") | {"platform": {"architecture": "unknown", "os": "unknown"}})
        found = [blob(layout, json.dumps({"manifests": found}).encode())]
    (layout / "index.json").write_text(json.dumps({"manifests": found, "schemaVersion": 2}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


@pytest.fixture(scope="module")
def layers(system: Path, scratch: Path) -> list[bytes]:
    """Two layers: the second one takes a file away and changes another."""
    place = scratch / "layers"
    (place / "second/etc").mkdir(parents=True)
    (place / "second/etc/.wh.fstab").touch()
    (place / "second/etc/added").write_text("by the second layer")
    first = tarball(place / "first.tar.gz", system, "--gzip", "--exclude=./usr/lib/firmware")
    return [first.read_bytes(), tarball(place / "second.tar", place / "second", "--zstd").read_bytes()]


@pytest.mark.parametrize("form", ["directory", "archive", "nested"])
def test_an_oci_image(tiny: Distribution, layers: list[bytes], tmp_path: Path, form: str) -> None:
    arches = (media.ARCH.oci, media.FOREIGN.oci)
    image = oci(tmp_path / "layout", layers, arches, nested=form == "nested")
    if form == "archive":
        image = tarball(tmp_path / "image.tar", image)
    made = media.make(tmp_path, media.resolved("rootfs", image), asked(tiny))
    assert (made / "tree/etc/added").read_text() == "by the second layer"
    assert (made / "tree/etc/greeting").exists()


def docker(place: Path, layers: list[bytes], arch: str = media.ARCH.oci) -> Path:
    """Write what ``docker save`` writes, with plain layers."""
    place.mkdir()
    names, sums = [], []
    for number, layer in enumerate(layers):
        (place / f"layer{number}").mkdir()
        tool = "gzip" if layer.startswith(b"\x1f\x8b") else "zstd"
        plain = subprocess.run([tool, "-dc"], input=layer, stdout=subprocess.PIPE, check=True).stdout
        (place / f"layer{number}/layer.tar").write_bytes(plain)
        names.append(f"layer{number}/layer.tar")
        sums.append(f"sha256:{hashlib.sha256(plain).hexdigest()}")
    config = {"architecture": arch, "rootfs": {"type": "layers", "diff_ids": sums}}
    (place / "config.json").write_text(json.dumps(config))
    entry = {"Config": "config.json", "RepoTags": ["tiny:1"], "Layers": names}
    (place / "manifest.json").write_text(json.dumps([entry]))
    return place


def test_what_docker_saves(tiny: Distribution, layers: list[bytes], tmp_path: Path) -> None:
    image = tarball(tmp_path / "saved.tar.xz", docker(tmp_path / "saved", layers), "--xz", "--transform=s,^./,,")
    made = media.make(tmp_path, media.resolved("rootfs", image), asked(tiny, packages=("rpm",)))
    assert (made / "tree/etc/added").exists()


# ------------------------------------------------------------------------------------------ what is wrong is said


def refused(place: Path, path: Path, request: Request, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        media.make(place, media.resolved("rootfs", path), request)
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert media.left(place) == []


def test_an_image_of_another_architecture(tiny: Distribution, layers: list[bytes], tmp_path: Path) -> None:
    image = oci(tmp_path / "layout", layers, (media.FOREIGN.oci, "s390x"))
    refused(tmp_path, image, asked(tiny), f"is for {media.FOREIGN.oci}, s390x; {media.ARCH}")
    saved = docker(tmp_path / "saved", layers, media.FOREIGN.oci)
    refused(tmp_path, saved, asked(tiny), f"is for {media.FOREIGN} (", f"{media.ARCH} (")


def test_an_archive_of_another_architecture_or_release(archive: Path, tiny: Distribution, tmp_path: Path) -> None:
    refused(tmp_path, archive, asked(tiny, arch=media.FOREIGN), f"is for {media.ARCH} (", f"{media.FOREIGN} (")
    wanted = {"ID": "tiny", "VERSION_ID": "2"}
    refused(tmp_path, archive, asked(tiny, os_release=wanted), "holds Tiny 1 (One)", "should be '2'")


def test_several_images_of_one_architecture(tiny: Distribution, layers: list[bytes], tmp_path: Path) -> None:
    image = oci(tmp_path / "layout", layers, (media.ARCH.oci, media.ARCH.oci))
    refused(tmp_path, image, asked(tiny), f"holds 2 images for {media.ARCH}")


def test_an_image_with_parts_missing_or_changed(tiny: Distribution, layers: list[bytes], tmp_path: Path) -> None:
    image = oci(tmp_path / "layout", layers)
    part = image / "blobs/sha256" / hashlib.sha256(layers[1]).hexdigest()
    part.write_bytes(layers[1] + b"x")
    refused(tmp_path, image, asked(tiny), "is another one")
    part.unlink()
    refused(tmp_path, image, asked(tiny), "lacks sha256:")
    saved = docker(tmp_path / "saved", layers)
    with (saved / "layer0/layer.tar").open("ab") as stream:
        stream.write(b"x")
    refused(tmp_path, saved, asked(tiny), "the content of layer0/layer.tar is another one")


def test_a_name_out_of_an_image_is_no_digest(tiny: Distribution, layers: list[bytes], tmp_path: Path) -> None:
    image = oci(tmp_path / "layout", layers)
    index = json.loads((image / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../../../etc/passwd"
    (image / "index.json").write_text(json.dumps(index))
    refused(tmp_path, image, asked(tiny), "lacks sha256:../")


def without_rpm(root: Path) -> None:
    (root / "usr/bin/rpm").unlink()


def without_database(root: Path) -> None:
    shutil.rmtree(root / "var/lib/rpm")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(without_rpm, "has no package manager: there is no /usr/bin/rpm"), (without_database, "package database of")],
)
def test_a_system_that_cannot_be_completed(
    system: Path, tiny: Distribution, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    root = tmp_path / "system"
    shutil.copytree(system, root, symlinks=True)
    spoil(root)
    refused(tmp_path, tarball(tmp_path / "system.tar", root), asked(tiny), message)


def test_what_is_no_root_file_system(tiny: Distribution, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("hello")
    refused(tmp_path, tmp_path / "text.tar", asked(tiny), "cannot be read as an archive")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no container image"):
        media.resolved("rootfs", tmp_path / "empty")


def test_a_link_out_of_the_tree_harms_nothing(system: Path, tiny: Distribution, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rpm").write_text("the host's")
    root = tmp_path / "system"
    shutil.copytree(system, root, symlinks=True)
    for name in ("etc/kernel", "etc/dracut.conf.d", "var/log", "var/cache"):  # where the build writes and removes
        if (root / name).exists():
            shutil.rmtree(root / name)
        (root / name).symlink_to(outside)
    made = media.make(tmp_path, media.resolved("rootfs", tarball(tmp_path / "evil.tar", root)), asked(tiny))
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("rpm", "the host's")]
    assert (made / "tree" / str(outside).lstrip("/")).is_dir()  # what was written lies inside


def test_signatures_are_checked(archive: Path, tiny: Distribution, tmp_path: Path) -> None:
    repository = tiny.copy(tmp_path / "repository")
    rpms.run("rpmsign", "--delsign", *repository.glob("greeter-*.rpm"))
    rpms.index(repository)
    with pytest.raises(VerificationError, match=r"greeter-1-1\S+rpm: .*is not signed by a key of the profile"):
        media.make(tmp_path, media.resolved("rootfs", archive), asked(tiny, repository))
    assert media.left(tmp_path) == []


@pytest.mark.parametrize(
    ("packages", "message"), [(("nobody-made-this",), "nobody-made-this"), (("impossible",), "nobody-has-this")]
)
def test_packages_that_cannot_be_had(
    archive: Path, tiny: Distribution, tmp_path: Path, packages: tuple[str, ...], message: str
) -> None:
    refused(tmp_path, archive, asked(tiny, packages=packages), message, f"(for {media.ARCH})")
