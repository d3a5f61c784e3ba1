"""Archives of strangers stay inside of the tree; layers take away what they say."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.image.bases import unpack

Entry = tuple[str, str, str]  # name, kind, and content or where a link leads
KINDS = {"dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}


def archive(target: Path, entries: Sequence[Entry], **changes: object) -> Path:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as made:
        for name, kind, text in entries:
            member = tarfile.TarInfo(name)
            member.type = KINDS.get(kind, tarfile.REGTYPE)
            member.mode = 0o755 if kind == "dir" else 0o644
            member.uid, member.gid, member.mtime = os.getuid(), os.getgid(), 1_700_000_000
            content = b""
            if kind in {"link", "hard"}:
                member.linkname = text
            elif kind == "file":
                content = text.encode()
                member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            made.addfile(member, io.BytesIO(content))
    return target


def unpacked(place: Path, *layers: Sequence[Entry], is_layer: bool = True) -> Path:
    root = place / "root"
    root.mkdir(exist_ok=True)
    for number, entries in enumerate(layers):
        with unpack.opened(archive(place / f"{number}.tar", entries), place) as opened:
            unpack.apply(opened, root, is_layer=is_layer)
    return root


def listing(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_files_with_their_modes_and_times(tmp_path: Path) -> None:
    layer = archive(tmp_path / "a.tar", [("./usr/bin/x", "file", "hello")], mode=0o4755)
    root = tmp_path / "root"
    root.mkdir()
    with unpack.opened(layer, tmp_path) as opened:
        unpack.apply(opened, root)
    status = (root / "usr/bin/x").stat()
    assert (root / "usr/bin/x").read_text() == "hello"
    assert (oct(status.st_mode), status.st_mtime) == ("0o104755", 1_700_000_000)


@pytest.mark.parametrize(
    "link", ["{outside}", "../../../../../../../../../../..{outside}", "../outside"], ids=["absolute", "climbing", "up"]
)
@pytest.mark.parametrize("kind", ["file", "dir", "hard", ".wh."])
def test_a_link_out_of_the_tree_is_never_followed(tmp_path: Path, link: str, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("precious")
    name = "evil/.wh.victim" if kind == ".wh." else "evil/victim"
    entry = (name, "file" if kind == ".wh." else kind, "mine")
    first: list[Entry] = [("mine", "file", "x"), ("evil", "link", link.format(outside=outside))]
    root = unpacked(tmp_path, first, [entry, ("evil/new", "file", "y")])
    assert (outside / "victim").read_text() == "precious"
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").stat().st_nlink == 1
    assert (root / "evil").is_symlink()
    assert [path.name for path in root.rglob("new")] == ["new"]  # it lies inside


def test_a_file_replaces_a_link_and_does_not_write_through_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    root = unpacked(tmp_path, [("x", "link", str(victim))], [("x", "file", "mine")])
    assert victim.read_text() == "precious"
    assert (root / "x").read_text() == "mine"
    assert not (root / "x").is_symlink()


def test_a_directory_replaces_a_link(tmp_path: Path) -> None:
    root = unpacked(tmp_path, [("x", "link", str(tmp_path))], [("x", "dir", ""), ("x/y", "file", "")])
    assert listing(root) == {"x/y"}


@pytest.mark.parametrize(
    "entry", [("../x", "file", ""), ("usr/../../x", "file", ""), ("x", "hard", "../../etc/passwd")], ids=str
)
def test_a_path_out_of_the_tree_is_refused(tmp_path: Path, entry: Entry) -> None:
    with pytest.raises(InputError, match=r"0\.tar: .*leads out of the tree"):
        unpacked(tmp_path, [entry])
    assert not (tmp_path / "x").exists()


def test_an_absolute_path_is_taken_for_one_of_the_tree(tmp_path: Path) -> None:
    assert listing(unpacked(tmp_path, [("/etc/x", "file", ""), ("y", "hard", "/etc/x")])) == {"etc/x", "y"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("y", "hard", "missing")], "cannot be unpacked"),
        ([("d", "dir", ""), ("y", "hard", "d")], "a hard link to d"),
        ([("f", "file", ""), ("f/x", "file", "")], "cannot be unpacked"),
        ([("a", "link", "b"), ("b", "link", "a"), ("a/x", "file", "")], "too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, entries: list[Entry], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        unpacked(tmp_path, entries)
    assert caught.value.hint


def test_whiteouts(tmp_path: Path) -> None:
    lower: list[Entry] = [("a/one", "file", ""), ("a/two", "file", ""), ("b/c/deep", "file", ""), ("keep", "file", "")]
    upper: list[Entry] = [
        ("a/.wh.one", "file", ""), ("b/c/new", "file", ""), ("b/.wh..wh..opq", "file", ""), ("b/d", "file", ""),
        (".wh..wh.plnk", "file", ""), ("twice", "file", ""), (".wh.twice", "file", ""), (".wh.none", "file", ""),
    ]  # fmt: skip
    assert listing(unpacked(tmp_path, lower, upper)) == {"a/two", "b/c/new", "b/d", "keep", "twice"}


def test_whiteouts_mean_nothing_in_a_plain_archive(tmp_path: Path) -> None:
    root = unpacked(tmp_path, [("a", "file", ""), (".wh.a", "file", "")], is_layer=False)
    assert listing(root) == {"a", ".wh.a"}


def test_devices_and_strange_attributes_are_left_out(tmp_path: Path) -> None:
    headers = {f"SCHILY.xattr.{name}": "y" for name in ("user.mine", "user.overlay.opaque", "security.selinux")}
    layer = archive(tmp_path / "a.tar", [("x", "file", ""), ("dev/null", "device", "")], pax_headers=headers)
    root = tmp_path / "root"
    root.mkdir()
    with unpack.opened(layer, tmp_path) as opened:
        unpack.apply(opened, root)
    assert listing(root) == {"x"}
    assert os.listxattr(root / "x") == ["user.mine"]


@pytest.mark.parametrize("tool", ["gzip", "xz", "bzip2", "zstd"])
def test_any_compression(tmp_path: Path, tool: str) -> None:
    plain = archive(tmp_path / "a.tar", [("x", "file", "hello")])
    packed = tmp_path / "packed"
    with packed.open("wb") as stream:
        subprocess.run([tool, "--stdout", plain], check=True, stdout=stream)
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    with unpack.opened(packed, scratch) as opened:
        unpack.apply(opened, root)
    assert (root / "x").read_text() == "hello"


@pytest.mark.parametrize("part", [10, -30])
def test_an_archive_that_is_cut_short(tmp_path: Path, part: int) -> None:
    content = gzip.compress(archive(tmp_path / "a.tar", [("x", "file", "hello" * 1000)]).read_bytes())
    (tmp_path / "short").write_bytes(content[:part])
    (tmp_path / "root").mkdir()
    with (
        pytest.raises(InputError, match="cannot be read as an archive"),
        unpack.opened(tmp_path / "short", tmp_path) as opened,
    ):
        unpack.apply(opened, tmp_path / "root")
