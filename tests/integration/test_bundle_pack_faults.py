"""Packing under real faults: what is gone, refused, damaged, cut off, killed, or has no room."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bundle.assemble import Options
from pipeline.bundle.images import ImageList
from pipeline.bundle.pack import pack
from pipeline.core import namespace, publish
from pipeline.core.errors import InputError, NetworkError, StorageError, VerificationError
from pipeline.oci import Registry
from tests.integration import registries
from tests.integration.packed import (
    EPOCH,
    KIB,
    App,
    Maker,
    client,
    make_app,
    noise,
    packed,
    sums,
    wanted,
)
from tests.integration.registries import Served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _a_fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", EPOCH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packing")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    """A registry without TLS and passwords."""
    with registries.registry(folder / "plain", tls=False) as running:
        yield running


@pytest.fixture(scope="module")
def app(folder: Path, served: Served) -> App:
    return make_app(folder / "app", client(served.host))


def test_every_image_that_is_gone_is_named(served: Served, app: App, tmp_path: Path) -> None:
    names = [f"platform/none@{app.index.digest}", "platform/app:v7", "platform/app:v1"]
    images = ImageList(tuple(one for name in names for one in wanted(served.host, name).images))
    with pytest.raises(NetworkError) as caught:
        packed(images, tmp_path)
    assert [name in caught.value.message for name in names] == [True, True, False]
    assert "deleted from the registry" in caught.value.hint


def test_no_password(folder: Path, tmp_path: Path) -> None:
    with registries.registry(folder / "secure", password=True) as served:
        for auth in (None, registries.auth_file(tmp_path / "auth.json", served.host, password="wrong")):

            def secure(host: str, auth: Path | None = auth, ca: Path | None = served.ca) -> Registry:
                return client(host, plain_http=False, ca=ca, auth_file=auth)

            with pytest.raises(NetworkError, match="credentials are missing or wrong"):
                pack(wanted(served.host, "a/b:v1"), "v1", secure, tmp_path / ".store", Options(tmp_path))
        with pytest.raises(NetworkError, match="certificate is not trusted"):
            pack(
                wanted(served.host, "a/b:v1"),
                "v1",
                lambda host: client(host, plain_http=False),
                tmp_path / ".store",
                Options(tmp_path),
            )


@pytest.mark.parametrize("how", ["other", "gone"])
def test_a_blob_that_is_damaged_in_the_registry(folder: Path, tmp_path: Path, how: str) -> None:
    maker = Maker(tmp_path / "image")
    layer = maker.layer("file", noise(7, 50 * KIB))
    with registries.registry(folder / f"damaged-{how}", tls=False) as served:
        maker.push(client(served.host), "a/b", maker.image("amd64", layer), "v1")
        hexadecimal = layer.digest.partition(":")[2]
        blob = served.root / f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
        if how == "gone":
            shutil.rmtree(blob.parent)
        else:
            blob.write_bytes(noise(8, layer.size))
        with pytest.raises(NetworkError, match=layer.digest):
            packed(wanted(served.host, "a/b:v1"), tmp_path)
    assert not (tmp_path / "v1").exists()


def test_a_blob_that_is_damaged_in_the_store_is_fetched_again(served: Served, app: App, tmp_path: Path) -> None:
    images = wanted(served.host, "platform/app:v1")
    packed(images, tmp_path).close()
    good = sums(tmp_path / "v1")
    layer = max(app.blobs(), key=lambda name: len(app.blobs()[name]))
    path = tmp_path / ".store/blobs/sha256" / layer
    times = path.stat()
    path.write_bytes(noise(9, times.st_size))
    packed(images, tmp_path).close()
    assert sums(tmp_path / "v1") == good

    path.write_bytes(noise(9, times.st_size))
    times = path.stat()
    (tmp_path / ".store/marks/sha256" / layer).write_text(f"{times.st_size} {times.st_mtime_ns}")
    with pytest.raises(VerificationError, match=layer) as caught:
        packed(images, tmp_path)
    assert "run the same command again" in caught.value.hint
    assert sums(tmp_path / "v1") == good, "the old one stays until there is a new one"
    packed(images, tmp_path).close()
    assert sums(tmp_path / "v1") == good


@pytest.mark.usefixtures("app")
def test_the_line_breaks_while_a_layer_comes(served: Served, tmp_path: Path) -> None:
    packed(wanted(served.host, "platform/app:v1"), tmp_path / "good").close()
    line = registries.Line(served.host, registries.Faults(down=[70_000, 120_000]))
    with registries.serving(line):
        images = wanted(served.host, "platform/app:v1")
        pack(images, "v1", lambda _: client(line.host), tmp_path / ".store", Options(tmp_path)).close()
    assert line.faults.broken == 2
    assert sums(tmp_path / "v1") == sums(tmp_path / "good/v1")


SCRIPT = """
import sys
from pathlib import Path
from pipeline.bundle.assemble import Options
from pipeline.bundle.images import load
from pipeline.bundle.pack import pack
from pipeline.oci import Registry, RegistryOptions
images, out = load(Path(sys.argv[1])), Path(sys.argv[2])
pack(images, "v1", lambda host: Registry(host, RegistryOptions(plain_http=True)), out / ".store",
     Options(out, volume_size=100_000, store=sys.argv[3])).close()
"""


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("store", ["plain", "lean"])
def test_killed_at_any_moment(served: Served, tmp_path: Path, store: str) -> None:
    file = tmp_path / "images.yaml"
    file.write_text(f"images: ['{served.host}/platform/app:v1']\n")
    command: list[str | Path] = [sys.executable, "-c", SCRIPT, file]
    begun = time.monotonic()
    subprocess.run([*command, tmp_path / "whole", store], cwd=ROOT, check=True)
    took = time.monotonic() - begun
    good = sums(tmp_path / "whole/v1")
    out = tmp_path / "out"
    for part in range(1, 8):
        child = subprocess.Popen([*command, out, store], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            child.wait(took * part / 8)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        if (out / "v1").exists():
            assert sums(out / "v1") == good
    subprocess.run([*command, out, store], cwd=ROOT, check=True)
    assert sums(out / "v1") == good
    assert sorted(path.name for path in out.iterdir()) == [".store", "logs", "v1"]


@pytest.mark.usefixtures("app")
@pytest.mark.root
@pytest.mark.parametrize("size", [300, 700, 1200], ids=lambda size: f"{size} KiB")
def test_a_full_disk(served: Served, tmp_path: Path, size: int) -> None:
    place = tmp_path / "small"
    place.mkdir()

    def work() -> list[str]:
        namespace.mount("tmpfs", place, kind="tmpfs", options=f"size={size}k")
        with pytest.raises(StorageError) as caught:
            packed(wanted(served.host, "platform/app:v1"), place / "out")
        assert "free some space" in caught.value.hint
        return sorted(path.name for path in (place / "out").iterdir())

    assert set(namespace.run_private(work)) <= {".store", "logs"}


@pytest.mark.usefixtures("app")
def test_something_else_has_the_place(served: Served, tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1/mine").write_text("not a bundle")
    with pytest.raises(InputError, match="is there, and is no bundle"):
        packed(wanted(served.host, "platform/app:v1"), tmp_path)
    assert (tmp_path / "v1/mine").exists()
    for name in ("../v2", "logs"):
        with pytest.raises(InputError, match="is not a bundle's name"):
            packed(wanted(served.host, "platform/app:v1"), tmp_path, name)


@pytest.mark.usefixtures("app")
def test_names_that_begin_alike_do_not_disturb_each_other(served: Served, tmp_path: Path) -> None:
    with publish.staging(tmp_path, "v1.2~") as other:
        packed(wanted(served.host, "platform/app:v1"), tmp_path, "v1").close()
        assert other.is_dir()


@pytest.mark.usefixtures("app")
def test_a_deterministic_time_is_kept(served: Served, tmp_path: Path) -> None:
    assert os.environ["SOURCE_DATE_EPOCH"] == "1795575600"
    with packed(wanted(served.host, "platform/app:v1"), tmp_path) as archive:
        assert archive.bundle.created == "2026-11-25T03:00:00Z"
        assert (archive.bundle.kind, archive.bundle.name, archive.bundle.store) == ("full", "v1", "plain")
