"""Locks of rpm bases with the real dnf and rpm: exactly the packages of a lock, wherever they come from, or none."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError, VerificationError
from pipeline.image import tree
from pipeline.image.bases import locked, repositories, rpm, rpm_lock
from pipeline.image.bases.locked import LockedIndex, LockedPackage
from pipeline.image.bases.repositories import Repository
from pipeline.profile import RpmBase
from tests.integration import rpms
from tests.integration.media import base
from tests.integration.ordinary import OrdinaryUser
from tests.integration.rpms import Distribution
from tests.integration.test_rpm_base import PACKAGES, digest, make, serving

pytestmark = [pytest.mark.root]
ARCH = Architecture.host()


@dataclass(frozen=True)
class Found:
    """What a profile resolved to."""

    packages: tuple[LockedPackage, ...]
    indexes: tuple[LockedIndex, ...]
    epoch: int

    @property
    def greeter(self) -> LockedPackage:
        return next(package for package in self.packages if package.name == "greeter")


def resolve(place: Path, described: RpmBase, mirror: str | Path, packages: Sequence[str] = PACKAGES) -> Found:
    """Resolve as ``./invoke lock`` does."""
    workspace = place / "resolve-workspace"
    workspace.mkdir(parents=True)
    found = repositories.resolve(described, ARCH, str(mirror))
    with progress.session(place / "resolve.log"):
        return namespace.run_private(
            lambda: Found(
                *rpm_lock.resolve(
                    described, ARCH, packages, found, workspace=workspace, package_cache=place / "packages"
                )
            )
        )


def make_locked(place: Path, described: RpmBase, found: Found, keys: Path, mirror: str | None = None) -> Path:
    """Make a tree of a lock, as a build does; returns what the base step leaves.

    Args:
        place: an empty directory.
        described: the profile's base.
        found: the lock.
        keys: a file of keys.
        mirror: URL of a repository in place of those of the lock.
    """
    target, workspace = place / "locked", place / "locked-workspace"
    for directory in (target, workspace):
        directory.mkdir(parents=True)
    packages, places = found.packages, [Repository(id=item.repository, url=item.root) for item in found.indexes]
    if mirror is not None:
        packages = locked.on_mirror(packages, found.indexes, {"mirror": mirror})
        places = [Repository(id="mirror", url=mirror)]
    places = [item.model_copy(update={"keys": (keys,)}) for item in places]
    with progress.session(place / "log"):
        namespace.run_private(
            lambda: rpm.make(
                described, ARCH, PACKAGES, places, target, workspace=workspace, package_cache=place / "packages",
                locked=packages, epoch=found.epoch,
            )
        )  # fmt: skip
    return target


def key_of(tiny: Distribution) -> Path:
    return tiny.repository / "RPM-GPG-KEY-tiny"


def test_a_lock_names_what_a_build_installs_and_nothing_is_fetched_for_it(tiny: Distribution, tmp_path: Path) -> None:
    with serving(tiny.repository) as (url, asked):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        found = resolve(tmp_path, described, url)
        assert not [path for path in asked if path.endswith(".rpm")]
        made = make(tmp_path, described, url)
    rows = json.loads((made / "packages.json").read_text())
    assert [(item.name, item.version, item.architecture, item.sha256) for item in sorted(found.packages, key=str)] == [
        (row["name"], row["version"], row["architecture"], row["sha256"]) for row in rows
    ]
    (file,) = tiny.repository.glob("greeter-*.rpm")
    assert (found.greeter.size, found.greeter.origin) == (file.stat().st_size, f"{url}/{file.name}")
    index = tiny.repository / repositories.INDEX
    expected = LockedIndex(repository="mirror", url=f"{url}/{repositories.INDEX}", sha256=tree.file_sha256(index))
    assert found.indexes == (expected,)
    assert found.epoch == json.loads((made / "origin.json").read_text())["epoch"]


# Run by another user, so it is a program of its own: what is locked comes as JSON, the directory as an argument.
MAKE = f"""
import json, sys
sys.path.insert(0, {str(quality.ROOT)!r})
from pathlib import Path
from pipeline.image.bases.locked import LockedPackage
from tests.integration.test_rpm_lock import Found, base, digest, make_locked
rows, epoch, key, keys = json.loads(sys.argv[1])
found = Found(tuple(LockedPackage(**row) for row in rows), (), epoch)
print(digest(make_locked(Path(sys.argv[2]), base(key), found, Path(keys))))
"""


def test_a_lock_gives_the_tree_of_its_day_whatever_has_become_of_the_repository(
    tiny: Distribution, tmp_path: Path, ordinary: OrdinaryUser
) -> None:
    described = base(tiny.key)
    first = digest(make(tmp_path, described, tiny.repository))
    with serving(tiny.copy(tmp_path / "repository")) as (url, asked):
        found = resolve(tmp_path / "resolved", described, url)
        add(tmp_path / "repository", tiny, "2")
        (tmp_path / "repository/RPM-GPG-KEY-tiny").unlink()
        # The packages themselves bring the key: the file that is named holds another one.
        (tmp_path / "other.asc").write_text(rpms.run("gpg", "--homedir", tiny.home, "--armor", "--export", "Somebody"))
        asked.clear()
        assert digest(make_locked(tmp_path, described, found, tmp_path / "other.asc")) == first
        assert sorted(asked) == sorted(f"/{package.origin.rpartition('/')[2]}" for package in found.packages)
        rows = [package.model_dump() for package in found.packages]
        words = json.dumps([rows, found.epoch, tiny.key, str(tmp_path / "other.asc")])
        (tmp_path / "other.asc").rename(ordinary.directory / "other.asc")
        words = words.replace(str(tmp_path / "other.asc"), str(ordinary.directory / "other.asc"))
        result = ordinary.run([sys.executable, "-c", MAKE, words, ordinary.directory])
        assert result.returncode == 0, result.stdout
        assert result.stdout.splitlines()[-1] == first


def test_what_another_build_has_fetched_or_what_lies_here_is_fetched_only_if_spoilt(
    tiny: Distribution, tmp_path: Path
) -> None:
    with serving(tiny.repository) as (url, asked):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        made = make(tmp_path, described, url)
        found = resolve(tmp_path / "resolved", described, url)
        spoilt = next((tmp_path / "packages").rglob("greeter-*.rpm"))
        content = bytearray(spoilt.read_bytes())
        content[len(content) // 2] ^= 0xFF
        spoilt.write_bytes(content)
        asked.clear()
        again = make_locked(tmp_path, described, found, key_of(tiny))
        assert asked == [f"/{spoilt.name}"]
        assert digest(again) == digest(made)
    here = resolve(tmp_path / "here", described, tiny.repository)
    assert here.greeter.origin.startswith("file:///")
    make_locked(tmp_path / "here", described, here, key_of(tiny))
    kept = (tmp_path / "here/packages/locked") / f"{here.greeter.sha256}.rpm"
    (file,) = tiny.repository.glob("greeter-*.rpm")
    assert kept.samefile(file)


def test_a_mirror_takes_the_place_of_every_origin(tiny: Distribution, tmp_path: Path) -> None:
    described = base(tiny.key)
    found = resolve(tmp_path, described, tiny.repository)
    first = digest(make_locked(tmp_path, described, found, key_of(tiny)))
    lost = [package.model_copy(update={"origin": "http://127.0.0.1:1/" + package.origin.rpartition("/")[2]})
            for package in found.packages]  # fmt: skip
    indexes = (LockedIndex(repository="mirror", url="http://127.0.0.1:1/repodata/repomd.xml", sha256="0" * 64),)
    gone = Found(tuple(lost), indexes, found.epoch)
    with serving(tiny.repository) as (url, _):
        assert digest(make_locked(tmp_path / "mirrored", described, gone, key_of(tiny), url)) == first


MODULES = """\
---
document: modulemd
version: 2
data:
  name: greeting
  stream: "loud"
  version: 1
  context: c0ffee
  arch: {arch}
  summary: greeting
  description: greeting
  license: {{module: [MIT]}}
  artifacts: {{rpms: ["greeter-0:3-1.ty1.{arch}"]}}
...
---
document: modulemd-defaults
version: 1
data: {{module: greeting, stream: "loud", profiles: {{loud: []}}}}
...
"""


def test_a_package_of_a_module_is_locked_like_any_other_and_its_stream_stays_enabled(
    tiny: Distribution, tmp_path: Path
) -> None:
    described, repository = base(tiny.key, module_platform_id="platform:tiny"), tiny.copy(tmp_path / "repository")
    add(repository, tiny, "3", "ModularityLabel: greeting:loud:1:c0ffee")
    (tmp_path / "modules.yaml").write_text(MODULES.format(arch=ARCH.rpm))
    rpms.run("modifyrepo_c", "--mdtype=modules", tmp_path / "modules.yaml", repository / "repodata")
    made = make(tmp_path, described, repository, (*PACKAGES, "bash"))
    found = resolve(tmp_path, described, repository, (*PACKAGES, "bash"))
    assert found.greeter.version == "3-1.ty1"
    again = make_locked(tmp_path, described, found, key_of(tiny))
    noted = (again / "tree/etc/dnf/modules.d/greeting.module").read_text()
    assert noted == "[greeting]\nname=greeting\nstream=loud\nprofiles=\nstate=enabled\n"  # as dnf 4.14 writes it
    assert digest(again) == digest(made)


def add(repository: Path, tiny: Distribution, version: str, more: str = "") -> None:
    """Put another greeter into a repository."""
    shutil.copy(rpms.make_other(repository.parent, "greeter", version, more), repository)
    rpms.sign(sorted(repository.glob("greeter-*.rpm")), tiny.home, tiny.key)
    rpms.index(repository)


def gone(repository: Path, tiny: Distribution) -> None:
    for file in repository.glob("greeter-*.rpm"):
        file.unlink()
    add(repository, tiny, "2")


def exchanged(repository: Path, tiny: Distribution) -> None:
    add(repository, tiny, "1")


def truncated(repository: Path, _: Distribution) -> None:
    (file,) = repository.glob("greeter-*.rpm")
    file.write_bytes(file.read_bytes()[:-100])


def emptied(repository: Path, _: Distribution) -> None:
    shutil.rmtree(repository)
    repository.mkdir()


@pytest.mark.parametrize(
    ("spoil", "kind", "messages"),
    [
        (gone, NetworkError, ["1 of 6 locked packages", "greeter 1-1.ty1", "; 2-1.ty1 is offered now"]),
        (exchanged, VerificationError, ["1 of 6 locked packages", "greeter 1-1.ty1", "wrong"]),
        (truncated, VerificationError, ["1 of 6 locked packages", "greeter 1-1.ty1", "wrong size"]),
        (emptied, NetworkError, ["6 of 6 locked packages", "greeter 1-1.ty1", "bash 1-1.ty1", "rpm 1-1.ty1"]),
    ],
    ids=["gone", "exchanged", "truncated", "emptied"],
)
def test_what_cannot_be_had_is_said_as_a_whole(
    tiny: Distribution, tmp_path: Path, spoil: Callable[[Path, Distribution], None], kind: type[PipelineError],
    messages: list[str],
) -> None:  # fmt: skip
    repository = tiny.copy(tmp_path / "repository")
    with serving(repository) as (url, _):
        described = base(tiny.key, keys=[f"{url}/RPM-GPG-KEY-tiny"])
        found = resolve(tmp_path, described, url)
        spoil(repository, tiny)
        with pytest.raises(kind) as caught:
            make_locked(tmp_path, described, found, key_of(tiny))
    assert all(message in caught.value.message for message in messages), caught.value.message
    assert caught.value.hint


def test_a_lock_is_no_excuse_for_a_missing_signature(tiny: Distribution, tmp_path: Path) -> None:
    repository = tiny.copy(tmp_path / "repository")
    for file in repository.glob("greeter-*.rpm"):
        rpms.run("rpmsign", "--delsign", file)
    rpms.index(repository)
    found = resolve(tmp_path, base(tiny.key), repository)
    with pytest.raises(VerificationError, match=r"greeter-1-1\.ty1\..*is not signed by a key of the profile"):
        make_locked(tmp_path, base(tiny.key), found, key_of(tiny))


def test_an_index_without_sha256_cannot_be_locked(tiny: Distribution, tmp_path: Path) -> None:
    repository = tiny.copy(tmp_path / "repository")
    rpms.run("createrepo_c", "--quiet", "--checksum", "sha512", repository)
    with pytest.raises(InputError, match="names packages by sha512, not by sha256"):
        resolve(tmp_path, base(tiny.key), repository)


@pytest.mark.parametrize(
    ("packages", "message"), [(("nobody-made-this",), "nobody-made-this"), (("impossible",), "nobody-has-this")]
)
def test_what_cannot_be_resolved_is_said(
    tiny: Distribution, tmp_path: Path, packages: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        resolve(tmp_path, base(tiny.key), tiny.repository, packages)
