"""The rpm base with the real dnf and rpm: a distribution of a few packages, good and spoilt."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline import quality
from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, NetworkError, PipelineError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import repositories, rpm
from pipeline.profile import RpmBase
from tests.integration import rpms
from tests.integration.media import base
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution

pytestmark = [pytest.mark.root]
ARCH = Architecture.host()
PACKAGES = ("greeter", "rpm")


def make(
    place: Path, described: RpmBase, mirror: str | Path, packages: tuple[str, ...] = PACKAGES, name: str = "made",
    arch: Architecture = ARCH,
) -> Path:  # fmt: skip
    """Make a tree as a build does; returns what base step leaves."""
    target, workspace = place / name, place / f"{name}-workspace"
    target.mkdir()
    workspace.mkdir()
    found = repositories.resolve(described, arch, str(mirror))
    rpm.check(found)
    with progress.session(place / "log"):
        namespace.run_private(
            lambda: rpm.make(
                described, arch, packages, found, target, workspace=workspace, package_cache=place / "packages"
            )
        )
    return target


def test_a_tree_is_made_and_its_own_rpm_sees_every_package(tiny: Distribution, tmp_path: Path) -> None:
    made = make(tmp_path, base(tiny.key), tiny.repository)
    root = made / "tree"
    assert (root / "etc/greeting").read_text().startswith("hello from ")  # the scriptlet ran
    rows = {row["name"]: row for row in json.loads((made / "packages.json").read_text())}
    assert set(rows) == {"tiny-release", "filesystem", "libraries", "bash", "rpm", "greeter"}
    assert rows["rpm"]["version"] == "1-1.ty1"
    (file,) = tiny.repository.glob("rpm-*.rpm")
    assert rows["rpm"]["sha256"] == tree.file_sha256(file)
    assert json.loads((made / "origin.json").read_text())["epoch"] > 1_700_000_000
    assert list((root / "dev").iterdir()) == []
    assert not (root / "var/cache/dnf").exists()
    assert (root / "var/lib/rpm/rpmdb.sqlite").is_file()
    assert not (root / "root").exists()  # where this machine's rpm would put the database
    assert "en_US.UTF-8" in (root / "etc/rpm/macros.image").read_text()


def test_firmware_that_no_virtual_machine_needs_is_not_installed(tiny: Distribution, tmp_path: Path) -> None:
    made = make(tmp_path, base(tiny.key), tiny.repository, ("bash", "odd-firmware", "rpm"))
    assert "odd-firmware" in {row["name"] for row in json.loads((made / "packages.json").read_text())}
    assert not (made / "tree/usr/lib/firmware").exists()


def test_of_two_pinned_keys_one_may_be_missing(tiny: Distribution, tmp_path: Path) -> None:
    described = base(tiny.key, fingerprints=["0" * 40, tiny.key])
    make(tmp_path, described, tiny.repository)
    assert f"{'0' * 40} was not found; packages that it signed will be refused" in (tmp_path / "log").read_text()


# Run by another user, so it is a program of its own: repository, key and directory come as arguments.
MAKE = f"""
import sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from tests.integration.test_rpm_base import base, digest, make
print(digest(make(Path(sys.argv[3]), base(sys.argv[2]), sys.argv[1])))
"""


def digest(made: Path) -> str:
    """Return the digest of a tree with its times clamped, as the base step takes it."""

    def clamped() -> str:
        tree.clamp_times(made / "tree", json.loads((made / "origin.json").read_text())["epoch"])
        return tree.digest(made / "tree")

    return namespace.run_private(clamped)


def test_the_same_packages_give_the_same_tree_at_another_time_and_for_an_ordinary_user(
    tiny: Distribution, tmp_path: Path, ordinary: OrdinaryUser
) -> None:
    host_log = Path("/var/log/hawkey.log")
    before = host_log.stat() if host_log.exists() else None
    first = digest(make(tmp_path, base(tiny.key), tiny.repository))
    time.sleep(1.1)  # rpm notes the second of an installation
    assert digest(make(tmp_path, base(tiny.key), tiny.repository, name="again")) == first
    result = ordinary.run([sys.executable, "-c", MAKE, tiny.repository, tiny.key, ordinary.directory])
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1] == first
    assert (host_log.stat() if host_log.exists() else None) == before  # dnf would write there


def test_packages_from_a_server_are_fetched_once(tiny: Distribution, tmp_path: Path) -> None:
    with serving(tiny.repository) as (url, asked):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        make(tmp_path, described, url)
        assert [path for path in asked if path.endswith(".rpm")]
        asked.clear()
        make(tmp_path, described, url, name="again")
        assert not [path for path in asked if path.endswith(".rpm")]
        cut, changed = (next((tmp_path / "packages").rglob(f"{name}-*.rpm")) for name in ("greeter", "libraries"))
        os.truncate(cut, cut.stat().st_size // 2)
        content = bytearray(changed.read_bytes())
        content[len(content) // 2] ^= 0xFF
        changed.write_bytes(content)
        asked.clear()
        make(tmp_path, described, url, name="spoilt")
        assert {path.rpartition("/")[2] for path in asked if path.endswith(".rpm")} == {cut.name, changed.name}


@pytest.mark.parametrize("name", ["download_lock.pid", "metadata_lock.pid", "rpmdb_lock.pid"])
def test_a_lock_that_a_killed_dnf_left_is_not_waited_for(tiny: Distribution, tmp_path: Path, name: str) -> None:
    make(tmp_path, base(tiny.key), tiny.repository)
    (cache,) = [path for path in (tmp_path / "packages").iterdir() if path.is_dir()]
    (cache / name).write_text("1")  # some process is always called so
    make(tmp_path, base(tiny.key), tiny.repository, name="again")
    assert not (cache / name).exists()


def unsigned(repository: Path, _: Distribution) -> None:
    for file in repository.glob("greeter-*.rpm"):
        rpms.run("rpmsign", "--delsign", file)
    rpms.index(repository)


def signed_by_somebody_else(repository: Path, tiny: Distribution) -> None:
    rpms.sign(sorted(repository.glob("greeter-*.rpm")), tiny.home, tiny.other_key)
    rpms.index(repository)


def truncated(repository: Path, _: Distribution) -> None:
    (file,) = repository.glob("greeter-*.rpm")
    file.write_bytes(file.read_bytes()[:-100])


def not_the_indexed_one(repository: Path, _: Distribution) -> None:
    (file,) = repository.glob("greeter-*.rpm")
    shutil.copyfile(next(repository.glob("tiny-release-*.rpm")), file)


def spoilt_index(repository: Path, _: Distribution) -> None:
    (file,) = repository.glob("repodata/*-primary.xml.gz")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def without_packages(repository: Path, _: Distribution) -> None:
    for file in repository.glob("*.rpm"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "packages", "kind", "message"),
    [
        (unsigned, PACKAGES, VerificationError, "is not signed"),
        (signed_by_somebody_else, PACKAGES, VerificationError, "greeter-1-1.ty1"),
        (truncated, PACKAGES, NetworkError, "greeter-1-1.ty1"),
        (not_the_indexed_one, PACKAGES, NetworkError, "greeter-1-1.ty1"),
        (spoilt_index, PACKAGES, NetworkError, "checksum"),
        (without_packages, PACKAGES, NetworkError, "1-1.ty1"),
        (lambda *_: None, ("nobody-made-this",), InputError, "nobody-made-this"),
        (lambda *_: None, ("impossible", "rpm"), InputError, "nobody-has-this"),
    ],
    ids=[
        "unsigned", "wrong key", "truncated", "another package", "index", "no packages", "no such package", "needs",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["directory", "server"])
def test_what_is_wrong_is_said(
    tiny: Distribution, tmp_path: Path, spoil: Callable[[Path, Distribution], None], packages: tuple[str, ...],
    kind: type[PipelineError], message: str, place: str,
) -> None:  # fmt: skip
    repository = tiny.copy(tmp_path / "repository")
    spoil(repository, tiny)
    with serving(repository) as (url, _):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        with pytest.raises(kind) as caught:
            make(tmp_path, described, url if place == "server" else repository, packages)
    assert message in caught.value.message.partition("\n")[0]
    assert caught.value.hint


def test_a_mirror_that_fails_half_way(tiny: Distribution, tmp_path: Path) -> None:
    with serving(tiny.repository, packages=3) as (url, _):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        with pytest.raises(NetworkError, match=r"1-1\.ty1") as caught:
            make(tmp_path, described, url)
    assert "name another one with --mirror" in caught.value.hint
    made = make(tmp_path, base(tiny.key), tiny.repository, name="again")  # what was left in the cache is no harm
    assert (made / "tree/etc/greeting").exists()


def test_a_package_that_one_architecture_lacks(tiny: Distribution, tmp_path: Path) -> None:
    foreign = next(arch for arch in Architecture if arch is not ARCH)
    public = (tiny.repository / "RPM-GPG-KEY-tiny").read_text()
    made = rpms.make_rpms(tmp_path, public, foreign.rpm)
    for file in made.glob("greeter-*.rpm"):
        file.unlink()
    rpms.publish(made, tmp_path / "repository", tiny.home, tiny.key)
    with pytest.raises(InputError, match=rf"No match for argument: greeter.* \(for {foreign}\)") as caught:
        make(tmp_path, base(tiny.key), tmp_path / "repository", arch=foreign)
    assert "below 'arch'" in caught.value.hint


def test_an_expired_key_is_refused(tiny: Distribution, tmp_path: Path) -> None:
    repository = tiny.copy(tmp_path / "repository")
    home = tmp_path / "gnupg"
    key = rpms.make_key(home, "Old", expires="seconds=1")
    (repository / "RPM-GPG-KEY-tiny").write_text(rpms.run("gpg", "--homedir", home, "--armor", "--export", key))
    time.sleep(2)
    with pytest.raises(DependencyError, match=r"expired on \d{4}-\d\d-\d\d"):
        make(tmp_path, base(key), repository)


def test_only_pinned_keys_count(tiny: Distribution, tmp_path: Path) -> None:
    with pytest.raises(DependencyError) as caught:
        make(tmp_path, base("0" * 40), tiny.repository)
    assert f"{'0' * 40} was not found" in caught.value.message
    assert tiny.key in caught.value.message


def test_a_directory_without_packages_is_no_mirror(tiny: Distribution, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no package repository"):
        repositories.resolve(base(tiny.key), ARCH, str(tmp_path))
    with pytest.raises(InputError, match="there is no directory"):
        repositories.resolve(base(tiny.key), ARCH, str(tmp_path / "missing"))
    with pytest.raises(InputError, match="must not carry a password"):
        repositories.resolve(base(tiny.key), ARCH, "https://user:secret@tiny.example/")


def test_credentials_come_from_netrc_and_are_in_no_log(
    tiny: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(tiny.repository, user="field:s3cret-word") as (url, _):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        netrc.write_text("machine 127.0.0.1 login field password wrong-word\n")
        netrc.chmod(0o600)
        with pytest.raises(NetworkError):
            make(tmp_path, described, url, name="wrong")
        netrc.write_text("machine 127.0.0.1 login field password s3cret-word\n")
        made = make(tmp_path, described, url)
        assert (made / "tree/etc/greeting").exists()
    assert "-word" not in (tmp_path / "log").read_text()
    assert not [file for file in made.rglob("*") if file.is_file() and b"s3cret-word" in file.read_bytes()]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; with ``user`` set, only to that one."""

    user = ""
    packages = 1000  # so many are sent; then the connection is cut in the middle of each
    asked: list[str]

    def send_head(self) -> BinaryIO | None:
        self.asked.append(self.path)
        if self.path.endswith(".rpm") and sum(path.endswith(".rpm") for path in self.asked) > self.packages:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 100)
            self.close_connection = True
            return None
        wanted = f"Basic {base64.b64encode(self.user.encode()).decode()}"
        if self.user and self.headers.get("Authorization") != wanted:
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        pass


class serving:
    """A web server on loopback; gives its address and the list of what was asked for."""

    def __init__(self, directory: Path, user: str = "", packages: int = _Handler.packages) -> None:
        self.asked: list[str] = []
        kind = type("Handler", (_Handler,), {"user": user, "asked": self.asked, "packages": packages})
        handler = functools.partial(kind, directory=str(directory))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> tuple[str, list[str]]:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}", self.asked

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
