"""Builds that must fail, through the command, as a user sees them: exit code, message, next action, log."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, NetworkError, StorageError, ToolError
from pipeline.image.bases import sources
from pipeline.profile import DebBase, find, select
from tests import traces
from tests.integration import builds, mirrors
from tests.integration.builds import Project

pytestmark = [pytest.mark.root, pytest.mark.slow]

KEY_OF_NOBODY = "0" * 40
KEY_OF_THE_SECURITY_ARCHIVE = "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0"  # bookworm's


def fails(project: Project, *words: str, status: int) -> str:
    """Build, which must fail without a traceback and leave nothing; returns what the user is told."""
    code, _, err = project.build(*words)
    assert code == status
    assert "Traceback" not in err
    (message,) = re.findall("^error: (.+)", err, re.MULTILINE | re.DOTALL)
    assert re.search("^hint: .", message, re.MULTILINE)
    assert project.in_the_way() == []
    assert not project.published.exists()
    return str(message)


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--os", "beos"), ("beos", "tiny")),
        (("--os", "tiny", "--release", "2"), ("2", "1")),
        (("--os", "tiny", "--arch", "riscv64"), ("riscv64", "amd64")),
        (("--os", "../tiny"), ("../tiny",)),
        (("--os", "tiny", "--mirror", "ftp://127.0.0.1/debian"), ("ftp",)),
        (("--os", "tiny", "--mirror", "http://u:secret@127.0.0.1/debian"), ("password", "netrc")),
    ],
    ids=["os", "release", "architecture", "path", "scheme", "password"],
)
def test_what_there_is_not(project: Project, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    message = fails(project, *words, status=InputError.exit_code)
    for word in told:
        assert word in message
    assert "secret" not in message


def test_an_unknown_key_is_told_with_its_line(project: Project) -> None:
    project.release["pakages"] = []
    project.save()
    message = fails(project, status=InputError.exit_code)
    assert "osprofiles/tiny.yaml:" in message
    assert "pakages" in message
    assert "packages" in message.replace("pakages", "")


def test_an_overlay_that_is_missing(project: Project) -> None:
    project.release["overlays"] = ["tiny", "tinny"]
    project.save()
    message = fails(project, status=InputError.exit_code)
    assert "'tinny'" in message
    known = sorted(path.name for path in (project.directory / "overlays").iterdir())
    assert {"common", "deb", "tiny"} <= set(known)
    assert f"use one of: {', '.join(known)}" in message


def test_a_template_with_an_undefined_variable(project: Project) -> None:
    template = project.write("overlays/tiny/root/etc/x.conf.j2", "{{ hostname }}\n")
    message = fails(project, status=InputError.exit_code)
    assert f"{template}: 'hostname' is undefined" in message
    assert "arch, codename" in message


def test_a_script_that_fails(project: Project) -> None:
    script = project.write(
        "overlays/tiny/scripts/20-broken.sh", "#!/bin/bash\nset -Eeuo pipefail\necho on its way\ncat /missing\n", 0o755
    )
    message = fails(project, "--os", "tiny", f"--profile={project.directory}/trace", status=ToolError.exit_code)
    assert message.startswith(f"{script}: ")
    assert "exit status 1" in message
    assert "| on its way" in message
    assert "| cat: /missing: No such file or directory" in message
    assert f"correct {script}; the full log is {project.log}" in message
    assert "cat: /missing" in project.log.read_text()
    rows = traces.read(project.directory / "trace")
    assert traces.complete(rows, "step")["overlay"]["args"]["error"] == "ToolError"
    assert traces.complete(rows, "program")["in the tree: 20-broken.sh"]["args"]["exit_status"] == 1


def test_a_script_that_is_not_executable(project: Project) -> None:
    project.write("overlays/tiny/scripts/20-x.sh", "#!/bin/bash\n", mode=0o644)
    message = fails(project, status=InputError.exit_code)
    assert "20-x.sh" in message
    assert "chmod +x" in message


def test_a_disk_that_is_too_small_for_the_tree(project: Project) -> None:
    project.release["disk"]["size"] = "330M"
    project.save()
    message = fails(project, status=InputError.exit_code)
    assert "the tree does not fit into the root file system of" in message
    assert "disk.size" in message


def test_a_failed_build_does_not_touch_what_is_published(project: Project) -> None:
    assert project.build()[0] == 0
    before = {file: file.stat().st_mtime_ns for file in project.published.iterdir()}
    project.write("overlays/tiny/scripts/20-broken.sh", "#!/bin/bash\nexit 1\n", 0o755)
    assert project.build()[0] == ToolError.exit_code
    assert {file: file.stat().st_mtime_ns for file in project.published.iterdir()} == before
    builds.check_published(project.published)
    assert project.in_the_way() == []


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(project: Project) -> Iterator[mirrors.Mirror]:
    """An archive that passes on the one this machine uses."""
    release = select(find("tiny", project.directory / "osprofiles"), None, Architecture.host())
    assert isinstance(release.base, DebBase)
    (source,) = sources.resolve(release.base, None)
    with mirrors.passing_on(source.uri) as running:
        yield running


@pytest.mark.network
def test_a_package_that_does_not_exist(cold: Project) -> None:
    cold.release["packages"].append("no-such-package-at-all")
    cold.save()
    message = fails(cold, status=InputError.exit_code)
    assert message.startswith("Unable to locate package no-such-package-at-all\n")
    assert "correct the packages in the profile" in message
    assert str(cold.log) in message


@pytest.mark.parametrize("suites", [["bookworm"], ["bookworm", "bookworm-security"]], ids=["archive", "security"])
def test_a_mirror_that_cannot_be_reached(cold: Project, suites: list[str]) -> None:
    cold.release["base"]["suites"] = suites
    cold.save()
    message = fails(cold, "--os", "tiny", "--mirror", "http://127.0.0.1:1/debian", status=NetworkError.exit_code)
    assert "http://127.0.0.1:1/debian" in message
    assert "refused" in message


@pytest.mark.network
def test_a_mirror_without_the_suite(cold: Project, mirror: mirrors.Mirror) -> None:
    cold.release["base"]["suites"] = ["hamm"]
    cold.save()
    message = fails(cold, "--os", "tiny", "--mirror", mirror.url, status=NetworkError.exit_code)
    assert "there is no suite 'hamm'" in message
    assert "--mirror URL" in message


def _unsigned(content: bytes) -> bytes:
    """Leave out the signature."""
    text = content.decode().split("-----BEGIN PGP SIGNATURE-----")[0]
    return text.split("\n\n", 1)[1].encode()


@pytest.mark.network
@pytest.mark.parametrize(
    ("files", "change", "told"),
    [
        ("/InRelease$", mirrors.flipped, "GPG error: .* signatures were invalid"),
        ("/InRelease$", _unsigned, "Failed to fetch .* Clearsigned file isn't valid"),
        ("/InRelease$", lambda content: content[: len(content) // 2], "GPG error: "),
        ("/binary-", mirrors.flipped, "Failed to fetch .*/binary-.* Hash Sum mismatch"),
        ("_all.deb$", mirrors.flipped, "Failed to fetch .*_all.deb +Hash Sum mismatch"),
        ("_all.deb$", lambda content: content[:-1], "Failed to fetch .*_all.deb +File has unexpected size"),
        ("_all.deb$", lambda _: b"<html>please log in</html>", "Failed to fetch .*_all.deb +File has unexpected size"),
    ],
    ids=["changed", "unsigned", "cut short", "changed list", "changed package", "short package", "another page"],
)
def test_an_archive_that_lies(
    cold: Project, mirror: mirrors.Mirror, files: str, change: mirrors.Change, told: str
) -> None:
    """The signed index decides: whatever the mirror sends, what is not in it stops the build."""
    for package in (cold.cache / "node-images/packages/deb").glob("*_all.deb"):
        package.unlink()
    mirror.changes[files] = change
    message = fails(cold, "--os", "tiny", "--mirror", mirror.url, status=NetworkError.exit_code)
    assert re.match(told, message)
    assert mirror.url in message.splitlines()[0]
    assert "--mirror URL" in message
    assert str(cold.log) in message
    assert list((cold.cache / "node-images/packages/deb").glob("*_all.deb")) == []


@pytest.mark.network
def test_an_archive_that_is_signed_by_a_key_the_profile_does_not_name(cold: Project) -> None:
    """The keyring has it, but that is not enough (decision D10)."""
    cold.release["base"]["fingerprints"] = [KEY_OF_THE_SECURITY_ARCHIVE]
    cold.save()
    message = fails(cold, status=NetworkError.exit_code)
    assert re.match("GPG error: .* NO_PUBKEY", message)


def test_a_key_that_the_keyring_lacks(cold: Project) -> None:
    cold.release["base"]["fingerprints"].append(KEY_OF_NOBODY)
    cold.save()
    message = fails(cold, status=DependencyError.exit_code)
    assert KEY_OF_NOBODY in message
    assert "fingerprints" in message


def test_a_keyring_that_is_missing(cold: Project) -> None:
    cold.release["base"]["keyring"] = "/usr/share/keyrings/no-such.gpg"
    cold.save()
    message = fails(cold, status=DependencyError.exit_code)
    assert "/usr/share/keyrings/no-such.gpg is missing" in message


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faketime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that gives a program another time, unpacked from Debian's package and not installed."""
    place = tmp_path_factory.mktemp("faketime")
    words = ["apt-get", "--option", "APT::Sandbox::User=root", "download", "libfaketime"]
    if subprocess.run(words, cwd=place, check=False, capture_output=True).returncode != 0:
        pytest.skip("the package libfaketime cannot be had")
    (package,) = place.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, place], check=True)
    return next(place.glob("usr/lib/*/faketime/libfaketime.so.1"))


@pytest.mark.network
@pytest.mark.parametrize("year", [1970, 2100])
def test_a_clock_that_is_wrong(project: Project, faketime: Path, year: int) -> None:
    wrapper = ["env", f"LD_PRELOAD={faketime}", "TZ=UTC", f"FAKETIME=@{year}-03-01 12:00:00"]
    code, _, err = project.build(wrapper=wrapper)
    assert code == DependencyError.exit_code
    assert f"error: this machine's clock says {year}-03-01 12:00 UTC" in err
    assert "hint: set it" in err
    assert "Traceback" not in err
    assert not project.published.exists()


# --- a full disk -----------------------------------------------------------------------------------------------------

MIB = 1024**2


class SmallDisk:
    """A directory on a file system of its own, in a mount namespace that the build shares with nobody."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    def around(self, before: str = "true") -> list[str]:
        """Return what is put before a command, so that it runs with the disk in place."""
        script = f'mount -t tmpfs -o size=8g tmpfs "$0" && {{ {before}; }} && exec "$@"'
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, str(self.place)]

    def shrink(self, running: builds.Running, spare: int) -> None:
        """Leave so many bytes free."""
        status = os.statvfs(f"/proc/{running.process.pid}/root{self.place}")
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        words = ["nsenter", "--mount", f"--target={running.process.pid}", "mount", "-o", f"remount,size={used + spare}"]
        subprocess.run([*words, self.place], check=True)


def test_no_space_is_told_before_work_begins(project: Project) -> None:
    """The cache is on a disk that is smaller than what a build takes."""
    place = project.directory.parent / "cache"
    project.cache = place
    small = [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1g tmpfs "$0" && exec "$@"',
    ]
    place.mkdir()
    status, _, err = project.build(wrapper=[*small, str(place)])
    assert status == StorageError.exit_code
    assert "GB free; a build needs" in err
    assert "XDG_CACHE_HOME" in err
    assert "Traceback" not in err


@pytest.mark.network
@pytest.mark.parametrize("moment", ["Unpacking", "Setting up"])
def test_a_disk_that_fills_up_while_packages_are_installed(cold: Project, moment: str) -> None:
    small = SmallDisk(cold.cache.parent / "small")
    packages = cold.cache / "node-images/packages"
    before = f'mkdir -m 700 "$0/node-images" && cp -r {packages} "$0/node-images/"'
    cold.cache = small.place
    running = cold.start(wrapper=[*small.around(before), "sh", "-c", _and_list(small.place)])
    try:
        running.wait_for_log(moment)
        small.shrink(running, 1 * MIB)
        status, out, err = running.end()
    finally:
        running.stop()
    assert status == StorageError.exit_code, err
    assert "Traceback" not in err
    assert "No space left on device" in err
    assert "./invoke clean --cache" in err
    assert out.splitlines()[-2:] == [".tmp: 0", "base: 0"]


def _and_list(place: Path) -> str:
    """Return a script that runs its arguments, and then says what is left in the cache."""
    count = 'echo "$kind: $(ls -A "$place/$kind" 2>/dev/null | wc -l)"'
    return f'place={place}/node-images; env -- "$0" "$@"; code=$?; for kind in .tmp base; do {count}; done; exit $code'


@pytest.mark.parametrize("step", ["disk ...", "compress ..."])
def test_a_disk_that_fills_up_while_the_image_is_written(project: Project, step: str) -> None:
    """Both the cache's disk, which takes the raw disk, and that of the build directory."""
    assert project.build()[0] == 0
    old = project.image_sha256()
    project.write("overlays/tiny/root/etc/motd", "another image\n")
    small = SmallDisk(project.cache if step == "disk ..." else project.build_dir)
    saved = project.directory.parent / "saved"
    before = f'cp -a {saved}/. "$0"'
    saved.mkdir()
    subprocess.run(["cp", "-a", *small.place.iterdir(), saved], check=True)
    running = project.start(wrapper=small.around(before))
    try:
        running.wait_for(step)
        small.shrink(running, 2 * MIB)
        status, _, err = running.end()
    finally:
        running.stop()
    assert status == StorageError.exit_code, err
    assert "No space left on device" in err
    assert "Traceback" not in err
    assert project.image_sha256() == old
    builds.check_published(project.published)
