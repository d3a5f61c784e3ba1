"""Overlays as files and templates; what their scripts do is in tests/integration/test_image_overlay.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.image import overlay

VARIABLES = overlay.variables_of(
    {"os": "debian", "release": "12", "codename": "bookworm", "arch": "arm64", "family": "deb"}, "ttyAMA0", ["quiet"]
)


def put(root: Path, path: str, text: str = "x", mode: int = 0o644) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)
    return target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a merged /usr."""
    found = tmp_path / "tree"
    (found / "usr/lib/systemd").mkdir(parents=True)
    (found / "etc").mkdir()
    (found / "lib").symlink_to("usr/lib")
    return found


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """An overlay without anything in it."""
    found = tmp_path / "overlays/demo"
    found.mkdir(parents=True)
    return found


def apply(root: Path, named: Path) -> None:
    overlay.apply(root, named, VARIABLES, {})


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_overlay_may_be_empty(root: Path, named: Path) -> None:
    apply(root, named)


def test_files_get_one_of_two_modes(root: Path, named: Path) -> None:
    put(named, "root/etc/secret", mode=0o600)
    put(named, "root/etc/shared", mode=0o666)
    put(named, "root/usr/bin/tool", mode=0o700)
    put(named, "root/usr/bin/template.j2", "{{ os }}", mode=0o775)
    apply(root, named)
    modes = {path: (root / path).stat().st_mode & 0o7777 for path in ("etc/secret", "etc/shared")}
    assert modes == {"etc/secret": 0o644, "etc/shared": 0o644}
    assert (root / "usr/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/bin/template").stat().st_mode & 0o7777 == 0o755
    assert (root / "usr/bin").stat().st_mode & 0o7777 == 0o755


def test_a_file_replaces_what_is_there(root: Path, named: Path, tmp_path: Path) -> None:
    host = put(tmp_path, "host/file", "precious")
    put(root, "etc/plain", "old", mode=0o600)
    (root / "etc/link").symlink_to(host)
    (root / "etc/dangling").symlink_to("/nowhere")
    os.link(put(root, "etc/one", "old"), root / "etc/other-name")
    for name in ("plain", "link", "dangling", "one"):
        put(named, f"root/etc/{name}", "new")
    apply(root, named)
    for name in ("plain", "link", "dangling", "one"):
        assert (root / "etc" / name).read_text() == "new"
        assert not (root / "etc" / name).is_symlink()
    assert host.read_text() == "precious"
    assert (root / "etc/other-name").read_text() == "old"


def test_files_over_linked_directories_stay_inside_the_tree(root: Path, named: Path, tmp_path: Path) -> None:
    put(tmp_path, "host/file", "precious")
    (root / "opt").symlink_to(tmp_path / "host")
    (root / "srv").symlink_to("../../../../../../../../etc")
    put(named, "root/lib/systemd/system/x.service")
    put(named, "root/opt/file", "new")
    put(named, "root/srv/file", "new")
    apply(root, named)
    assert (root / "usr/lib/systemd/system/x.service").exists()
    assert (root / "lib").is_symlink()
    assert (tmp_path / "host/file").read_text() == "precious"
    assert (root / str(tmp_path / "host/file").lstrip("/")).read_text() == "new"
    assert (root / "etc/file").read_text() == "new"


def test_links_are_copied_as_links(root: Path, named: Path) -> None:
    put(root, "etc/localtime", "old")
    (named / "root/etc").mkdir(parents=True)
    (named / "root/etc/localtime").symlink_to("/usr/share/zoneinfo/UTC")
    (named / "root/etc/link.j2").symlink_to("/nowhere")
    apply(root, named)
    assert str((root / "etc/localtime").readlink()) == "/usr/share/zoneinfo/UTC"
    assert str((root / "etc/link.j2").readlink()) == "/nowhere"


def test_applying_twice_changes_nothing(root: Path, named: Path) -> None:
    put(named, "root/etc/a/b", "x")
    apply(root, named)
    apply(root, named)
    assert (root / "etc/a/b").read_text() == "x"


def _file_over_directory(root: Path, named: Path) -> None:
    (root / "etc/thing").mkdir()
    put(named, "root/etc/thing")


def _template_over_directory(root: Path, named: Path) -> None:
    (root / "etc/thing").mkdir()
    put(named, "root/etc/thing.j2")


def _directory_over_file(root: Path, named: Path) -> None:
    put(root, "etc/thing")
    put(named, "root/etc/thing/file")


@pytest.mark.parametrize("prepare", [_file_over_directory, _template_over_directory, _directory_over_file])
def test_what_does_not_fit_the_tree_is_named(root: Path, named: Path, prepare: Callable[[Path, Path], None]) -> None:
    prepare(root, named)
    with pytest.raises(InputError, match="etc/thing") as caught:
        apply(root, named)
    assert caught.value.hint


# --- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ os }} {{ release }} {{ codename }} {{ arch }} {{ family }}\n", "debian 12 bookworm arm64 deb\n"),
        ("console={{ serial }},115200", "console=ttyAMA0,115200"),
        ('{{ kernel_arguments | join(" ") }}\n', "quiet\n"),
        ("a\n{% if arch == 'arm64' %}\n  b\n{% endif %}\nc\n", "a\n  b\nc\n"),
        ("<&\"'>", "<&\"'>"),
        ("ünïcödé\n", "ünïcödé\n"),
        ("", ""),
        ("no newline at the end", "no newline at the end"),
    ],
)
def test_templates(root: Path, named: Path, text: str, rendered: str) -> None:
    put(named, "root/etc/file.conf.j2", text)
    apply(root, named)
    assert (root / "etc/file.conf").read_text() == rendered
    assert not (root / "etc/file.conf.j2").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n{{ hostname }}\n", "'hostname' is undefined"),
        ("{% if nope %}x{% endif %}", "'nope' is undefined"),
        ("{% for x in nope.y %}{% endfor %}", "'nope' is undefined"),
        ("{{ os.nope }}", "nope"),
        ("a\nb\n{{ os\n", ":3: "),
        ("a\n{% if os %}\n", "endif"),
        ("a\n{{ os | nope }}\n", ":2: No filter named 'nope'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ os + 1 }}", "can only concatenate str"),
        ("{% include 'other' %}", "no loader"),
    ],
)
def test_a_wrong_template_is_named_with_its_cause(root: Path, named: Path, text: str, message: str) -> None:
    template = put(named, "root/etc/file.conf.j2", text)
    with pytest.raises(InputError) as caught:
        apply(root, named)
    assert caught.value.message.startswith(str(template))
    assert message in caught.value.message
    assert caught.value.hint
    assert not (root / "etc/file.conf").exists()


def test_an_undefined_variable_is_answered_with_those_there_are(root: Path, named: Path) -> None:
    put(named, "root/etc/file.j2", "{{ hostname }}")
    with pytest.raises(InputError) as caught:
        apply(root, named)
    assert "arch, codename, family, kernel_arguments, os, release, serial" in caught.value.hint


def test_a_template_that_is_no_text(root: Path, named: Path) -> None:
    put(named, "root/etc/file.j2").write_bytes(b"\xff\xfe{{ os }}")
    with pytest.raises(InputError, match=r"file\.j2: .*utf-8"):
        apply(root, named)


# --- what counts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(named: Path) -> Path:
    put(named, "root/etc/file", "content")
    put(named, "root/usr/bin/tool", mode=0o755)
    (named / "root/etc/link").symlink_to("file")
    put(named, "scripts/10-x.sh", "#!/bin/bash\n", mode=0o755)
    return named


def _relink(named: Path) -> None:
    (named / "root/etc/link").unlink()
    (named / "root/etc/link").symlink_to("other")


@pytest.mark.parametrize(
    "change",
    [
        lambda named: put(named, "root/etc/file", "Content"),
        lambda named: (named / "root/etc/file").chmod(0o744),
        lambda named: (named / "root/usr/bin/tool").chmod(0o644),
        lambda named: (named / "root/etc/file").rename(named / "root/etc/file2"),
        lambda named: put(named, "root/etc/file2"),
        lambda named: (named / "root/opt").mkdir(),
        lambda named: put(named, "scripts/10-x.sh", "#!/bin/bash\ntrue\n", mode=0o755),
        lambda named: (named / "scripts/10-x.sh").rename(named / "scripts/20-x.sh"),
        lambda named: (named / "scripts").rename(named / "root/scripts"),
        _relink,
    ],
)
def test_a_digest_sees(filled: Path, change: Callable[[Path], object]) -> None:
    before = overlay.digest(filled)
    change(filled)
    assert overlay.digest(filled) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda named: (named / "root/etc/file").chmod(0o664),
        lambda named: (named / "root/etc").chmod(0o775),
        lambda named: (named / "root/usr/bin/tool").chmod(0o700),
        lambda named: os.utime(named / "root/etc/file", (1, 1)),
        lambda named: put(named, "README.md"),
        lambda named: put(named, "notes/root/etc/file"),
        lambda named: named.rename(named.with_name("moved")),
    ],
)
def test_a_digest_does_not_see_the_checkout(filled: Path, change: Callable[[Path], object]) -> None:
    """Another umask, another place, another user's clone: the same image."""
    before = overlay.digest(filled)
    change(filled)
    assert overlay.digest(filled if filled.exists() else filled.with_name("moved")) == before


@pytest.mark.root
def test_a_digest_does_not_see_the_owner(filled: Path) -> None:
    before = overlay.digest(filled)
    for path in filled.rglob("*"):
        os.lchown(path, 1000, 1000)
    assert overlay.digest(filled) == before


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [_pipe, _socket])
def test_what_no_git_holds_is_refused(
    filled: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(filled / "root/etc")  # the name of a socket has little room
    make(Path("odd"))
    with pytest.raises(InputError, match="odd is neither a file nor a directory nor a link"):
        overlay.digest(filled)
