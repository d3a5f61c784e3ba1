"""Trees: what counts in a digest, which times are changed, and that no link leads out."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import PipelineError
from pipeline.image import tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with every kind of entry that needs no privileges."""
    found = tmp_path / "root"
    (found / "etc/empty").mkdir(parents=True)
    (found / "usr/bin").mkdir(parents=True)
    (found / "etc/file").write_text("content")
    (found / "usr/bin/program").write_text("#!/bin/sh\n")
    (found / "usr/bin/program").chmod(0o755)
    (found / "bin").symlink_to("usr/bin")
    os.mkfifo(found / "etc/pipe")
    return found


def outside(tmp_path: Path) -> Path:
    """A directory of the host, with a file."""
    found = tmp_path / "host"
    found.mkdir()
    (found / "precious").write_text("precious")
    return found


# --- digest ----------------------------------------------------------------------------------------------------------


def test_a_digest_depends_on_nothing_but_the_tree(root: Path, tmp_path: Path) -> None:
    before = tree.digest(root)
    root.rename(tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere/etc/file", (1, 1))
    (tmp_path / "elsewhere/etc/file").read_text()
    assert tree.digest(tmp_path / "elsewhere") == before
    assert len(before) == 64


def _relink(root: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").symlink_to("/usr/bin")


def _make_link_a_directory(root: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").mkdir()


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "etc/file").write_text("Content"),
    "mode": lambda root: (root / "etc/file").chmod(0o600),
    "mode of a directory": lambda root: (root / "etc").chmod(0o700),
    "set-uid": lambda root: (root / "usr/bin/program").chmod(0o4755),
    "name": lambda root: (root / "etc/file").rename(root / "etc/file2"),
    "place": lambda root: (root / "etc/file").rename(root / "usr/file"),
    "more": lambda root: (root / "etc/new").touch(),
    "less": lambda root: (root / "etc/file").unlink(),
    "less, a directory": lambda root: (root / "etc/empty").rmdir(),
    "link target": _relink,
    "kind": _make_link_a_directory,
    "odd name": lambda root: Path(os.fsdecode(os.fsencode(root) + b"/\xff\n\0"[:3])).touch(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_digest_sees(root: Path, change: Callable[[Path], object]) -> None:
    before = tree.digest(root)
    change(root)
    assert tree.digest(root) != before


def test_a_digest_sees_attributes(root: Path) -> None:
    before = tree.digest(root)
    try:
        os.setxattr(root / "etc/file", "user.colour", b"red")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    with_red = tree.digest(root)
    os.setxattr(root / "etc/file", "user.colour", b"blue")
    assert len({before, with_red, tree.digest(root)}) == 3
    os.removexattr(root / "etc/file", "user.colour")
    assert tree.digest(root) == before


@pytest.mark.root
def test_a_digest_sees_owners_and_devices_but_not_the_bookkeeping_of_overlayfs(root: Path) -> None:
    digests = [tree.digest(root)]
    os.chown(root / "etc/file", 7, 0)
    digests.append(tree.digest(root))
    os.chown(root / "etc/file", 7, 7)
    digests.append(tree.digest(root))
    for minor in (3, 5):
        (root / "device").unlink(missing_ok=True)
        os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        digests.append(tree.digest(root))
    os.setxattr(root / "etc", "trusted.overlay.opaque", b"y")
    digests.append(tree.digest(root))
    assert len(set(digests)) == len(digests)
    os.setxattr(root / "etc/file", "trusted.overlay.origin", b"x")
    os.setxattr(root / "etc", "trusted.overlay.impure", b"y")
    assert tree.digest(root) == digests[-1]


def test_a_digest_leaves_out_what_it_is_told_to(root: Path) -> None:
    before = tree.digest(root, ignore=lambda path: path.startswith("etc/"))
    (root / "etc/file").write_text("changed")
    assert tree.digest(root, ignore=lambda path: path.startswith("etc/")) == before
    (root / "usr/file").touch()
    assert tree.digest(root, ignore=lambda path: path.startswith("etc/")) != before


def test_two_entries_cannot_be_mistaken_for_another_pair(tmp_path: Path) -> None:
    """The end of one name and the beginning of another must not run into each other."""
    seen: set[str] = set()
    for names in (("a", "b"), ("ab",), ("a\nb",), ("a b",), ("a", "b", "ab")):
        root = tmp_path / str(len(seen))
        root.mkdir()
        for name in names:
            (root / name).touch()
        seen.add(tree.digest(root))
    assert len(seen) == 5


def test_walk_yields_parents_first_in_sorted_order(root: Path) -> None:
    paths = [path for path, _ in tree.walk(root)]
    assert set(paths) == {
        "bin", "etc", "etc/empty", "etc/file", "etc/pipe", "usr", "usr/bin", "usr/bin/program",
    }  # fmt: skip
    for path in paths:
        if "/" in path:
            assert paths.index(path) > paths.index(path.rpartition("/")[0])


def test_walk_does_not_follow_links(root: Path, tmp_path: Path) -> None:
    (root / "etc/away").symlink_to(outside(tmp_path))
    assert not any("precious" in path for path, _ in tree.walk(root))


def test_the_checksum_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * (tree.CHUNK + 1))
    assert tree.file_sha256(tmp_path / "big") == hashlib.sha256(b"x" * (tree.CHUNK + 1)).hexdigest()


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("root:*:20782:0:99999:7:::\n", "root:*:20645:0:99999:7:::\n"),
        ("root:*:20645:0:99999:7:::\nx:!:100::::::\n", "root:*:20645:0:99999:7:::\nx:!:100::::::\n"),
        ("root:*::0:99999:7:::\nodd\n:\n\nx:!:99999", "root:*::0:99999:7:::\nodd\n:\n\nx:!:20645"),
        ("", ""),
    ],
)
def test_days_of_passwords_are_clamped(tmp_path: Path, before: str, after: str) -> None:
    shadow = tmp_path / "etc/shadow"
    shadow.parent.mkdir()
    shadow.write_text(before)
    shadow.chmod(0o640)
    inode = shadow.stat().st_ino
    tree.clamp_times(tmp_path, 20645 * 86400 + 4000)
    assert shadow.read_text() == after
    assert (shadow.stat().st_mode & 0o777, shadow.stat().st_ino) == (0o640, inode)


def test_passwords_of_the_host_are_out_of_reach(tmp_path: Path) -> None:
    host, root = tmp_path / "host", tmp_path / "root"
    host.mkdir()
    (host / "shadow").write_text("root:*:20782:0:99999:7:::\n")
    for name, target in (("etc", host), ("linked", host / "shadow")):
        root.mkdir(exist_ok=True)
        (root / name).symlink_to(target)
        tree.clamp_times(root, 86400)
    (root / "etc").unlink()
    (root / "etc").mkdir()
    (root / "etc/shadow").symlink_to(host / "shadow")
    tree.clamp_times(root, 86400)
    assert (host / "shadow").read_text() == "root:*:20782:0:99999:7:::\n"


def test_only_times_after_the_epoch_change(root: Path, tmp_path: Path) -> None:
    host = outside(tmp_path)
    (root / "etc/link").symlink_to(host / "precious")
    os.utime(root / "etc/file", (500, 500))
    before = (host / "precious").stat().st_mtime
    tree.clamp_times(root, 1000)
    assert (root / "etc/file").stat().st_mtime == 500
    for path in ("", "etc", "etc/link", "etc/pipe", "bin", "usr/bin/program"):
        assert (root / path).lstat().st_mtime == 1000, path
    assert (host / "precious").stat().st_mtime == before


# --- removing --------------------------------------------------------------------------------------------------------


def test_removing_follows_no_link(root: Path, tmp_path: Path) -> None:
    host = outside(tmp_path)
    (root / "etc/away").symlink_to(host)
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "etc/deep/er/file").touch()
    tree.remove_below(root / "etc")
    assert list((root / "etc").iterdir()) == []
    assert (host / "precious").exists()


@pytest.mark.parametrize("remove", [tree.remove_below, tree.remove_files_below])
def test_removing_below_a_link_removes_nothing(root: Path, tmp_path: Path, remove: Callable[[Path], None]) -> None:
    host = outside(tmp_path)
    (root / "var").symlink_to(host)
    remove(root / "var")
    assert (host / "precious").exists()


@pytest.mark.parametrize("remove", [tree.remove_below, tree.remove_files_below])
@pytest.mark.parametrize("path", ["missing", "etc/file"])
def test_removing_below_what_is_no_directory(root: Path, remove: Callable[[Path], None], path: str) -> None:
    remove(root / path)
    assert (root / "etc/file").exists()


def test_removing_files_keeps_directories_and_follows_no_link(root: Path, tmp_path: Path) -> None:
    host = outside(tmp_path)
    (root / "etc/away").symlink_to(host)
    (root / "etc/empty/file").touch()
    tree.remove_files_below(root / "etc")
    assert [path for path, _ in tree.walk(root / "etc")] == ["empty"]
    assert (host / "precious").exists()


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "path", "where"),
    [
        ({}, "etc/file", "etc/file"),
        ({}, "/etc/file", "etc/file"),
        ({}, "etc//./file", "etc/file"),
        ({}, ".", ""),
        ({}, "", ""),
        ({}, "..", ""),
        ({}, "../../../etc/passwd", "etc/passwd"),
        ({}, "etc/../usr", "usr"),
        ({}, "etc/missing/more", "etc/missing/more"),
        ({"a": "etc"}, "a/file", "etc/file"),
        ({"a": "/etc"}, "a/file", "etc/file"),
        ({"a": "/"}, "a/etc", "etc"),
        ({"a": "../../../../etc"}, "a/shadow", "etc/shadow"),
        ({"a": "b", "b": "/c", "c": "etc"}, "a/x", "etc/x"),
        ({"etc/a": "../usr"}, "etc/a/b", "usr/b"),
        ({"etc/a": ".."}, "etc/a/../etc/a/etc", "etc"),
        ({"a": "/etc/../../..//usr/./bin"}, "a", "usr/bin"),
        ({"etc/dangling": "/nowhere/at/all"}, "etc/dangling", "nowhere/at/all"),
    ],
)
def test_paths_stay_inside(root: Path, links: dict[str, str], path: str, where: str) -> None:
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert tree.inside(root, path) == (root / where if where else root)


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b/x", "b": "a/y"}])
def test_a_link_that_leads_to_itself(root: Path, links: dict[str, str]) -> None:
    for name, target in links.items():
        (root / name).symlink_to(target)
    with pytest.raises(PipelineError, match="too many levels of symbolic links: a/file in"):
        tree.inside(root, "a/file")


# --- writing ---------------------------------------------------------------------------------------------------------


def test_writing_replaces_a_link_instead_of_following_it(root: Path, tmp_path: Path) -> None:
    host = outside(tmp_path)
    (root / "etc/link").symlink_to(host / "precious")
    assert tree.write(root, "etc/link", "new") == root / "etc/link"
    assert (root / "etc/link").read_text() == "new"
    assert (host / "precious").read_text() == "precious"


def test_writing_below_a_link_stays_inside(root: Path, tmp_path: Path) -> None:
    host = outside(tmp_path)
    (root / "var").symlink_to(host)
    with pytest.raises(FileNotFoundError):
        tree.write(root, "var/new", "x")
    assert [path.name for path in host.iterdir()] == ["precious"]


def test_writing_does_not_change_other_names_of_a_file(root: Path) -> None:
    """Package managers and overlayfs make hard links."""
    os.link(root / "etc/file", root / "etc/same")
    tree.write(root, "etc/file", b"new", mode=0o600)
    assert (root / "etc/same").read_text() == "content"
    assert stat.S_IMODE((root / "etc/file").stat().st_mode) == 0o600
