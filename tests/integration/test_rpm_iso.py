"""A tree from a vendor's DVD, with the real dnf, rpm and xorriso: good media, and all that can be wrong with one."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.core import namespace
from pipeline.core.errors import DependencyError, InputError, NetworkError, VerificationError
from pipeline.image.bases import iso, probe
from pipeline.image.bases.medium import Medium
from pipeline.image.bases.repositories import Repository
from tests.integration import media, rpms
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution

pytestmark = [pytest.mark.root]
TREEINFO = "[general]\nfamily = Tiny\nversion = 1\narch = x86_64\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def dvd(tiny: Distribution, scratch: Path) -> Path:
    """A DVD with one repository at its root, and no key file beside it: that is in the release package."""
    source = tiny.copy(scratch / "dvd")
    (source / "RPM-GPG-KEY-tiny").unlink()
    (source / ".treeinfo").write_text(TREEINFO)
    return media.iso(scratch / "tiny.iso", source)


def altered(tiny: Distribution, place: Path, change: Callable[[Path], None]) -> Medium:
    source = tiny.copy(place / "source")
    change(source)
    return media.resolved("iso", media.iso(place / "altered.iso", source))


def test_a_tree_is_made_without_a_network_and_without_key_files(
    dvd: Path, tiny: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that is not there must not be asked
    found = media.resolved("iso", dvd)
    made = media.make(
        tmp_path, found, media.request(media.base(tiny.key), packages=(*media.PACKAGES, "shim", "kernel"))
    )
    root = made / "tree"
    assert (root / "etc/greeting").read_text().startswith("hello from ")
    assert {row["name"] for row in json.loads((made / "packages.json").read_text())} == {
        "tiny-release", "filesystem", "libraries", "bash", "rpm", "greeter", "shim", "kernel",
    }  # fmt: skip
    assert not list((root / "boot").glob("initramfs*"))
    assert (root / f"boot/vmlinuz-{rpms.KERNELS['kernel']}").read_text() == "kernel"
    facts = probe.Probe.model_validate(json.loads((made / "origin.json").read_text())["probe"])
    assert facts.os_release["PRETTY_NAME"] == "Tiny 1 (One)"
    assert (facts.rpm_version, facts.database, facts.backend) == ("1-1.ty1", "var/lib/rpm", "sqlite")
    assert (facts.payload, facts.efi_vendors) == ("gzip", ("Tiny",))
    assert facts.boot_packages == ("kernel-2-1.ty1", "shim-1-1.ty1")
    # Another port, the same addresses: nothing is fetched again.
    media.make(tmp_path, found, media.request(media.base(tiny.key)), name="again")
    assert ".rpm" in (tmp_path / "made.log").read_text().partition("installing packages")[0]
    fetched = [line for line in (tmp_path / "again.log").read_text().splitlines() if '"GET' in line and ".rpm" in line]
    assert [line for line in fetched if "tiny-release" not in line] == []  # read for a look, each time


@pytest.mark.parametrize(
    "options", [("-R",), ("-J", "-joliet-long"), ("-R", "-J")], ids=["rock ridge", "joliet", "both"]
)
def test_a_divided_medium_with_keys_beside_it(tiny: Distribution, tmp_path: Path, options: tuple[str, ...]) -> None:
    source = media.split(tiny, tmp_path / "source")
    shutil.copy(tiny.repository / "RPM-GPG-KEY-tiny", source)
    found = media.resolved("iso", media.iso(tmp_path / "split.iso", source, *options))
    with iso.Iso(found.path) as opened:
        assert opened.directories == ("BaseOS", "AppStream")
        (key,) = opened.keys(tmp_path)
        assert key.read_text() == (tiny.repository / "RPM-GPG-KEY-tiny").read_text()
    if options == ("-R",):
        made = media.make(tmp_path, found, media.request(media.base(tiny.key)))
        assert (made / "tree/etc/greeting").exists()


def test_names_without_extensions(tmp_path: Path) -> None:
    import pycdlib

    made = pycdlib.PyCdlib()
    made.new(interchange_level=3)
    for name in ("/REPODATA", "/PACKAGES"):
        made.add_directory(name)
    (tmp_path / "x").write_text("content")
    made.add_file(str(tmp_path / "x"), iso_path="/REPODATA/REPOMD.XML;1")
    made.add_file(str(tmp_path / "x"), iso_path="/PACKAGES/BASH_1_1.RPM;1")
    made.write(str(tmp_path / "plain.iso"))
    made.close()
    with iso.Iso(tmp_path / "plain.iso") as opened:
        assert opened.read("repodata/repomd.xml") == b"content"
        assert opened.read("Packages/bash-1-1.rpm") == b"content"


def test_only_repositories_are_served(dvd: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with iso.Iso(dvd) as opened, opened.served() as url:
        assert opener.open(f"{url}/repodata/repomd.xml").read() == opened.read("repodata/repomd.xml")
        opener.addheaders = [("Range", "bytes=2-5")]
        assert opener.open(f"{url}/repodata/repomd.xml").read() == b"xml "
        for path in (".treeinfo", "../etc/passwd", "..%2f..%2fetc/passwd", "repodata/none", ""):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                opener.open(f"{url}/{path}")
    assert not [thread for thread in threading.enumerate() if "serve_forever" in thread.name]


def test_a_known_medium_is_not_read_again(dvd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = media.resolved("iso", dvd)
    monkeypatch.setattr(iso, "digest", lambda _: pytest.fail("it is read again"))
    assert media.resolved("iso", dvd) == before


# ------------------------------------------------------------------------------------------ what is wrong is said


def refused(place: Path, tiny: Distribution, found: Medium, *words: str, **changes: object) -> InputError:
    with pytest.raises(InputError) as caught:
        media.make(place, found, media.request(media.base(tiny.key), **changes))
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint
    assert media.left(place) == []
    return caught.value


def test_another_architecture(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    found = media.resolved("iso", dvd)
    refused(tmp_path, tiny, found, str(dvd), f"is for {media.ARCH}", f"{media.FOREIGN} (", arch=media.FOREIGN)


def test_another_release(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    asked = {"ID": "tiny", "VERSION_ID": "2"}
    refused(tmp_path, tiny, media.resolved("iso", dvd), "holds Tiny 1 (One)", "'1' and should be '2'", os_release=asked)


def test_another_operating_system(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is Tiny 1, not Tiny 1: it has no package kylin-release, but tiny-release"):
        described = media.base(tiny.key, release_package="kylin-release")
        media.make(tmp_path, media.resolved("iso", dvd), media.request(described))
    assert media.left(tmp_path) == []


def test_another_service_pack(tiny: Distribution, tmp_path: Path) -> None:
    product = "release V10 (SP3) /(Lance)-x86_64-Build23/20230324"

    def named(source: Path) -> None:
        (source / ".productinfo").write_text(f"Kylin\n{product}\n")

    found = altered(tiny, tmp_path, named)
    refused(tmp_path, tiny, found, "its name is Lance, not Sword", codename="Sword")
    media.make(tmp_path, found, media.request(media.base(tiny.key), codename="lance"))


@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_medium_that_is_cut_short(dvd: Path, tmp_path: Path, part: float) -> None:
    content = dvd.read_bytes()
    (tmp_path / "short.iso").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match="is cut short: its volume has"):
        media.resolved("iso", tmp_path / "short.iso")


def test_what_is_no_medium(tmp_path: Path) -> None:
    (tmp_path / "text.iso").write_text("hello")
    with pytest.raises(InputError, match="is not an ISO 9660 image"):
        media.resolved("iso", tmp_path / "text.iso")
    with pytest.raises(InputError, match="there is no medium"):
        media.resolved("iso", tmp_path / "missing.iso")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz").touch()
    with pytest.raises(InputError, match="holds no package repository") as caught:
        media.resolved("iso", media.iso(tmp_path / "boot.iso", tmp_path / "boot"))
    assert "boot or network-installation ISO" in caught.value.hint


def test_directories_that_are_damaged(dvd: Path, tmp_path: Path) -> None:
    content = bytearray(dvd.read_bytes())
    content[156 + 16 * 2048 + 2 : 156 + 16 * 2048 + 6] = b"\xff\xff\xff\x00"  # where the root directory is
    (tmp_path / "damaged.iso").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an ISO"):
        media.resolved("iso", tmp_path / "damaged.iso")


def test_a_checksum_file_beside_it_is_heeded(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    copy = Path(shutil.copy(dvd, tmp_path / "tiny.iso"))
    found = media.resolved("iso", copy)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  other.iso\n{'1' * 64} *tiny.iso\n")
    refused(tmp_path, tiny, found, "is not what SHA256SUMS says", "1" * 64)
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(copy.read_bytes()).hexdigest().upper()}  tiny.iso\n")
    media.make(tmp_path, found, media.request(media.base(tiny.key)))


def test_a_medium_that_changed_since_the_plan(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    found = replace_digest(media.resolved("iso", dvd))
    refused(tmp_path, tiny, found, "has changed since the build began")


def replace_digest(found: Medium) -> Medium:
    return found.model_copy(update={"digest": "0" * 64})


def test_signatures_count_on_a_medium_too(tiny: Distribution, tmp_path: Path) -> None:
    def unsigned(source: Path) -> None:
        rpms.run("rpmsign", "--delsign", *source.glob("greeter-*.rpm"))
        rpms.index(source)

    with pytest.raises(VerificationError, match="is not signed"):
        media.make(tmp_path, altered(tiny, tmp_path, unsigned), media.request(media.base(tiny.key)))
    assert media.left(tmp_path) == []


def test_a_key_that_is_not_pinned_is_not_taken_from_a_package(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=f"{'0' * 40} was not found: 1 key files hold {tiny.key}"):
        media.make(tmp_path, media.resolved("iso", dvd), media.request(media.base("0" * 40)))


def test_an_index_that_is_damaged(tiny: Distribution, tmp_path: Path) -> None:
    def spoil(source: Path) -> None:
        (file,) = source.glob("repodata/*-primary.xml.gz")
        file.write_bytes(file.read_bytes()[:-20] + b"0" * 20)

    with pytest.raises(NetworkError, match="'primary' of the repository cannot be read: its checksum is wrong"):
        media.make(tmp_path, altered(tiny, tmp_path, spoil), media.request(media.base(tiny.key)))
    assert media.left(tmp_path) == []


def test_a_package_that_the_medium_lacks(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    found = media.resolved("iso", dvd)
    refused(tmp_path, tiny, found, "nobody-made-this", f"(for {media.ARCH})", packages=("nobody-made-this",))


def test_what_the_medium_lacks_may_come_from_a_mirror(tiny: Distribution, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    source = media.split(tiny, tmp_path / "source")
    shutil.move(next(source.rglob("greeter-*.rpm")), extra)
    for directory in (source / "BaseOS", source / "AppStream", extra):
        rpms.index(directory)
    found = media.resolved("iso", media.iso(tmp_path / "lacking.iso", source))
    mirror = Repository(id="BaseOS", url=extra.as_uri())  # called as one of the medium's
    asked = replace(media.request(media.base(tiny.key)), repositories=(mirror,))
    assert (media.make(tmp_path, found, asked) / "tree/etc/greeting").exists()


MAKE = f"""
import sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from tests.integration import media
made = media.make(Path(sys.argv[3]), media.resolved("iso", Path(sys.argv[1])), media.request(media.base(sys.argv[2])))
print((made / "tree/etc/greeting").read_text())
"""


def test_an_ordinary_user_reads_a_medium(dvd: Path, tiny: Distribution, ordinary: OrdinaryUser) -> None:
    result = ordinary.run([sys.executable, "-c", MAKE, dvd, tiny.key, ordinary.directory])
    assert result.returncode == 0, result.stdout
    assert "hello from" in result.stdout


def test_a_medium_can_be_probed_without_a_build(dvd: Path, tiny: Distribution, tmp_path: Path) -> None:
    found = media.resolved("iso", dvd)
    asked = media.request(media.base(tiny.key))

    def look() -> probe.Probe:
        with iso.opened(found, asked, tmp_path) as repositories:
            return probe.of_repositories(asked.base, repositories, tmp_path / "look")

    facts = namespace.run_private(look)
    assert (facts.rpm_version, facts.payload, facts.efi_vendors) == ("1-1.ty1", "gzip", ("Tiny",))
    assert facts.boot_packages == ("kernel-2-1.ty1", "shim-1-1.ty1")
