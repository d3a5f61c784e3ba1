"""Media as data: what they are, whether they are whole, whether they are what was asked for."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from pipeline.core import namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError
from pipeline.image import build
from pipeline.image import plan as plans
from pipeline.image.bases import media, medium, probe
from pipeline.image.bases.medium import Medium, Request
from pipeline.profile import Boot, RpmBase
from tests.unit.projects import Project

V10 = {"ID": "kylin", "VERSION_ID": "V10"}
V11 = {"ID": "kylin", "VERSION_ID": "V11", "PRETTY_NAME": "Kylin V11"}
FOREIGN = next(arch for arch in Architecture if arch is not Architecture.host())
OTHER_SUM = "0" * 64
SUM = "f" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def base() -> RpmBase:
    return RpmBase.model_validate(
        {
            "kind": "rpm", "lineage": "el8", "releasever": "8", "fingerprints": ["A" * 40], "database": "var/lib/rpm",
            "release_package": "kylin-release", "repositories": [{"id": "os", "url": "https://example.org/$basearch"}],
        }
    )  # fmt: skip


def request(**changes: object) -> Request:
    data: dict[str, object] = {"name": "Kylin V10", "base": base(), "arch": Architecture.AMD64, "packages": ()}
    return Request(**(data | changes))  # type: ignore[arg-type]


def test_os_release_is_read_as_a_shell_would() -> None:
    text = 'ID=\'kylin\'\nVERSION_ID="V10"\n# x=y\nVERSION=V10\\ x\n\nNAME="a \\"b\\""\nBROKEN=\'\nnonsense\n'
    assert medium.parse_os_release(text) == {"ID": "kylin", "VERSION_ID": "V10", "VERSION": "V10 x", "NAME": 'a "b"'}


@pytest.mark.parametrize(
    ("found", "product", "message"),
    [
        (V10, "", None),
        ({"ID": "Kylin", "VERSION_ID": "v10"}, "", None),
        (V10, "release V10 (SP2) /(Sword)-x86_64-Build09/20210524", None),
        (V11, "", "holds Kylin V11, not Kylin V10: VERSION_ID is 'V11' and should be 'V10'"),
        ({"ID": "uos", "VERSION_ID": "V10"}, "", "holds an unknown system, not Kylin V10: ID is 'uos'"),
        ({}, "", "ID is ''"),
        (V10, "release V10 (SP3) /(Lance)-x86_64-Build23", "its name is Lance, not Sword"),
        (V10, "release V10 SP3 2403/(Halberd)-x86_64-Build20", "its name is Halberd, not Sword"),
    ],
)
def test_what_a_medium_holds_is_compared(found: dict[str, str], product: str, message: str | None) -> None:
    asked = request(os_release=V10, codename="Sword")
    if message is None:
        medium.check_identity(asked, Path("x.iso"), found, product)
        return
    with pytest.raises(InputError) as caught:
        medium.check_identity(asked, Path("x.iso"), found, product)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("x.iso.sha256", f"{SUM}  x.iso\n", False),
        ("x.iso.sha256", f"{SUM}\n", False),
        ("x.iso.sha256", f"{OTHER_SUM}\n", True),
        ("SHA256SUMS", f"{OTHER_SUM}  y.iso\n{SUM} *x.iso\n", False),
        ("SHA256SUMS", f"{OTHER_SUM}  ./x.iso\n", True),
        ("CHECKSUM", f"# x.iso: 12 bytes\nSHA256 (x.iso) = {OTHER_SUM}\n", True),
        ("SHA256SUMS", f"{OTHER_SUM}  y.iso\n", False),  # says nothing of ours
        ("SHA256SUMS", f"{OTHER_SUM}\n", False),
        ("notes.txt", f"{OTHER_SUM}  x.iso\n", False),
    ],
)
def test_a_checksum_file_beside_a_medium(tmp_path: Path, name: str, text: str, refused: bool) -> None:
    (tmp_path / "x.iso").touch()
    (tmp_path / name).write_text(text)
    found = Medium(kind="qcow2", path=tmp_path / "x.iso", digest=SUM, size=0)
    if not refused:
        medium.check_sums(found)
        return
    with pytest.raises(InputError, match=f"is not what {name} says: its sha256 is {SUM}, not {OTHER_SUM}"):
        medium.check_sums(found)


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, asked = tmp_path / "x", []
    file.write_text("one")

    def compute() -> str:
        asked.append(1)
        return f"digest {len(asked)}"

    assert [medium.remembered(file, compute) for _ in range(2)] == ["digest 1"] * 2
    os.utime(file, ns=(1, 1))
    assert medium.remembered(file, compute) == "digest 2"
    file.rename(tmp_path / "y")
    (tmp_path / "y").rename(file)
    assert medium.remembered(file, compute) == "digest 2"
    file.write_text("another one")
    assert medium.remembered(file, compute) == "digest 3"
    for memory in (tmp_path / "xdg/node-images" / medium.MEMORY).iterdir():
        memory.write_text("spoilt")
    assert medium.remembered(file, compute) == "digest 4"


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert medium.remembered(tmp_path / "file", lambda: "digest") == "digest"


@pytest.mark.parametrize(
    ("kind", "path", "family", "message"),
    [
        ("dvd", None, "rpm", "unknown base 'dvd'"),
        ("repo", "x.tar", "rpm", "--medium has no meaning for --base repo"),
        ("iso", "x.tar", "deb", "--base iso is for RPM systems"),
        ("rootfs", None, "rpm", "--base rootfs needs a medium"),
        ("rootfs", "missing", "rpm", "there is no medium"),
        ("iso", ".", "rpm", "is a directory"),
        ("qcow2", ".", "rpm", "is a directory"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, kind: str, path: str | None, family: str, message: str) -> None:
    (tmp_path / "x.tar").touch()
    with pytest.raises(InputError, match=message) as caught:
        media.resolve(kind, tmp_path / path if path else None, family=family)
    assert caught.value.hint


def test_no_medium_for_repositories() -> None:
    assert media.resolve("repo", None, family="deb") is None


# ------------------------------------------------------------------------------------------------------------ plans


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.data["family"] = "rpm"
    made.release["base"] = base().model_dump(mode="json")
    return made


def planned(project: Project, **changes: object) -> plans.Plan:
    from pipeline.profile import Profile

    described = Profile.model_validate(project.data)
    return plans.resolve(described, None, FOREIGN, overlays=project.overlays, **changes)  # type: ignore[arg-type]


def test_what_a_medium_is_counts_and_not_where_it_lies(project: Project, tmp_path: Path) -> None:
    for name, text in (("a.tar", "one"), ("b.tar", "one"), ("c.tar", "two")):
        (tmp_path / name).write_text(text)
    found = [planned(project, base_kind="rootfs", medium=tmp_path / name) for name in ("a.tar", "b.tar", "c.tar")]
    keys = [plan.key for plan in found]
    assert keys[0] == keys[1]
    assert len({*keys, planned(project).key}) == 3
    assert found[0].name == planned(project).name
    assert str(tmp_path) not in str(found[0].inputs)
    assert found[0].base_inputs == found[1].base_inputs != found[2].base_inputs


def test_a_dvd_needs_no_repositories(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.iso").touch()
    monkeypatch.setitem(media.DIGESTS, "iso", lambda _: SUM)
    assert planned(project, base_kind="iso", medium=tmp_path / "x.iso").repositories == ()
    assert planned(project).repositories[0].url == f"https://example.org/{FOREIGN.rpm}"


def test_another_architecture_without_an_emulator_is_refused_before_work_begins(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = functools.partial(plans.check_runnable, binfmt=tmp_path / "binfmt_misc")
    monkeypatch.setattr(plans, "check_runnable", check)
    monkeypatch.setattr(process, "require", lambda *_, **__: "")
    monkeypatch.setattr(namespace, "check_available", lambda: None)
    with pytest.raises(DependencyError, match=f"programs for {FOREIGN} do not run on this machine"):
        build(planned(project), tmp_path / "build")
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["logs"]
    assert not (tmp_path / "xdg").exists()


# ------------------------------------------------------------------------------------------------------------ probe


def test_a_medium_that_contradicts_the_profile_is_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "note", said.append)
    boot = Boot.model_validate({"initramfs": "dracut", "efi_vendor": "kylin", "grub_directory": "boot/grub2"})
    fits = probe.Probe(database="var/lib/rpm", efi_vendors=("Kylin",))
    assert probe.warn(fits, base(), boot) == ()
    assert probe.warn(probe.Probe(), base(), boot) == ()
    other = probe.Probe(database="usr/lib/sysimage/rpm", efi_vendors=("centos",))
    assert probe.warn(other, base(), boot) == tuple(said)
    assert said == [
        "the profile's base.database is var/lib/rpm; the medium's rpm says usr/lib/sysimage/rpm",
        "the profile's boot.efi_vendor is kylin; the medium has centos",
    ]


def test_os_release_is_found_within_the_tree(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "etc/os-release").symlink_to("/usr/lib/os-release")
    (tmp_path / "usr/lib/os-release").write_text("ID=anolis\n")
    assert probe.os_release(tmp_path) == {"ID": "anolis"}
    (tmp_path / "usr/lib/os-release").unlink()
    assert probe.os_release(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("kernel", True), ("kernel-core", True), ("kernel-64k-core", True), ("grub2-efi-x64-modules", True),
        ("grub2-pc", True), ("shim-aa64", True), ("dracut-config-generic", True), ("kernel-headers", False),
        ("kernelshark", False), ("grub2-i18n", False),
    ],
)  # fmt: skip
def test_boot_packages(name: str, counts: bool) -> None:
    assert bool(probe.BOOT_PACKAGES.fullmatch(name)) is counts
