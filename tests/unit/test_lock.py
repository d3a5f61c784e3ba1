"""Locks: their file, what is refused of it, what an update changes, and what a plan with one is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import profile
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import Plan, lock, locking, plan_text
from pipeline.image import plan as plans
from pipeline.image.bases import versions
from pipeline.image.lock import Lock
from tests.unit.locks import ARCHIVE, INDEX, make, package
from tests.unit.projects import ROOT, Project

# --- the file --------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return lock.path_of(tmp_path, "debian", "12", Architecture.AMD64)


def test_what_is_written_is_read(path: Path, tmp_path: Path) -> None:
    made = make(package("b"), package("a"), asked=["b", "a", "b"])
    lock.write(path, made)
    assert path == tmp_path / "locks/debian-12-amd64.json"
    assert lock.read(path) == made
    assert [item.name for item in made.packages] == ["a", "b"]
    assert made.asked == ("a", "b")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_package_is_a_line(path: Path) -> None:
    lock.write(path, make(package("a"), package("b")))
    lines = path.read_text().splitlines()
    assert sum('"name":' in line for line in lines) == 2
    assert list(json.loads(path.read_text())) == list(Lock.model_json_schema(by_alias=True)["properties"])


def test_the_order_does_not_matter() -> None:
    one, other = package("a"), package("b")
    assert make(one, other) == make(other, one)
    assert make(one, other).digest != make(one).digest


def _edit(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update({key: value})


def _edit_package(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["packages"][0].update({key: value})


BY_HAND: dict[str, Callable[[dict[str, Any]], None]] = {
    "version": _edit_package("version", "1.5.5-1"),
    "sha256": _edit_package("sha256", "c" * 64),
    "origin": _edit_package("origin", "https://elsewhere.example/zstd.deb"),
    "asked": _edit("asked", ["zstd", "vim"]),
    "epoch": _edit("epoch", 1_700_000_001),
    "release": _edit("release", "13"),
    "digest": _edit("digest", "d" * 64),
    "no index": _edit("indexes", []),
}


@pytest.mark.parametrize("edit", BY_HAND.values(), ids=BY_HAND.keys())
def test_a_lock_that_was_edited_by_hand(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    lock.write(path, make())
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="was edited by hand, or damaged") as caught:
        lock.read(path)
    assert str(path) in caught.value.message
    assert "./invoke lock --os debian --release 12 --arch amd64 --update" in caught.value.hint


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown key": (_edit("comment", "x"), "comment: unknown key"),
    "unknown key of a package": (_edit_package("sha265", "x"), r"packages\.0\.sha265: unknown key; did you mean 'sha2"),
    "missing key": (lambda data: data.pop("epoch"), "epoch: this key is missing"),
    "another form": (_edit("schema", 2), "schema: "),
    "no packages": (_edit("packages", []), "packages: "),
    "architecture": (_edit("arch", "riscv"), "arch: "),
    "family": (_edit("family", "apk"), "family: "),
    "epoch before FAT": (_edit("epoch", 0), "epoch: "),
    "epoch in 2106": (_edit("epoch", 2**32), "epoch: "),
    "sha256": (_edit_package("sha256", "x"), "sha256: "),
    "size": (_edit_package("size", 0), "size: "),
    "a path for a name": (_edit_package("name", "../../x"), "name: "),
    "a version for a shell": (_edit_package("version", '1");os.exit("'), "version: "),
    "a password": (_edit_package("origin", "https://user:secret@archive.example/x.deb"), "origin: "),
    "another scheme": (_edit_package("origin", "ftp://archive.example/x.deb"), "origin: "),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_lock_that_is_none(path: Path, edit: Callable[[dict[str, Any]], None], message: str) -> None:
    lock.write(path, make())
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data, indent=1))
    with pytest.raises(InputError, match=rf"debian-12-amd64\.json:\d+: .*{message}"):
        lock.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"schema": 1}\n<<<<<<< HEAD\n'])
def test_a_file_that_is_no_lock(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=str(path)):
        lock.read(path)


def test_no_lock(path: Path) -> None:
    with pytest.raises(InputError, match="is not there") as caught:
        lock.read(path)
    assert caught.value.hint == "make it: ./invoke lock --os debian --release 12 --arch amd64"


# --- what changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "earlier", "later"),
    [
        ("deb", "1.5.4-1", "1.5.5-1"),
        ("deb", "1.9-1", "1.10-1"),
        ("deb", "2.0-1", "1:1.0-1"),
        ("deb", "1.0~rc1-1", "1.0-1"),
        ("deb", "1.0-1", "1.0-1+deb12u1"),
        ("rpm", "1.5.4-1", "1.5.5-1"),
        ("rpm", "1.9-1.el8", "1.10-1.el8"),
        ("rpm", "2.0-1", "1:1.0-1"),
        ("rpm", "1.0~rc1-1", "1.0-1"),
        ("rpm", "1.0-1", "1.0^git1-1"),
        ("rpm", "1.0-1.el8", "1.0-2.el8"),
    ],
)
def test_versions(family: Any, earlier: str, later: str) -> None:  # noqa: ANN401
    pairs = [(earlier, later), (later, earlier), (later, later)]
    assert versions.compare(family, pairs) == [-1, 1, 0]


def test_nothing_changes() -> None:
    assert not lock.changes(make(), make())


def test_changes() -> None:
    old = make(package("up", "1.9-1"), package("down", "2-1"), package("gone"), package("same"), asked=["gone", "up"])
    new = make(
        package("up", "1.10-1", size=1500), package("down", "1-1", size=400), package("new", size=2_500_000),
        package("same", sha256="e" * 64), asked=["new", "up"], indexes=[INDEX.model_copy(update={"sha256": "c" * 64})],
    )  # fmt: skip
    found = lock.changes(old, new)
    named = {
        kind: [row.after.name if row.after else row.before.name if row.before else "" for row in getattr(found, kind)]
        for kind in ("upgraded", "downgraded", "replaced", "added", "removed")
    }
    assert named == {
        "upgraded": ["up"], "downgraded": ["down"], "replaced": ["same"], "added": ["new"], "removed": ["gone"],
    }  # fmt: skip
    assert found.asked == ("+new", "-gone")
    assert found.indexes == ("bookworm",)
    text = locking.text(locking.Locked(Path("x.json"), new, found, is_new=False, is_written=False))
    for line in (
        "x.json: would change; 4 packages, 2.5 MB",
        "the profile asks for: +new -gone",
        "upgraded: 1 packages, +500 bytes",
        "up 1.9-1 -> 1.10-1 amd64  +500 bytes",
        "DOWNGRADED: 1 packages, -600 bytes",
        f"same 1.5.4-1 amd64  +0 bytes (sha256 {package('same').sha256} -> {'e' * 64})",
        "new 1.5.4-1 amd64  +2.5 MB",
        "removed: 1 packages, -1.0 kB",
        "other indexes: bookworm",
        "nothing is written: --update does that",
    ):
        assert line in text


def test_several_versions_side_by_side() -> None:
    old = make(package("kernel", "1-1"), package("kernel", "2-1"))
    found = lock.changes(old, make(package("kernel", "2-1"), package("kernel", "3-1")))
    assert [row.version for row in (*found.added, *found.removed)] == [("", "3-1"), ("1-1", "")]
    assert not found.upgraded


# --- a lock and a profile --------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Project(tmp_path)


def planned(project: Project, found: Lock | None, mirror: str | None = None) -> Plan:
    plain = project.plan()  # writes the profile
    loaded = profile.load(project.directory / "debian.yaml")
    asked = found.model_copy(update={"asked": plain.packages}) if found and found.asked == ("zstd",) else found
    return plans.resolve(loaded, None, Architecture.AMD64, overlays=project.overlays, mirror=mirror, lock=asked)


def test_one_lock_is_one_key_wherever_its_archives_are(project: Project) -> None:
    here = planned(project, make())
    there = planned(project, make(), mirror="http://127.0.0.1:1/other/debian")
    assert (here.key, here.base_inputs) == (there.key, there.base_inputs)
    assert here.key != project.plan().key
    for text in (plan_text(there), json.dumps(there.base_inputs)):
        assert "127.0.0.1" not in text
        assert ARCHIVE not in text
        assert f"zstd 1.5.4-1 amd64 {package().sha256}" in text
    assert [item.origin for item in here.archives or ()] == [package().origin]
    assert [item.origin for item in there.archives or ()] == [
        "http://127.0.0.1:1/other/debian/pool/main/z/zstd_1.5.4-1_amd64.deb"
    ]


def test_another_lock_is_another_key(project: Project) -> None:
    other = make(package(version="1.5.5-1"))
    assert planned(project, make()).key != planned(project, other).key
    assert planned(project, make()).base_inputs != planned(project, other).base_inputs


def test_a_locks_time_is_the_images(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(project, make()).epoch == 1_700_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    assert planned(project, make()).epoch == 1_600_000_000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is 'tomorrow'"):
        planned(project, make())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"release": "11"}, r"the lock is of debian-11-amd64 \(deb\); debian-12-amd64 \(deb\) is to be built"),
        ({"arch": Architecture.ARM64}, "the lock is of debian-12-arm64"),
        ({"os": "kylin"}, "the lock is of kylin-12-amd64"),
        ({"family": "rpm"}, r"the lock is of debian-12-amd64 \(rpm\)"),
    ],
    ids=["release", "architecture", "os", "family"],
)
def test_the_lock_of_another_image(project: Project, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(project, make(**more))


def _release(change: Callable[[dict[str, Any]], object]) -> Callable[[Project], object]:
    return lambda project: change(project.release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_release(lambda release: release["packages"].append("vim-tiny")), r"packages: \+vim-tiny$"),
        (_release(lambda release: release["packages"].remove("sudo")), "packages: -sudo$"),
        (_release(lambda release: release["base"]["avoid"].append("zstd")), "avoid: zstd is locked$"),
        (_release(lambda release: release["base"]["suites"].append("trixie")), r"suites: \+trixie$"),
    ],
    ids=["a package more", "a package less", "an avoided package", "a suite more"],
)
def test_a_profile_that_has_changed(project: Project, change: Callable[[Project], object], message: str) -> None:
    made = make(asked=project.plan().packages)
    change(project)
    with pytest.raises(InputError, match=message) as caught:
        planned(project, made)
    assert "the profile has changed since the lock of debian-12-amd64 was made" in caught.value.message
    assert "./invoke lock --os debian --release 12 --arch amd64 --update" in caught.value.hint


def test_a_medium_and_a_lock(project: Project, tmp_path: Path) -> None:
    medium = tmp_path / "medium"
    medium.mkdir()
    (medium / "index.json").write_text("{}")
    with pytest.raises(InputError, match="--locked is about packages from repositories"):
        plans.resolve(
            profile.load(ROOT / "osprofiles/kylin.yaml"), None, Architecture.AMD64,
            overlays=project.overlays, base_kind="rootfs", medium=medium, lock=make(family="rpm"),
        )  # fmt: skip
