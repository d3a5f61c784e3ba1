"""Where what is locked is fetched from, and what is said if it cannot be had."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, NetworkError, PipelineError, VerificationError
from pipeline.image.bases import locked
from pipeline.image.lock import LockedIndex, LockedPackage
from tests.unit.locks import INDEX, package

# --- where archives are ----------------------------------------------------------------------------------------------

RPM_INDEX = LockedIndex(
    repository="baseos", url="https://mirror.example/os/BaseOS/repodata/repomd.xml", sha256="b" * 64
)


@pytest.mark.parametrize(
    ("index", "roots", "expected"),
    [
        (INDEX, {"bookworm": "http://m.example/debian/"}, "http://m.example/debian/pool/main/z/x.deb"),
        (INDEX, {"bookworm": "http://a.example/d", "other": "http://b.example/d"}, "http://a.example/d/pool/main/z/x.deb"),
        (RPM_INDEX, {"baseos": "file:///srv/BaseOS", "x": "file:///srv/x"}, "file:///srv/BaseOS/Packages/x.rpm"),
        (RPM_INDEX, {"mirror": "file:///srv/one"}, "file:///srv/one/Packages/x.rpm"),
    ],
    ids=["suite", "one of two suites", "repository", "one for all"],
)  # fmt: skip
def test_the_same_path_on_a_mirror(index: LockedIndex, roots: dict[str, str], expected: str) -> None:
    path = "/pool/main/z/x.deb" if index is INDEX else "/Packages/x.rpm"
    found = locked.on_mirror([package(origin=index.root + path, repository=index.repository)], [index], roots)
    assert [item.origin for item in found] == [expected]


def test_a_mirror_that_lacks_a_repository() -> None:
    roots = {"one": "http://m.example/one", "two": "http://m.example/two"}
    with pytest.raises(InputError, match="the mirror has one, two; the lock's packages are from bookworm"):
        locked.on_mirror([package()], [INDEX], roots)


# --- fetching --------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a directory."""

    protocol_version = "HTTP/1.1"

    connections = 0

    def setup(self) -> None:
        Quiet.connections += 1
        super().setup()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    Quiet.connections = 0
    directory = tmp_path / "site"
    directory.mkdir()
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def served(site: tuple[Path, str], name: str, content: bytes) -> LockedPackage:
    (site[0] / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return package(name, sha256=sha256, size=len(content), origin=f"{site[1]}/{name}")


def nothing(names: Sequence[str]) -> dict[str, str]:
    raise AssertionError(f"asked for {names}")


def test_what_is_locked_is_fetched(site: tuple[Path, str], tmp_path: Path) -> None:
    packages = [served(site, f"p{number}", b"x" * number) for number in range(1, 30)]
    (tmp_path / "p3").write_bytes(b"y" * 3)  # the right size is not enough
    found = locked.fetch(packages, lambda item: tmp_path / item.name, nothing)
    assert [found[item].read_bytes() for item in packages] == [b"x" * number for number in range(1, 30)]
    assert Quiet.connections <= locked.AT_A_TIME


def test_what_is_there_needs_no_server(site: tuple[Path, str], tmp_path: Path) -> None:
    item = served(site, "a", b"a").model_copy(update={"origin": "http://127.0.0.1:1/a"})
    (tmp_path / "a").write_bytes(b"a")
    assert locked.fetch([item], lambda _: tmp_path / "a", nothing) == {item: tmp_path / "a"}


def test_all_that_is_missing_is_named(site: tuple[Path, str], tmp_path: Path) -> None:
    packages = [served(site, name, b"x") for name in ("a", "b", "c")]
    for name in ("a", "c"):
        (site[0] / name).unlink()
    with pytest.raises(NetworkError, match="2 of 3 locked packages cannot be had") as caught:
        locked.fetch(packages, lambda item: tmp_path / item.name, lambda _: {"a": "1.5.9-1"})
    lines = caught.value.message.splitlines()
    assert lines[1].startswith(f"  a 1.5.4-1 amd64: {site[1]}/a: not there")
    assert lines[1].endswith("; 1.5.9-1 is offered now")
    assert lines[2].startswith(f"  c 1.5.4-1 amd64: {site[1]}/c: not there")
    assert "offered" not in lines[2]
    assert "--update" in caught.value.hint
    assert "--mirror" in caught.value.hint


def test_that_nobody_knows_what_is_offered_is_no_further_trouble(site: tuple[Path, str], tmp_path: Path) -> None:
    def unknown(_: Sequence[str]) -> dict[str, str]:
        raise PipelineError("no")

    item = served(site, "a", b"x")
    (site[0] / "a").unlink()
    with pytest.raises(NetworkError, match="1 of 1 locked packages cannot be had"):
        locked.fetch([item], lambda _: tmp_path / "a", unknown)


@pytest.mark.parametrize("content", [b"y", b"longer", b""])
def test_other_bytes_than_locked(site: tuple[Path, str], tmp_path: Path, content: bytes) -> None:
    packages = [served(site, name, b"x") for name in ("a", "b")]
    (site[0] / "b").write_bytes(content)
    with pytest.raises(VerificationError, match=r"b 1\.5\.4-1 amd64: .*: wrong ") as caught:
        locked.fetch(packages, lambda item: tmp_path / item.name, nothing)
    assert "find out why" in caught.value.hint
    assert not (tmp_path / "b").exists()
