"""The lock: made from a mirror, held against the components."""

from __future__ import annotations

import functools
import hashlib
import http.server
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import installer
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError
from pipeline.installer.lock import expected
from tests.unit import installers
from tests.unit.installers import Site, archive, component, elf, suite, tool

A, B = "a" * 64, "b" * 64
AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return installers.make(tmp_path)


def test_every_artifact_is_pinned(site: Site) -> None:
    assert site.lock() == ["suite: added, 2.0 for amd64, arm64", "tool: added, 1.0 for amd64, arm64"]
    lock = yaml.safe_load(site.source.lock.read_text())
    content = elf(ARM64, b"tool")
    assert lock["components"]["tool"]["artifacts"]["arm64"] == {
        "url": f"{installers.ORIGIN}/tool-1.0-arm64",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    assert list(lock["components"]) == ["suite", "tool"]


def test_locking_again_changes_nothing(site: Site) -> None:
    site.lock()
    before = site.source.lock.stat()
    assert site.lock() == []
    assert site.source.lock.stat().st_mtime_ns == before.st_mtime_ns


def test_an_artifact_is_downloaded_once(site: Site) -> None:
    site.lock()
    for path in (site.root / "mirror").rglob("*-1.0-*"):
        if path.suffix != ".sha256":
            path.unlink()
    assert site.lock() == []


def test_what_changes_is_told(site: Site) -> None:
    site.lock()
    site.write_components({"tool": tool("1.1"), "other": component("other", arch=["amd64"])})
    for arch in Architecture:
        site.publish(f"tool-1.1-{arch}", elf(arch))
    site.publish("other-1.0-amd64", elf(AMD64))
    assert site.lock() == ["other: added, 1.0 for amd64", "suite: removed", "tool: 1.0 -> 1.1"]


def test_other_content_under_the_same_version_is_told(site: Site) -> None:
    site.lock()
    site.publish("tool-1.0-arm64", elf(ARM64, b"other"))
    (said,) = site.lock()
    assert said.startswith("tool: 1.0 for arm64 has another content: sha256 ")
    assert said.endswith("find out why before it is committed")


def test_other_architectures_and_urls_are_told(site: Site) -> None:
    site.write_components({"tool": tool() | {"arch": ["amd64"]}})
    site.lock()
    site.write_components({"tool": tool()})
    assert site.lock() == ["tool: now for arm64"]
    site.publish("renamed-amd64", elf(AMD64, b"tool"))
    url = f"{installers.ORIGIN}/renamed-{{arch}}"
    site.write_components({"tool": tool() | {"arch": ["amd64"], "url": url, "checksum": f"{url}.sha256"}})
    assert site.lock() == [
        "tool: amd64 from another url: https://upstream.test/releases/renamed-amd64",
        "tool: no longer for arm64",
    ]


def test_a_mirror_may_be_a_server(site: Site) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay silent."""

    handler = functools.partial(Quiet, directory=site.mirror)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        assert len(installer.make_lock(site.source, mirror=mirror)) == 2
        (site.root / "mirror/releases/tool-1.0-amd64.sha256").unlink()
        with pytest.raises(
            NetworkError, match=r"tool 1\.0 for amd64: its checksum: .*: not there: HTTP status 404"
        ) as no:
            installer.make_lock(site.source, mirror=mirror)
        server.shutdown()
    assert "the mirror keeps the path of https://upstream.test/releases/tool-1.0-amd64.sha256" in no.value.hint
    assert "127.0.0.1" not in site.source.lock.read_text()


def remove_artifact(site: Site) -> None:
    (site.root / "mirror/releases/tool-1.0-arm64").unlink()


def remove_sums(site: Site) -> None:
    (site.root / "mirror/releases/tool-1.0-arm64.sha256").unlink()


def wrong_sums(site: Site) -> None:
    site.publish("tool-1.0-arm64", elf(ARM64), sums=f"{A}  tool-1.0-arm64\n")


def foreign_sums(site: Site) -> None:
    site.publish("tool-1.0-arm64", elf(ARM64), sums=f"{A}  tool-1.0-s390x\n")


def foreign_binary(site: Site) -> None:
    site.publish("tool-1.0-arm64", elf(AMD64))


def other_members(site: Site) -> None:
    site.publish("suite-2.0-arm64.tgz", archive({"suite-2.0/two": elf(ARM64)}))


def damaged_lock(site: Site) -> None:
    site.source.lock.write_text("components: {tool: {version: '1', artifacts: {amd64: {url: x, sha256: y, size: 1}}}}")


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (remove_artifact, NetworkError, "tool 1.0 for arm64: file://"),
        (remove_sums, NetworkError, "tool 1.0 for arm64: its checksum: file://"),
        (wrong_sums, NetworkError, f"wrong checksum: expected sha256 {A}"),
        (foreign_sums, NetworkError, "holds no sha256 of tool-1.0-arm64"),
        (foreign_binary, InputError, "tool 1.0 for arm64: tool is a binary for amd64, not for arm64"),
        (other_members, InputError, "suite 2.0 for arm64: the archive has no member 'suite-2.0/bin/one'"),
        (damaged_lock, InputError, "components.tool.artifacts.amd64.sha256: string should match"),
    ],
)
def test_what_cannot_be_locked(spoil: Callable[[Site], None], kind: type[PipelineError], said: str, site: Site) -> None:
    spoil(site)
    before = site.source.lock.read_text() if site.source.lock.exists() else None
    with pytest.raises(kind, match=re.escape(said)) as caught:
        site.lock()
    assert caught.value.hint
    assert (site.source.lock.read_text() if site.source.lock.exists() else None) == before


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ({"tool": tool("1.1"), "suite": suite()}, "tool is 1.1, but locked with 1.0"),
        ({"tool": tool(), "suite": suite(), "new": component("new")}, "new is not locked"),
        ({"tool": tool()}, "suite is locked, but no longer a component"),
        ({"tool": tool() | {"url": "https://other.test/tool"}, "suite": suite()}, "tool for amd64 is locked with"),
    ],
)
def test_a_stale_lock_is_refused(components: dict[str, dict[str, object]], said: str, site: Site) -> None:
    site.lock()
    site.write_components(components)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        installer.resolve(site.source)
    assert "./invoke installer.lock" in caught.value.hint


def test_a_lock_for_fewer_architectures_is_refused(site: Site) -> None:
    image = site.source.directory / "image.yaml"
    text = image.read_text()
    image.write_text(text.replace("[amd64, arm64]", "[amd64]"))
    site.lock()
    image.write_text(text)
    with pytest.raises(InputError, match="tool is not locked for arm64"):
        installer.resolve(site.source)
    assert installer.resolve(site.source, arch="amd64").architectures == (AMD64,)


def test_without_a_lock_the_command_is_told(site: Site) -> None:
    with pytest.raises(InputError, match=r"components\.lock is not there") as caught:
        installer.resolve(site.source)
    assert caught.value.hint.startswith("run ./invoke installer.lock: it downloads")
    other = site.root / "other.yaml"
    other.write_text(site.source.components.read_text())
    with pytest.raises(InputError, match=r"other\.lock is not there") as caught:
        installer.resolve(installer.Source.at(site.source.directory, other))
    assert f"installer.lock --components {other}:" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        A,
        f"{A.upper()}\n",
        f"{A}  file.tgz\n",
        f"{A} *file.tgz\n",
        f"{B}  other.tgz\n{A}  file.tgz\n{B}  file.tgz.asc\n",
        f"{A}  ./dist/file.tgz\n",
        f"SHA256 (file.tgz) = {A}\nSHA256 (other.tgz) = {B}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\n\n{A}  file.tgz\r\n",
    ],
)
def test_sums_of_every_kind_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(text)
    assert expected(tmp_path / "sums", "file.tgz", "x") == A


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x holds no sha256 of file.tgz"),
        ("<html></html>", "x holds no sha256 of file.tgz"),
        (A[:-1], "x holds no sha256 of file.tgz"),
        (f"{A}  file.tgz.asc\n", "x holds no sha256 of file.tgz"),
        (f"{A}{A}  file.tgz\n", "x holds no sha256 of file.tgz"),
        (f"{A}  a/file.tgz\n{B}  b/file.tgz\n", "x holds several sha256 of file.tgz"),
    ],
)
def test_sums_that_say_nothing_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(text)
    with pytest.raises(NetworkError, match=re.escape(said)):
        expected(tmp_path / "sums", "file.tgz", "x")
