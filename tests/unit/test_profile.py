"""Profiles: what is refused and how it is said, what is accepted, and that the project's own ones load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import profile
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.profile import Profile

OSPROFILES = Path(__file__).parents[2] / "osprofiles"
FINGERPRINT = "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8"
GOOD = f"""\
name: demo
title: Demo OS
family: deb
default_release: "1"
releases:
  "1":
    codename: first
    base:
      kind: deb
      suites: [first]
      components: [main]
      keyring: /usr/share/keyrings/demo.gpg
      fingerprints: [{FINGERPRINT}]
      exclude:
        - /usr/share/doc/*
    packages: [apt, udev]
    arch:
      amd64:
        packages: [linux]
    overlays: [common]
    boot:
      initramfs: initramfs-tools
      efi_vendor: demo
      grub_directory: boot/grub
      kernel_arguments: [quiet]
    disk:
      size: 4G
      esp_size: 64M
      ext4_features: [extent]
    verify:
      os_release: {{ID: demo}}
      services: [ssh]
      packages: [apt]
      modules: [overlay]
"""
SECOND_RELEASE = """\
  "2":
    <<: *one
    codename: second
"""


def write(directory: Path, text: str | bytes, name: str = "demo") -> Path:
    path = directory / f"{name}.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> tuple[str, str]:
    """Load a bad profile; returns the message without its directory, and the hint."""
    with pytest.raises(InputError) as caught:
        profile.load(path)
    assert caught.value.hint, "every error names the next action"
    return caught.value.message.replace(f"{path.parent}/", ""), caught.value.hint


def swap(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, f"{old!r} must name one place"
    return GOOD.replace(old, new)


@pytest.mark.parametrize("path", sorted(OSPROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_own_profiles_load(path: Path) -> None:
    found = profile.find(path.stem, OSPROFILES)
    assert found.name == path.stem
    default = found.releases[found.default_release]
    assert profile.select(found, None, next(iter(default.arch))) is default


def own_releases() -> Iterator[tuple[Profile, str]]:
    for name in profile.names(OSPROFILES):
        found = profile.load(OSPROFILES / f"{name}.yaml")
        yield from ((found, release) for release in found.releases)


OWN = list(own_releases())
RPM = [(found, release) for found, release in OWN if found.family == "rpm"]
releases = pytest.mark.parametrize(("found", "name"), OWN, ids=[f"{found.name}-{name}" for found, name in OWN])
rpm_releases = pytest.mark.parametrize(("found", "name"), RPM, ids=[f"{found.name}-{name}" for found, name in RPM])


def test_the_promised_systems_are_there() -> None:
    promised = {
        "anolis": ["7", "8", "23"],
        "centos": ["7", "8", "9", "10"],
        "debian": ["12"],
        "kylin": ["V10-SP1", "V10-SP2", "V10-SP3", "V10-SP3-2403", "V11"],
        "openeuler": ["22.03", "24.03"],
        "uos": ["20-1050a", "20-1050e", "20-1060a", "20-1060e", "20-1070a", "20-1070e"],
    }
    there: dict[str, list[str]] = {}
    for found, release in OWN:
        there.setdefault(found.name, []).append(release)
    assert {name: set(found) for name, found in there.items()} == {name: set(found) for name, found in promised.items()}


@releases
def test_own_release_fits_together(found: Profile, name: str) -> None:
    release = found.releases[name]
    assert release.base.kind == found.family
    assert set(release.arch) == set(Architecture)
    for spec in release.arch.values():
        packages = [*release.packages, *spec.packages]
        assert len(packages) == len(set(packages)), "a package is named twice"
        assert not set(packages) & set(release.base.avoid)
        assert {"podman", "docker-engine", "docker"} & set(packages), "nothing can pull the cluster-installer"


@rpm_releases
def test_own_rpm_release_can_boot(found: Profile, name: str) -> None:
    release = found.releases[name]
    assert isinstance(release.base, profile.RpmBase)
    assert (release.boot.initramfs, release.boot.grub_directory) == ("dracut", "boot/grub2")
    for arch, spec in release.arch.items():
        packages = {*release.packages, *spec.packages}
        assert {"kernel", "kernel-core"} & packages
        assert {"dracut", f"grub2-efi-{arch.efi}", f"shim-{arch.efi}", "grub2-tools-minimal"} <= packages
        assert ("grub2-pc-modules" in packages) is arch.has_bios
        ids = [item.id for item in release.base.repositories if not item.arch or arch in item.arch]
        assert ids
        assert len(ids) == len(set(ids)), "a mirror would have two directories of one name"
        assert set(release.verify.packages) <= packages
    if release.base.lineage == "el7":
        assert "metadata_csum" not in release.disk.ext4_features, "its fsck could not check the file system"


# As their owners publish them. A profile that trusts another key is wrong, whoever changed it.
VENDOR_KEYS = {
    "anolis": "F87D B652 2967 855E 986F 840C 6191 4008 4873 F7C5",
    "centos": "99DB 70FA E1D7 CE22 7FB6 4882 05B5 55B3 8483 C65D",
    "centos-7": "6341 AB27 53D7 8A78 A7C2 7BB1 24C6 A8A7 F4A8 0EB5, EF8F 3CA6 6EFD F32B 36CD ADF7 6C7C B6EF 305D 49D6",
    "kylin": "B814 9E68 5286 4585 CE41 143B 41F8 AEBE 7A48 6D9F",
    "openeuler": "8AA1 6BF9 F2CA 5244 010D CA96 3B47 7C60 B675 600B",
    "uos": "C822 503F 2F4C E25A 6EA0 65BE 9055 A64E 8DF5 95ED",
}


@rpm_releases
def test_own_rpm_release_trusts_its_vendor_only(found: Profile, name: str) -> None:
    published = VENDOR_KEYS.get(f"{found.name}-{name}", VENDOR_KEYS[found.name]).replace(" ", "").split(",")
    assert set(found.releases[name].base.fingerprints) == set(published)


def test_loading_is_fast() -> None:
    start = time.process_time()
    profile.find("debian", OSPROFILES)
    assert time.process_time() - start < 0.1


def test_good_profile(tmp_path: Path) -> None:
    found = profile.load(write(tmp_path, GOOD))
    release = found.releases["1"]
    assert release.disk.size == 4 * 1024**3
    assert release.disk.esp_size == 64 * 1024**2
    assert release.arch[Architecture.AMD64].packages == ("linux",)
    for model in (found, release, release.disk):
        with pytest.raises(ValueError, match="frozen"):
            setattr(model, next(iter(type(model).model_fields)), "other")


def test_merge_keys_make_a_second_release(tmp_path: Path) -> None:
    found = profile.load(write(tmp_path, swap('"1":', '"1": &one') + SECOND_RELEASE))
    assert found.releases["2"].codename == "second"
    assert found.releases["2"].base == found.releases["1"].base


def test_error_in_a_merged_key_has_the_line_it_is_written_on(tmp_path: Path) -> None:
    text = swap('"1":', '"1": &one').replace("esp_size: 64M", "esp_size: 64") + SECOND_RELEASE
    message, _ = refusal(write(tmp_path, text))
    assert [line.split(": 64 is")[0] for line in message.splitlines()] == [
        "demo.yaml:28: releases.1.disk.esp_size",
        "demo.yaml:28: releases.2.disk.esp_size",
    ]


BAD_VALUES = [
    # what is changed, into what, the message after the file's name, a part of the hint
    ("title:", "titel:", ":2: titel: unknown key", "did you mean 'title'?"),
    ("suites:", "suite:", ":10: releases.1.base.suite: unknown key", "did you mean 'suites'?"),
    ("initramfs:", "zzz:", ":22: releases.1.boot.zzz: unknown key", "choose one of: initramfs, efi_vendor"),
    ("codename: first", "", ":6: releases.1.codename: missing key", "add 'codename:'"),
    ("[first]", "first", ":10: releases.1.base.suites: must be a list, not the text 'first'", "write it as [a, b]"),
    ("[first]", "[]", ":10: releases.1.base.suites: must not be empty", "correct this line"),
    ("[apt, udev]", "[apt, 7]", ":16: releases.1.packages[1]: must be text, not the number 7", 'quotes: "7"'),
    ("[apt, udev]", "[apt, ]\n    x: 1", ":17: releases.1.x: unknown key", "choose one of"),
    ("[apt, udev]", "[apt, 'a b']", ":16: releases.1.packages[1]: 'a b' does not fit", "a word that begins"),
    ("        - /usr/share/doc/*", "        - doc", ":15: releases.1.base.exclude[0]: 'doc' does not fit", "absolute"),
    ("name: demo", "name: yes", ":1: name: must be text, not the truth value true", "in quotes"),
    ("title: Demo OS", "title:", ":2: title: must be text, not empty", "correct this line"),
    ("title: Demo OS", "title: [a]", ":2: title: must be text, not a list", "correct this line"),
    ("{ID: demo}", "[ID]", ":31: releases.1.verify.os_release: must be a mapping of keys", "correct this line"),
    ("{ID: demo}", "{ID: 12}", ":31: releases.1.verify.os_release.ID: must be text, not the number 12", '"12"'),
    ("family: deb", "family: debian", ":3: family: 'debian' is not known here", "did you mean 'deb'?"),
    ("amd64:", "amd46:", ":18: releases.1.arch.amd46: the key 'amd46' is not known here", "did you mean 'amd64'?"),
    ('"1":', "1:", ":6: releases[1]: must be text, not the number 1", 'put it in quotes: "1"'),
    ('"1":', '"1/2":', ":6: releases.1/2: the key '1/2' does not fit", "a word that begins"),
    ('default_release: "1"', 'default_release: "2"', ":4: default_release: '2' is not among the releases: 1", ""),
    ("size: 4G", "size: 4T", ":27: releases.1.disk.size: '4T' is not a size: write a whole number and M or G", ""),
    ("size: 4G", "size: 4096", ":27: releases.1.disk.size: 4096 is not a size", ""),
    ("size: 4G", "size: 0G", ":27: releases.1.disk.size: input should be greater than 0", ""),
    ("esp_size: 64M", "esp_size: 4G", ":28: releases.1.disk.esp_size: must be smaller than the disk's size", ""),
    (FINGERPRINT, "D6350947F8", ":13: releases.1.base.fingerprints[0]: 'D6350947F8' does not fit", "40 hexadecimal"),
    ("boot/grub", "../etc", ":24: releases.1.boot.grub_directory: '../etc' does not fit", "below the root"),
    ("[quiet]", "['a b']", ":25: releases.1.boot.kernel_arguments[0]: 'a b' does not fit", "one argument"),
    ("name: demo", "name: dome", ":1: name: 'dome' is not the file's name", "write 'demo'"),
    ("name: demo", "name: demo\nname: demo", ":2: name: duplicate key, first seen on line 1", "keep one"),
    ("kind: deb", "kind: deb\n      kind: deb", ":10: releases.1.base.kind: duplicate key", "keep one"),
    ("[quiet]", "!!set {quiet}", ":25: releases.1.boot.kernel_arguments: tag", "remove it"),
    ("[quiet]", "[!!int x]", ":25: releases.1.boot.kernel_arguments[0]: tag", "remove it"),
    ("[quiet]", "[!!python/object:os.system x]", ":25: releases.1.boot.kernel_arguments[0]: tag", "remove it"),
]


@pytest.mark.parametrize(("old", "new", "message", "hint"), BAD_VALUES)
def test_one_bad_value(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    bad = GOOD.replace(old, new, 1)
    assert bad != GOOD
    said, advice = refusal(write(tmp_path, bad))
    first_line, others = said.splitlines()[0], said.splitlines()[1:]
    if others:  # a misspelt required key is missing, too
        line = next(line for line in said.splitlines() if line.startswith(f"demo.yaml{message}"))
        assert hint in line
    else:
        assert first_line.startswith(f"demo.yaml{message}")
        assert hint in advice


def test_a_repository_cannot_be_called_as_the_settings_of_dnf_are(tmp_path: Path) -> None:
    bad = (OSPROFILES / "centos.yaml").read_text().replace("id: BaseOS", "id: main", 1)
    (tmp_path / "centos.yaml").write_text(bad)
    with pytest.raises(InputError, match=r"repositories\[0\]\.id: 'main' is the name of dnf's own settings"):
        profile.load(tmp_path / "centos.yaml")


NOT_YAML: list[tuple[str | bytes, str]] = [
    ("", "demo.yaml: the file is empty"),
    ("# only a comment\n", "demo.yaml: the file is empty"),
    ("- a\n- b\n", "demo.yaml:1: must be a mapping of keys to values, not a list"),
    ("demo\n", "demo.yaml:1: must be a mapping of keys to values, not the text 'demo'"),
    ("name: demo\n\ttitle: x\n", "demo.yaml:2: this is not valid YAML: "),
    ("name: demo\ntitle: 'x\nfamily: deb\n", "demo.yaml:4: this is not valid YAML: while scanning a quoted scalar"),
    ("name: [demo\ntitle: x\n", "demo.yaml:2: this is not valid YAML: while parsing a flow sequence"),
    ("name: demo\ntitle: *nothing\n", "demo.yaml:2: this is not valid YAML: found undefined alias"),
    ("name: demo\n? [a, b]\n: c\n", "demo.yaml:2: this is not valid YAML: while constructing a mapping"),
    ("name: demo\n<<: 3\n", "demo.yaml:2: this is not valid YAML: while constructing a mapping"),
    ("name: demo\n---\nname: demo\n", "demo.yaml:2: this is not valid YAML: expected a single document"),
    ("name: demo\ntitle: \x01\n", "demo.yaml:2: this is not valid YAML: a control character (#x01)"),
    (b"name: demo\n\ntitle: \xff\n", "demo.yaml:3: this is not UTF-8 text"),
]


@pytest.mark.parametrize(("text", "message"), NOT_YAML)
def test_not_a_profile_at_all(tmp_path: Path, text: str | bytes, message: str) -> None:
    said, _ = refusal(write(tmp_path, text))
    assert said.startswith(message)
    assert len(said.splitlines()) == 1


def test_an_unfinished_quote_names_the_line_it_begins_on(tmp_path: Path) -> None:
    said, _ = refusal(write(tmp_path, "name: demo\ntitle: 'x\nfamily: deb\n"))
    assert "it begins on line 2" in said


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {<<: *x}", "a: &x {b: *x}", "releases: &x {one: *x}"])
def test_an_alias_that_holds_itself_ends_in_an_error(tmp_path: Path, text: str) -> None:
    refusal(write(tmp_path, text))


def test_dates_are_text_in_a_profile(tmp_path: Path) -> None:
    found = profile.load(write(tmp_path, swap("title: Demo OS", "title: 2024-13-45")))
    assert found.title == "2024-13-45"


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    bad = swap("title: Demo OS", "titel: Demo OS").replace("size: 4G", "size: big").replace("name: demo", "name: x")
    said, hint = refusal(write(tmp_path, bad))
    assert [line.partition(" (")[0] for line in said.splitlines()] == [
        "demo.yaml:1: name: 'x' is not the file's name",
        "demo.yaml:1: title: missing key",
        "demo.yaml:2: titel: unknown key",
        "demo.yaml:27: releases.1.disk.size: 'big' is not a size: write a whole number and M or G, as in '64M' or '4G'",
    ]
    assert hint == "correct these 4 places and try again"


def test_unreadable_file(tmp_path: Path) -> None:
    said, _ = refusal(tmp_path / "absent.yaml")
    assert said == "absent.yaml: cannot be read: No such file or directory"
    (tmp_path / "folder.yaml").mkdir()
    said, _ = refusal(tmp_path / "folder.yaml")
    assert said == "folder.yaml: cannot be read: Is a directory"


def test_names(tmp_path: Path) -> None:
    for file in ("b.yaml", "a.yaml", ".#a.yaml", "README.md", "a.yaml~"):
        (tmp_path / file).touch()
    assert profile.names(tmp_path) == ("a", "b")
    with pytest.raises(InputError, match="No such file or directory"):
        profile.names(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("debain", "did you mean '--os debian'?"),
        ("Debian", "did you mean '--os debian'?"),
        ("beos", "choose --os one of: debian, demo"),
        ("../demo", "did you mean '--os demo'?"),
        ("", "choose --os one of: debian, demo"),
    ],
)
def test_unknown_os(tmp_path: Path, name: str, hint: str) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD, "debian")
    with pytest.raises(InputError) as caught:
        profile.find(name, tmp_path)
    assert caught.value.message == f"unknown OS {name!r}; known: debian, demo"
    assert caught.value.hint == hint


def test_select(tmp_path: Path) -> None:
    found = profile.load(write(tmp_path, swap('"1":', '"1": &one') + SECOND_RELEASE))
    assert profile.select(found, None, Architecture.AMD64).codename == "first"
    assert profile.select(found, "2", Architecture.AMD64).codename == "second"
    with pytest.raises(InputError, match="demo has no release '3'; known: 1, 2") as unknown_release:
        profile.select(found, "3", Architecture.AMD64)
    assert unknown_release.value.hint == "choose --release one of: 1, 2"
    with pytest.raises(InputError, match="demo 1 is not built for arm64; it is for: amd64") as unknown_arch:
        profile.select(found, "1", Architecture.ARM64)
    assert "--arch" in unknown_arch.value.hint
