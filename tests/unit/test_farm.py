"""A farm without Dask: addresses, versions, what servers offer, what travels, and where images are collected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from pipeline import matrix, profile
from pipeline.core import publish
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, StorageError
from pipeline.image import overlay
from pipeline.matrix import collect, commands, farm, parcel, version
from pipeline.matrix.farm import Access, Address
from pipeline.matrix.model import Order, Workshop

ROOT = Path(__file__).resolve().parents[2]
AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64
OURS, OTHER = "0123456789ab", "ba9876543210"


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "expected", "is_loopback"),
    [
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786", True),
        ("tcp://localhost", "tcp://localhost:8786", True),
        ("tls://farm.site.example:99/", "tls://farm.site.example:99", False),
        ("tls://[2001:db8::1]:99", "tls://[2001:db8::1]:99", False),
        ("tcp://[::1]", "tcp://[::1]:8786", True),
        ("tcp://0.0.0.0:1", "tcp://0.0.0.0:1", False),
    ],
)
def test_an_address_is_read(text: str, expected: str, is_loopback: bool) -> None:
    found = Address.parse(text)
    assert (str(found), found.is_loopback) == (expected, is_loopback)


@pytest.mark.parametrize(
    "text",
    ["", "farm", "farm:8786", "http://farm:8786", "tcp://", "tcp://farm:port", "tcp://farm:99999", "tcp://a:b:1"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--scheduler") as caught:
        Address.parse(text)
    assert "tls://HOST:8786" in caught.value.hint


def test_tls_wants_its_files_and_tcp_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")]
    tls, tcp = Address.parse("tls://farm"), Address.parse("tcp://farm")
    with pytest.raises(InputError, match=r"needs --ca$"):
        Access(tls).check()
    with pytest.raises(InputError, match=r"needs --ca, but there is no file .*ca\.pem"):
        Access(tls, *files).check()
    for file in files:
        file.write_text("no certificate\n")
    Access(tls, *files).check()
    with pytest.raises(InputError, match="are no authority, certificate and key") as caught:
        Access(tls, *files).security()
    assert "docs/scaling.md" in caught.value.hint
    with pytest.raises(InputError, match="certificates do not go with tcp"):
        Access(tcp, *files).check()
    Access(Address.parse("tcp://localhost")).check()
    assert "warning" not in capsys.readouterr().err
    Access(tcp).check()
    assert "warning: tcp://farm:8786 is without TLS" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- who offers what


def info(**servers: list[str]) -> dict[str, Any]:
    """Return what Dask's scheduler says of its workers."""
    workers = {
        f"tcp://{name}": {"name": name, "resources": dict.fromkeys(offers, 1.0)} for name, offers in servers.items()
    }
    return {"workers": workers}


NATIVE = {arch: farm.offer(arch, OURS, emulated=False) for arch in Architecture}
EMULATED = {arch: farm.offer(arch, OURS, emulated=True) for arch in Architecture}


@pytest.mark.parametrize("emulation", [False, True])
def test_a_native_server_is_chosen_whatever_is_allowed(emulation: bool) -> None:
    found = farm.servers(info(a=[NATIVE[AMD64], EMULATED[ARM64]], b=[NATIVE[ARM64]]))
    assert farm.choose([AMD64, ARM64, ARM64], found, OURS, emulation=emulation) == NATIVE


def test_emulation_is_chosen_only_where_it_is_allowed() -> None:
    found = farm.servers(info(a=[NATIVE[AMD64], EMULATED[ARM64]]))
    with pytest.raises(DependencyError, match="none of 1 servers of this version builds images of arm64") as caught:
        farm.choose([AMD64, ARM64], found, OURS, emulation=False)
    assert "with --allow-emulation a would build them" in caught.value.hint
    assert farm.choose([ARM64], found, OURS, emulation=True) == {ARM64: EMULATED[ARM64]}


@pytest.mark.parametrize("emulation", [False, True])
def test_what_nobody_offers_is_said_whole(emulation: bool) -> None:
    with pytest.raises(
        DependencyError, match="none of 0 servers of this version builds images of amd64 and arm64"
    ) as e:
        farm.choose([ARM64, AMD64], (), OURS, emulation=emulation)
    assert "./invoke worker" in e.value.hint
    assert "--emulate" in e.value.hint


def test_servers_of_another_version_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    other = farm.offer(AMD64, OTHER, emulated=False)
    found = farm.servers(info(old=[other], new=[NATIVE[AMD64]], stranger=["GPU"]))
    assert farm.choose([AMD64], found, OURS, emulation=False) == {AMD64: NATIVE[AMD64]}
    said = capsys.readouterr().err
    assert f"server old is refused: it has version {OTHER} of this project, and here is {OURS}" in said
    assert "stranger" not in said
    with pytest.raises(InputError, match=f"old has version {OTHER} of this project, and here is version {OURS}"):
        farm.choose([AMD64], farm.servers(info(old=[other])), OURS, emulation=False)


def test_a_version_is_that_of_the_code(tmp_path: Path) -> None:
    for room in version.ROOMS:
        (tmp_path / "pipeline" / room).mkdir(parents=True)
        (tmp_path / "pipeline" / room / "one.py").write_text("x = 1\n")
    (tmp_path / "requirements.txt").write_text("distributed==1\n")

    def now() -> str:
        version.current.cache_clear()
        return version.current(tmp_path)

    seen = [now()]
    (tmp_path / "pipeline/lab").mkdir()
    (tmp_path / "pipeline/lab/new.py").write_text("not of the rooms that decide what an image is\n")
    (tmp_path / "pipeline/core/__pycache__").mkdir()
    (tmp_path / "pipeline/core/__pycache__/one.pyc").write_text("compiled")
    assert now() == seen[0]
    for path in ("pipeline/core/one.py", "pipeline/image/two.py", "requirements.txt"):
        with (tmp_path / path).open("a") as file:
            file.write("# a comment counts too\n")
        seen.append(now())
    assert len(set(seen)) == 4
    assert all(len(one) == version.DIGITS for one in seen)
    version.current.cache_clear()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "ä", "-a", "a" * 64])
def test_a_server_needs_a_name_that_can_stand_in_a_path(tmp_path: Path, name: str) -> None:
    assert not commands.NAME.fullmatch(name)
    if name:
        with pytest.raises(InputError, match="is no name of a server"):
            commands.run_worker(Access(Address.parse("tcp://localhost")), tmp_path, name=name)


# ---------------------------------------------------------------------------------------------- what travels


def ordered(build_dir: Path, **more: Any) -> Order:  # noqa: ANN401
    workshop = Workshop(profiles=ROOT / "osprofiles", overlays=ROOT / "overlays", build_dir=build_dir)
    return Order(os="debian", release="12", arch=AMD64, workshop=workshop, **more)


def test_what_travels_is_the_same_on_the_other_side(tmp_path: Path) -> None:
    packed = parcel.pack(ordered(tmp_path))
    there = parcel.unpack(packed, tmp_path, build_dir=tmp_path / "build", mirror="/srv/mirror")
    assert (there.build_dir, there.mirror) == (tmp_path / "build", "/srv/mirror")
    ours, theirs = (profile.find("debian", place) for place in (ROOT / "osprofiles", there.profiles))
    assert ours == theirs
    assert profile.names(there.profiles) == ("debian",)
    overlays = profile.select(ours, "12", AMD64).overlays
    assert sorted(path.name for path in there.overlays.iterdir()) == sorted(overlays)
    for name in overlays:
        assert overlay.digest(there.overlays / name) == overlay.digest(ROOT / "overlays" / name)
    assert len(packed) < 1_000_000


def test_what_is_too_large_does_not_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "LARGEST", 1000)
    with pytest.raises(InputError, match="MB travel to a build server"):
        parcel.pack(ordered(tmp_path))


def test_links_and_modes_travel(tmp_path: Path) -> None:
    place = tmp_path / "here"
    shutil.copytree(ROOT / "osprofiles", place / "osprofiles")
    shutil.copytree(ROOT / "overlays", place / "overlays", symlinks=True)
    extra = place / "overlays/common/root/opt"
    extra.mkdir(parents=True)
    (extra / "absolute").symlink_to("/etc/passwd")
    (extra / "program").write_text("#!/bin/sh\n")
    (extra / "program").chmod(0o755)
    order = Order(
        os="debian", release="12", arch=AMD64,
        workshop=Workshop(profiles=place / "osprofiles", overlays=place / "overlays", build_dir=tmp_path),
    )  # fmt: skip
    there = parcel.unpack(parcel.pack(order), tmp_path / "there", build_dir=tmp_path, mirror=None)
    assert str((there.overlays / "common/root/opt/absolute").readlink()) == "/etc/passwd"
    assert overlay.digest(there.overlays / "common") == overlay.digest(place / "overlays/common")
    shutil.rmtree(place / "overlays/common")
    with pytest.raises(InputError, match="names the overlay 'common', but there is no directory"):
        parcel.pack(order)


# ---------------------------------------------------------------------------------------------- where it goes


@pytest.mark.parametrize("text", ["ftp://a/b", "oci://", "oci://registry", "no/such/directory"])
def test_what_is_no_place_for_images_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        matrix.check_artifacts(text)


def test_places_for_images(tmp_path: Path) -> None:
    assert matrix.check_artifacts(str(tmp_path)) == str(tmp_path)
    assert matrix.check_artifacts("oci://registry:5000/node-images") == "oci://registry:5000/node-images"


def built(place: Path, content: str, key: str = "k") -> Order:
    """Make something that passes for a built image, and its order."""
    order = ordered(place / "build", artifacts=str(place / "store"), server="one")
    directory = place / "build" / order.name
    directory.mkdir(parents=True, exist_ok=True)
    (place / "store").mkdir(exist_ok=True)
    for name, text in {"disk.qcow2": content, "SHA256SUMS": content, "manifest.json": json.dumps({"key": key})}.items():
        (directory / name).write_text(text)
    return order


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_image_is_collected_whole_and_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:  # as on NFS

        def refuse(_staged: Path, target: Path) -> None:
            raise StorageError(f"cannot replace {target}")

        monkeypatch.setattr(publish, "publish", refuse)
        (tmp_path / "store").mkdir()
        (tmp_path / "store/debian-12-amd64").mkdir()
    for content in ("first", "second"):
        order = built(tmp_path, content)
        assert collect.deliver(order, "k") == str(tmp_path / "store" / order.name)
        assert (tmp_path / "store" / order.name / "disk.qcow2").read_text() == content
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["debian-12-amd64"]


def test_what_was_collected_is_not_copied_again(tmp_path: Path) -> None:
    order = built(tmp_path, "first")
    collect.deliver(order, "k")
    before = (tmp_path / "store" / order.name).stat().st_ino
    collect.deliver(order, "k")
    assert (tmp_path / "store" / order.name).stat().st_ino == before


def test_an_image_that_another_order_has_replaced_is_not_collected(tmp_path: Path) -> None:
    order = built(tmp_path, "first", key="another")
    with pytest.raises(StorageError, match="was built anew from another order"):
        collect.deliver(order, "k")


def test_a_store_that_is_not_there_names_the_server(tmp_path: Path) -> None:
    order = built(tmp_path, "first")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StorageError, match="one has no directory") as caught:
        collect.deliver(order, "k")
    assert "mount it at the same path" in caught.value.hint
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StorageError, match="one has no directory"):
        collect.deliver(order, "k")


# ---------------------------------------------------------------------------------------------- on paper


def test_a_matrix_takes_as_long_as_its_slowest_part() -> None:
    work, site = scaling.Work("", seconds=10.0, fetched=1.0, size=100.0), scaling.Site(2, 1, 50.0, 25.0, 10.0, 0.1)
    busy = scaling.pipes(work, site, cells=9)
    assert busy == {
        "amd64 servers": 30.0, "arm64 servers": 40.0, "mirror": 1.8, "store": 36.0, "scheduler": pytest.approx(0.9)
    }  # fmt: skip
    assert scaling.bottleneck(busy) == ("arm64 servers", 40.0)
    assert scaling.bottleneck(busy | {"amd64 servers": 40.0}) == ("servers", 40.0)
    assert scaling.bottleneck(busy | {"mirror": 50.0}) == ("mirror", 50.0)


def test_the_tables_are_made_from_the_report() -> None:
    made = scaling.text(json.loads(scaling.REPORT.read_text()))
    assert made.count("\n| ") >= len(scaling.SERVERS) + 7
    assert "Assumed: " in made
