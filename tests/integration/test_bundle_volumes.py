"""Bundles' volumes with real programs and file systems: skopeo, tar, sha256sum, openssl, full and read-only disks."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from pipeline.bundle.archive import Archive
from pipeline.bundle.tar import blob_path
from pipeline.bundle.verify import verify
from pipeline.bundle.write import Writer
from pipeline.core import namespace
from pipeline.core.errors import StorageError
from tests.integration import registries
from tests.unit.bundles import HOST, KIB, Made, noise, write


@pytest.fixture
def made() -> Made:
    return Made(1)


def test_other_programs_read_it(tmp_path: Path, made: Made, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, joined = tmp_path / "v1", tmp_path / "joined.tar"
    write(folder, made)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    subprocess.run(f"cat '{folder}'/v1.bundle.* > '{joined}'", shell=True, check=True)  # noqa: S602 - as users do
    listed = subprocess.run(["tar", "--list", "--file", joined], check=True, capture_output=True, text=True)
    assert listed.stderr == ""
    assert set(map(blob_path, made.blobs)) < set(listed.stdout.splitlines())
    work = tmp_path_factory.mktemp("skopeo")
    name = f"oci-archive:{joined}:{HOST}/platform/app:v1"
    assert registries.skopeo(work, "inspect", "--raw", name).encode() == made.blobs[made.image.root.digest]
    registries.skopeo(work, "copy", "--all", "--preserve-digests", name, f"oci:{work / 'out'}:v1")
    found = {path.name: path.read_bytes() for path in (work / "out/blobs/sha256").iterdir()}
    child = made.image.attachments[0].root.digest
    without = {digest: data for digest, data in made.blobs.items() if digest != child and len(data) > 10}
    assert {digest.partition(":")[2]: data for digest, data in without.items()}.items() <= found.items()


def test_openssl_checks_the_signature(tmp_path: Path, made: Made) -> None:
    key, public = tmp_path / "bundle.key", tmp_path / "bundle.pub"
    words = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]
    subprocess.run([*words, key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    write(tmp_path / "v1", made, key=key)
    with Archive.open(tmp_path / "v1") as archive:
        (tmp_path / "data").write_bytes(archive.head["bundle.json"])
        (tmp_path / "signature").write_bytes(base64.b64decode(archive.head["bundle.json.sig"]))
    check = ["openssl", "dgst", "-sha256", "-verify", str(public), "-signature", "signature", "data"]
    assert b"Verified OK" in subprocess.run(check, cwd=tmp_path, check=True, capture_output=True).stdout


@pytest.mark.root
@pytest.mark.parametrize("size", [40, 150, 200], ids=lambda size: f"{size} KiB")
def test_a_full_disk(tmp_path: Path, made: Made, size: int) -> None:
    def work() -> str:
        namespace.mount("tmpfs", tmp_path, kind="tmpfs", options=f"size={size}k")
        with pytest.raises(StorageError) as caught:
            write(tmp_path / "v1", made)
        assert "free some space" in caught.value.hint
        return caught.value.message

    message = namespace.run_private(work)
    assert "cannot be written: No space left on device" in message
    assert "v1.bundle.0" in message


@pytest.mark.root
def test_a_disk_that_is_full_with_the_last_bytes(tmp_path: Path) -> None:
    """What a program still had in its buffer is written when the file is closed."""

    def work() -> str:
        namespace.mount("tmpfs", tmp_path, kind="tmpfs", options="size=8k")
        with Writer(tmp_path, "v1", None) as writer, pytest.raises(StorageError) as caught:
            writer.add(f"blobs/sha256/{'a' * 64}", 20 * KIB, noise(1, 20 * KIB))
        return caught.value.message

    assert "v1.bundle.001: cannot be written: No space left" in namespace.run_private(work)


@pytest.mark.root
def test_volumes_in_a_read_only_file_system(tmp_path: Path, made: Made) -> None:
    def work() -> int:
        namespace.mount("tmpfs", tmp_path, kind="tmpfs")
        write(tmp_path / "v1", made)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with Archive.open(tmp_path / "v1") as archive:
            assert archive.read(made.layers[0]) == made.blobs[made.layers[0]]
            return verify(archive).blobs

    assert namespace.run_private(work) == len(made.blobs)
