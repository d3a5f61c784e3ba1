"""What differs between two trees, archives and package lists, and how it is told."""

from __future__ import annotations

import gzip
import io
import lzma
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from rich.console import Console

from pipeline.core.errors import InputError
from pipeline.image.compare import boot, cpio, disk, html, locate, packages, report, text, write_html
from pipeline.image.compare.entries import Content, Entry, of_directory, whole
from pipeline.image.compare.model import Aspect, Blocks, Change, Difference, How, PackageChange, Side, Times
from pipeline.image.compare.trees import LINES, Comparer, bounded, differing

A = Side(Path("a.qcow2"), "a" * 64, 10)
B = Side(Path("b.qcow2"), "b" * 64, 11)


class Maker:
    """Makes entries whose contents lie in one file, as a disk's do."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "disk"
        self.file.touch()

    def content(self, data: bytes) -> Content:
        at = self.file.stat().st_size
        with self.file.open("ab") as stream:
            stream.write(data)
        return Content(self.file, len(data), ((0, at, len(data)),))

    def __call__(self, data: bytes | str = b"", **settings: Any) -> Entry:  # noqa: ANN401
        data = data.encode() if isinstance(data, str) else data
        plain = Entry("file", 0o644, 0, 0, size=len(data), content=self.content(data))
        return replace(plain, **settings)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def other(kind: str = "fifo", **settings: Any) -> Entry:  # noqa: ANN401
    return replace(Entry(kind, 0o755, 0, 0), **settings)


def compare(a: dict[str, Entry], b: dict[str, Entry]) -> list[Change]:
    return list(Comparer().compare(a, b))


# --- trees -----------------------------------------------------------------------------------------------------------


def test_what_is_the_same_is_not_told(make: Maker) -> None:
    tree = {"": other("directory"), "a": make("x", inode=12), "b": other("link", target="a")}
    again = {"": other("directory"), "a": make("x", inode=99), "b": other("link", target="a")}
    assert compare(tree, again) == []


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("mode", {"mode": 0o644}, {"mode": 0o4644}),
        ("owner", {"owner": 0}, {"owner": 1000}),
        ("group", {"group": 0}, {"group": 42}),
        ("link target", {"kind": "link", "target": "x"}, {"kind": "link", "target": "y"}),
        ("device", {"kind": "character device", "device": "1:3"}, {"kind": "character device", "device": "1:5"}),
        ("type", {"kind": "fifo"}, {"kind": "socket"}),
        ("attribute user.x", {"attributes": (("user.x", "1"),)}, {"attributes": (("user.x", "2"),)}),
        ("attribute user.x", {"attributes": ()}, {"attributes": (("user.x", "2"),)}),
    ],
)
def test_everything_of_an_entry_counts(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    (change,) = compare({"x": other(**before)}, {"x": other(**after)})
    assert (change.path, change.how) == ("x", How.CHANGED)
    assert [aspect.name for aspect in change.aspects] == [name]


def test_hard_links_are_compared_by_their_names(make: Maker) -> None:
    linked = {"a": make("x", inode=12), "b": make("x", inode=12), "c": make("x", inode=13)}
    elsewhere = {"a": make("x", inode=7), "b": make("x", inode=7), "c": make("x", inode=20)}
    assert compare(linked, elsewhere) == []
    copied = elsewhere | {"b": make("x", inode=8)}
    assert [(change.path, change.aspects) for change in compare(linked, copied)] == [
        ("a", (Aspect("hard links", "b", "none"),)),
        ("b", (Aspect("hard links", "a", "none"),)),
    ]


def test_what_only_one_has(make: Maker) -> None:
    found = compare({"old": make("12")}, {"new": other("link", target="there")})
    assert [(change.path, change.how, change.aspects[0]) for change in found] == [
        ("new", How.ADDED, Aspect("is", "", "link to there")),
        ("old", How.REMOVED, Aspect("is", "2 bytes", "")),
    ]


def test_a_text_is_shown_line_by_line(make: Maker) -> None:
    (change,) = compare({"x": make("a\nb\nc\n")}, {"x": make("a\nB\nc\n")})
    assert [aspect.name for aspect in change.aspects] == ["content"]
    assert change.diff == ("@@ -1,4 +1,4 @@", " a", "-b", "+B", " c", " ")


@pytest.mark.parametrize("data", [b"\0\1", b"\xff\xfe", b"x" * (300 << 10)], ids=["null", "no UTF-8", "large"])
def test_no_text_or_too_large_is_not(make: Maker, data: bytes) -> None:
    (change,) = compare({"x": make("a\n")}, {"x": make(data)})
    assert change.diff == ()


def test_line_by_line_has_a_budget(make: Maker) -> None:
    trees = [{name: make(text * 100) for name in "abc"} for text in ("x\n", "y\n")]
    found = list(Comparer(left=900).compare(trees[0], trees[1]))
    assert [bool(change.diff) for change in found] == [True, True, False]


def test_a_long_diff_ends_somewhere() -> None:
    lines = bounded(f"{number} {'x' * 10_000}" for number in range(100_000))
    assert len(lines) == LINES + 1
    assert lines[-1] == "... and more"
    assert max(map(len, lines)) == 400


def test_times_are_counted_and_not_listed(make: Maker) -> None:
    comparer = Comparer()
    a, b = ({name: make("x", times=(("mtime", when),)) for name in "xyz"} for when in ("1", "2"))
    b["z"] = a["z"]
    assert list(comparer.compare(a, b)) == []
    assert comparer.times() == (Times("mtime", 2, Aspect("x", "1", "2")),)


def test_holes_are_zeros(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"..abcdef")
    scattered = Content(tmp_path / "disk", 3 << 20, ((5, 2, 3), ((2 << 20) - 1, 5, 3)))
    expected = bytearray(3 << 20)
    expected[5:8], expected[(2 << 20) - 1 : (2 << 20) + 2] = b"abc", b"def"
    scattered.copy(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == expected
    assert differing(scattered, whole(tmp_path / "copy")) == (None, 0)
    expected[9000] = 1
    (tmp_path / "copy").write_bytes(expected)
    assert differing(scattered, whole(tmp_path / "copy")) == (9000, 1)


def test_a_directory_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x").write_text("hello")
    found = of_directory(tmp_path)
    assert [(path, entry.kind, entry.size) for path, entry in found.items()] == [
        ("d", "directory", 0),
        ("d/x", "file", 5),
    ]


# --- initramfs -------------------------------------------------------------------------------------------------------


def archive(**files: str) -> bytes:
    out = io.BytesIO()
    for name, value in [*files.items(), ("TRAILER!!!", "")]:
        mode = 0o120777 if value.startswith("->") else 0o100644
        data = value.removeprefix("->")
        numbers = (1, mode, 0, 0, 1, 60, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + "".join(f"{number:08X}" for number in numbers).encode() + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data.encode())
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def members(tmp_path: Path, data: bytes) -> dict[str, Entry]:
    (tmp_path / "image").write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return cpio.members(whole(tmp_path / "image"), scratch)


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, lzma.compress, zstandard.compress, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)],
    ids=["plain", "gzip", "xz", "zstd", "lzma"],
)
def test_early_and_main_archive(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    early = archive(microcode="m" * 50).ljust(1024, b"\0")
    found = members(tmp_path, early + pack(archive(init="#!x", bin="->usr/bin")))
    assert {name: (entry.kind, entry.size, entry.target) for name, entry in found.items()} == {
        "microcode": ("file", 50, ""), "init": ("file", 3, ""), "bin": ("link", 0, "usr/bin"),
    }  # fmt: skip
    assert found["init"].content is not None
    assert found["init"].content.read() == b"#!x"
    assert found["init"].times == (("mtime", "1970-01-01 00:01:00.000000000"),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no cpio archive"),
        (b"\0" * 5000, "holds no cpio archive"),
        (b"\x02\x21\x4c\x18....", "unknown way, its bytes begin with 02214c18"),
        (archive(init="x")[:60], "ends before its end"),
        (b"070701" + b"z" * 104, "is damaged"),
        (b"070701" + b"F" * 104, "is damaged"),
        (gzip.compress(archive(init="x"))[:-12], "cannot be unpacked"),
        (gzip.compress(gzip.compress(archive(init="x"))), "compressed twice"),
        (zstandard.compress(archive(init="x" * 1000))[:-12], "ends before its end|cannot be unpacked|no cpio"),
    ],
    ids=["empty", "zeros", "lz4", "cut", "letters", "numbers", "cut gzip", "twice", "cut zstd"],
)
def test_an_initramfs_that_is_not_understood(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(cpio.NotUnderstoodError, match=message):
        members(tmp_path, data)


# --- packages --------------------------------------------------------------------------------------------------------


def row(name: str, version: str, **more: object) -> dict[str, object]:
    return {"name": name, "version": version, **more}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([row("x", "1")], [row("x", "1")], []),
        ([row("x", "1", size=5)], [row("x", "2", size=7)], [PackageChange("x", "1", "2", "", 2)]),
        ([], [row("x", "2", size=7)], [PackageChange("x", "", "2", "", 7)]),
        ([row("x", "1", size=7)], [], [PackageChange("x", "1", "", "", -7)]),
        ([row("x", "1", sha256="a")], [row("x", "1", sha256="b")], [PackageChange("x", "1", "1", "sha256: a -> b", 0)]),
        ([row("kernel", "2"), row("kernel", "1")], [row("kernel", "2")], [PackageChange("kernel", "1 2", "2", "", 0)]),
    ],
)
def test_packages(a: list[dict[str, object]], b: list[dict[str, object]], expected: list[PackageChange]) -> None:
    assert packages.compare(a, b) == tuple(expected)


STATUS = """\
Package: zstd
Status: install ok installed
Architecture: amd64
Version: 1.5

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_packages_are_read_from_the_image_if_nothing_lies_beside_it(make: Maker, tmp_path: Path) -> None:
    tree = {packages.STATUS: make(STATUS)}
    expected = [{"name": "zstd", "version": "1.5", "architecture": "amd64"}]
    assert packages.known(tmp_path / "x.qcow2", tree) == expected
    for spoilt in ("{}", "[1]", '[{"name": 1}]', "nonsense"):
        (tmp_path / "packages.json").write_text(spoilt)
        assert packages.known(tmp_path / "x.qcow2", tree) in (expected, []), spoilt
    (tmp_path / "packages.json").write_text('[{"name": "x", "version": "1"}]')
    assert packages.known(tmp_path / "x.qcow2", tree) == [row("x", "1")]
    assert packages.known(tmp_path / "elsewhere/x.qcow2", {}) is None


def test_files_know_their_package(make: Maker) -> None:
    tree = {
        "bin": other("link", target="usr/bin"),
        "var/lib/dpkg/info/zstd.list": make("/.\n/bin\n/bin/zstd\n/usr/share\n"),
        "var/lib/dpkg/info/libx:amd64.postinst": make(""),
    }
    found = packages.owners(tree)
    assert (found["usr/bin/zstd"], found["usr/share"]) == ("zstd", "zstd")
    assert found["var/lib/dpkg/info/libx:amd64.postinst"] == "libx"


# --- boot ------------------------------------------------------------------------------------------------------------


def test_command_lines(make: Maker) -> None:
    grub = "menuentry x {\n  linux /boot/vmlinuz-6 root=UUID=1 ro quiet\n  initrd /boot/initrd.img-6\n}\n"
    a = {"boot/grub/grub.cfg": make(grub), "boot/loader/entries/x.conf": make("title x\noptions root=UUID=1 ro\n")}
    b = {
        "boot/grub/grub.cfg": make(grub.replace("quiet", "debug")),
        "boot/loader/entries/x.conf": make("options ro root=UUID=1"),
    }
    assert list(boot.compare(a, b)) == [
        Aspect("kernel command line (boot/grub/grub.cfg, kernel 1)", "quiet", "debug"),
        Aspect("kernel command line (boot/loader/entries/x.conf, kernel 1)", "root=UUID=1 ro", "ro root=UUID=1"),
    ]
    assert list(boot.compare(a, a)) == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [("boot/vmlinuz-6", True), ("ESP:EFI/BOOT/BOOTX64.EFI", True), ("etc/fstab", True), ("etc/default/grub", True),
     ("etc/passwd", False), ("usr/boot/x", False), ("etc/fstab.d/x", True)],
)  # fmt: skip
def test_what_has_a_part_in_booting(path: str, expected: bool) -> None:
    assert boot.has_part(path) is expected


# --- disk ------------------------------------------------------------------------------------------------------------


def test_blocks_that_differ_are_found_and_holes_are_skipped(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    for path, places in ((one, (0, 5 << 20)), (two, (0, 9 << 30))):
        with path.open("wb") as stream:
            stream.truncate(10 << 30)
            for place in places:
                stream.seek(place)
                stream.write(b"x")
    found = list(disk.differing_blocks(one, two, 0, 0, 10 << 30))
    assert found == [5 << 20, 9 << 30]
    assert list(disk.differing_blocks(one, one, 0, 0, 10 << 30)) == []
    assert list(disk.differing_blocks(one, two, 4096, 4096, 4 << 20)) == []


# --- which images ----------------------------------------------------------------------------------------------------


def test_images_are_named_by_file_directory_or_name(tmp_path: Path) -> None:
    image = tmp_path / "build/debian-12-amd64/debian-12-amd64.qcow2"
    image.parent.mkdir(parents=True)
    image.touch()
    for word in (str(image), str(image.parent), "debian-12-amd64"):
        assert locate(word, tmp_path / "build") == image
    for word in ("debian-11-amd64", str(tmp_path), ""):
        with pytest.raises(InputError, match="is no image"):
            locate(word, tmp_path / "build")
    (image.parent / "other.qcow2").touch()
    with pytest.raises(InputError, match="holds 2 qcow2 files"):
        locate("debian-12-amd64", tmp_path / "build")


# --- what is told ----------------------------------------------------------------------------------------------------


def changed(path: str, group: str = "", **more: Any) -> Change:  # noqa: ANN401
    return replace(Change(path, How.CHANGED, (Aspect("mode", "0644", "0600"),), group=group), **more)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Difference(A, replace(B, sha256=A.sha256)), "the same, byte for byte"),
        (Difference(A, B, disk=(Aspect("x", "1", "2"),)), "only how the qcow2 stores them differs"),
        (Difference(A, B, blocks=(Blocks("root", "", 1, 0),)), "only where things lie on the disk differs"),
        (
            Difference(A, B, blocks=(Blocks("root", "", 1, 0),), times=(Times("mtime", 1, Aspect("x", "1", "2")),)),
            "nothing but times differs",
        ),
        (
            Difference(A, B, blocks=(Blocks("root", "", 1, 0),), files=(changed("x"),), boot=(Aspect("x", "1", "2"),)),
            "differences: 1 files, 1 of boot",
        ),
    ],
)
def test_the_verdict(found: Difference, expected: str) -> None:
    assert expected in report.verdict(found)
    assert expected in text(found)
    assert expected in html(found)


def test_a_directory_that_one_lacks_is_one_line() -> None:
    changes = [Change(path, How.ADDED) for path in ("a", "a/b", "a/b/c", "ab")] + [changed("d"), changed("d/e")]
    folded = [(one.change.path, one.below) for one in report.fold(changes)]
    assert folded == [("a", 2), ("ab", 0), ("d", 0), ("d/e", 0)]


def thousands() -> Difference:
    files = tuple(
        changed(f"usr/lib/{group:04}/{number:04}", f"package{group:04}", diff=("-old", "+new") * 8)
        for group in range(100)
        for number in range(100)
    )
    changes = tuple(PackageChange(f"package{group:04}", "1", "2", "", 0) for group in range(100))
    return Difference(A, B, files=files, packages=changes, blocks=(Blocks("root", "file contents", 9, 0),))


def test_thousands_of_files_are_told_in_short() -> None:
    shown = text(thousands())
    assert len(shown.splitlines()) < 600
    assert "Files: 10000 differ" in shown
    assert "package0000: 100 differ" in shown
    assert "... 92 more" in shown
    assert "... 70 more packages or directories with 7000 files; --all or --html shows them" in shown
    assert "... 60 more; --all or --html shows them" in shown


def test_and_whole_if_that_is_asked_for() -> None:
    found = thousands()
    for shown in (text(found, everything=True), html(found)):
        assert set(re.findall(r"usr/lib/\d{4}/\d{4}", shown)) == {change.path for change in found.files}
        assert "more packages" not in shown


def test_a_wide_terminal_gets_colours_and_a_pipe_none() -> None:
    stream = io.StringIO()
    report._print(
        Console(file=stream, force_terminal=True, width=80), Difference(A, B, files=(changed("x"),)), everything=False
    )
    assert "\x1b[" in stream.getvalue()
    assert "\x1b[" not in text(Difference(A, B, files=(changed("x"),)))


HOSTILE = "x<script>alert(1)</script>[red]\x1b]0;title\x07\u202egpj.exe\udcff"


def test_names_of_a_stranger_do_nothing() -> None:
    row = Aspect(HOSTILE, HOSTILE, HOSTILE)
    change = Change(HOSTILE, How.CHANGED, (row,), (HOSTILE,), (changed(HOSTILE),), HOSTILE)
    side = replace(A, image=Path(HOSTILE))
    found = Difference(
        side, B, (PackageChange(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1),), (row,), (change,), (row,), (change,),
        (Times("mtime", 1, row),), (Blocks(HOSTILE, HOSTILE, 1, 0),), (HOSTILE,),
    )  # fmt: skip
    page = html(found)
    page.encode()
    assert "<script" not in page
    shown = text(found, everything=True)
    assert r"[red]\x1b]0;title\x07\u202egpj.exe\xff" in shown
    assert not re.search("[\x1b\x07\u202e\udcff]", shown + page)


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_html(thousands(), tmp_path / "diff.html")
    page = (tmp_path / "diff.html").read_text()
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=|url\(|@import", page)
