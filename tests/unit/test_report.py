"""The report: what it says of what is there, what is missing and what is broken."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import matrix
from pipeline.core.errors import StorageError
from pipeline.image import history
from pipeline.matrix.model import Status
from pipeline.matrix.report import packages, page, past, sizes, times
from pipeline.matrix.report.found import Found, Manifest, Package
from pipeline.matrix.report.read import read
from pipeline.quality import ROOT
from tests.unit import reports

MADE = datetime.datetime(2026, 4, 1, tzinfo=datetime.UTC)
NAME = "debian-12-amd64"


def rendered(build_dir: Path) -> str:
    return page.render(read(build_dir), build_dir / page.FILE, MADE)


def text(html: str) -> str:
    """Return what a reader sees, with one space between words."""
    bare = re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", "", bare).split())


def found(build_dir: Path, name: str = NAME) -> Found:
    return next(one for one in read(build_dir).images if one.name == name)


# --- reading


def test_everything_is_read(tmp_path: Path) -> None:
    names = reports.everything(tmp_path, 8)
    everything = read(tmp_path)
    assert [one.name for one in everything.images] == names, "the order is the matrix's"
    assert (everything.problems, everything.missing) == ((), ())
    first, second = everything.images[:2]
    assert first.manifest is not None
    assert first.manifest.image.size == reports.size_of(names[0], 9)
    assert [(run.kind, run.passed, run.skipped, run.boot_seconds) for run in first.verifications] == [
        ("uefi", 58, 4, 38.4),
        ("bios", 58, 4, 38.4),
    ]
    assert second.verifications[0].failures[0].test == "test_image::test_root_grows"
    assert second.verifications[0].failures[0].message.endswith("left = 2")
    assert len(first.records) == 10
    assert everything.images[-1].log[-2] == "04:05:00 error: <b>Curl error (28)</b>", "without a terminal's codes"


def test_images_that_no_matrix_knows_come_last(tmp_path: Path) -> None:
    reports.image(tmp_path, "uos-20-arm64")
    reports.image(tmp_path, "centos-9-arm64")
    reports.image(tmp_path, "centos-10-arm64")
    reports.matrix(tmp_path, [reports.result("uos-20-arm64", Status.BUILT)])
    assert [one.name for one in read(tmp_path).images] == ["uos-20-arm64", "centos-10-arm64", "centos-9-arm64"]


def test_what_is_no_node_image_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cluster-installer").mkdir()
    (tmp_path / "cluster-installer/manifest.json").write_text('{"components": []}')
    (tmp_path / "bundles/v1").mkdir(parents=True)
    (tmp_path / ".debian-12-amd64.1234").mkdir()
    (tmp_path / ".debian-12-amd64.1234/.debian-12-amd64.1234.qcow2").touch()
    assert (read(tmp_path).images, read(tmp_path).problems) == ((), ())


def test_an_empty_directory_has_a_page_that_says_so(tmp_path: Path) -> None:
    said = text(rendered(tmp_path / "nothing"))
    assert "There is nothing in build/ yet." in said
    assert "No matrix was built here yet: ./invoke matrix" in said
    assert "There is no history yet" in said


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("matrix.json", b"{", "Invalid JSON"),
        ("matrix.json", b"\xff\xfe", "Invalid JSON"),
        ("matrix.json", b"[]", "Input should be"),
        ("history.jsonl", b"{\n[]\n", "2 lines are cut off"),
        (f"{NAME}/manifest.json", b"{}", "os: Field required"),
        (f"{NAME}/manifest.json", None, "is not there"),
        (f"{NAME}/packages.json", b'[{"name": "a", "version": "1", "size": -1}]', "0.size"),
        (f"{NAME}/packages.json", b"[" * 100_000, "Invalid JSON"),
        (f"{NAME}/packages.json", None, "is not there"),
        (f"{NAME}/verify/uefi.xml", b"<testsuites><testsuite", "unclosed token"),
        (f"{NAME}/verify/uefi.xml", b"<html/>", "there is no testsuite in it"),
        (f"{NAME}/verify/uefi.xml", b'<a><testsuite time="long"/></a>', "could not convert string to float"),
        (f"{NAME}/verify/uefi.boot.json", b"null", "Input should be"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_shown(
    tmp_path: Path, file: str, content: bytes | None, reason: str
) -> None:
    reports.verify(reports.image(tmp_path, NAME), "uefi")
    reports.matrix(tmp_path, [reports.result(NAME, Status.BUILT)])
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    (problem,) = read(tmp_path).problems
    assert (problem.file, reason in problem.what) == (f"build/{file}", True), problem
    assert f"build/{file} is left out" in text(rendered(tmp_path))
    assert NAME in text(rendered(tmp_path))


@pytest.mark.parametrize("file", ["matrix.json", "history.jsonl", f"{NAME}/manifest.json", f"{NAME}/verify/uefi.xml"])
def test_a_directory_in_place_of_a_file_is_named(tmp_path: Path, file: str) -> None:
    reports.image(tmp_path, NAME)
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).mkdir(parents=True)
    assert [(one.file, one.what) for one in read(tmp_path).problems] == [(f"build/{file}", "Is a directory")]


def test_many_broken_files_do_not_fill_the_page(tmp_path: Path) -> None:
    for name in reports.names(12):
        (reports.image(tmp_path, name) / "packages.json").write_text("{")
    assert "4 more broken files" in text(rendered(tmp_path))


@pytest.mark.parametrize("log", ["../secret", "/etc/hostname", "logs/../../secret"])
def test_a_log_is_only_looked_for_among_the_logs(tmp_path: Path, log: str) -> None:
    build_dir = tmp_path / "build"
    build_dir.mkdir()
    (tmp_path / "secret").write_text("a secret")
    reports.matrix(build_dir, [reports.result(NAME, Status.FAILED, error="no", log=log)])
    assert found(build_dir).log == ()
    assert "a secret" not in rendered(build_dir)


@pytest.mark.parametrize("name", ["../debian", "a/b", "", "."])
def test_a_matrix_with_a_strange_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    known = reports.result(NAME, Status.BUILT).model_copy(update={"name": name})
    reports.matrix(tmp_path, [known])
    assert "is no name of an image" in read(tmp_path).problems[0].what


# --- sizes


def manifest(size: int = 500, **directories: int) -> Manifest:
    return Manifest.model_validate(
        {
            "os": "debian", "title": "Debian", "release": "12", "arch": "amd64", "key": "k", "created": MADE,
            "image": {"file": "a.qcow2", "size": 100, "virtual_size": 1000, "sha256": "s"}, "kernels": ["6.1"],
            "tree": {"size": size, "directories": directories}, "largest_packages": {"kernel": 200},
        }
    )  # fmt: skip


def parts(map_: sizes.Treemap) -> dict[str, int]:
    return {each.part.name: each.part.size for each in map_.rectangles}


def check_areas(map_: sizes.Treemap) -> None:
    """Each rectangle has the area of its size, inside, and no two overlap."""
    places = [(each.x, each.y, each.x + each.width, each.y + each.height) for each in map_.rectangles]
    for each, (left, top, right, bottom) in zip(map_.rectangles, places, strict=True):
        assert each.width * each.height / 10_000 == pytest.approx(each.part.size / map_.total, rel=0.02, abs=1e-4)
        assert -0.01 <= left < right <= 100.01
        assert -0.01 <= top < bottom <= 100.01
    for index, one in enumerate(places):
        for other in places[:index]:
            assert (
                min(one[2], other[2]) - max(one[0], other[0]) < 0.01
                or min(one[3], other[3]) - max(one[1], other[1]) < 0.01
            )


def test_a_treemap_has_all_bytes_and_areas_of_their_size() -> None:
    known = manifest(1000, boot=100, **{"usr/lib": 700, "empty": 0})
    map_ = sizes.of_directories(known)
    assert parts(map_) == {"usr/lib": 700, "all others": 200, "boot": 100}
    assert map_.total == 1000
    check_areas(map_)


def test_of_packages_the_largest_are_named() -> None:
    listed = tuple(Package(name=f"p{number}", version="1", size=number) for number in range(1, 11))
    map_ = sizes.of_packages(manifest(100), (*listed, Package(name="p10", version="2", size=5)), 2)
    assert parts(map_) == {"p10": 15, "p9": 9, "8 others": 36, "not from a package": 40}
    check_areas(map_)


def test_without_a_list_the_manifest_names_the_largest_packages() -> None:
    assert parts(sizes.of_packages(manifest(500), None)) == {"kernel": 200, "all others": 300}


def test_packages_that_share_files_may_be_more_than_the_tree() -> None:
    assert parts(sizes.of_packages(manifest(10), (Package(name="a", version="1", size=30),))) == {"a": 30}


@pytest.mark.parametrize("shape", [sizes.WIDE, sizes.NARROW])
@pytest.mark.parametrize("count", [1, 2, 8, 60])
def test_images_are_together_by_system(tmp_path: Path, count: int, shape: tuple[float, float]) -> None:
    for name in reports.names(count):
        reports.image(tmp_path, name)
    images = read(tmp_path).images
    map_ = sizes.of_images(images, {one.name: one.name for one in images}, shape)
    assert len(map_.rectangles) == count
    check_areas(map_)
    systems = [each.part.name.partition("-")[0] for each in map_.rectangles]
    assert len([one for one, before in zip(systems, ["", *systems], strict=False) if one != before]) == len(
        set(systems)
    )


def test_nothing_has_an_empty_treemap() -> None:
    assert sizes.of_images((), {}, sizes.WIDE).rectangles == ()
    assert sizes.of_directories(manifest(0)).rectangles == ()


# --- times


def test_bars_are_on_one_scale(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8)
    shown = times.times(read(tmp_path).images)
    longest = max(shown.bars, key=lambda bar: bar.seconds)
    for bar in shown.bars:
        expected = 100 * bar.seconds / longest.seconds
        assert sum(segment.width for segment in bar.segments) == pytest.approx(expected, abs=0.1)
    assert [title for title, _ in shown.legend][:3] == ["base", "overlay", "boot"]
    assert "install packages" in shown.bars[0].segments[0].detail


def test_the_last_step_of_a_failed_build_is_marked(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8)
    shown = times.times(read(tmp_path).images)
    assert [(bar.name, [one.title for one in bar.segments if one.failed]) for bar in shown.bars if bar.failed] == [
        ("centos-9-amd64", ["base"]),
        ("kylin-V10-SP3-2403-arm64", ["base"]),
    ]


def test_what_was_up_to_date_has_the_times_of_its_last_build(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8, builds=8)
    shown = times.times(read(tmp_path).images)
    bar = next(bar for bar in shown.bars if bar.built)
    assert (bar.name, bar.built) == (NAME, reports.BEGAN + datetime.timedelta(days=7))
    assert [segment.title for segment in bar.segments if segment.cached] == ["base"], "the eighth found its base"


def test_without_times_there_are_no_bars(tmp_path: Path) -> None:
    reports.image(tmp_path, NAME)
    shown = times.times(read(tmp_path).images)
    assert (shown.bars, shown.unknown) == ((), (NAME,))
    assert f"Of 1 image no times are known: {NAME}." in text(rendered(tmp_path))


# --- packages


def having(name: str, **versions: str) -> Found:
    listed = tuple(Package(name=title, version=version, size=1) for title, version in versions.items())
    return Found(name, Path(name), packages=listed)


def test_versions_are_put_side_by_side() -> None:
    shown = packages.compare([having("a", bash="1", tar="1"), having("b", bash="2"), having("c", bash="2", tar="1")])
    assert shown.images == ("a", "b", "c")
    assert shown.rows == (
        ("bash", ("2", "1"), (1, 0, 0)),
        ("tar", ("1",), (0, packages.ABSENT, 0)),
    ), "the usual version is the first"
    assert shown.differing == 2


def test_what_is_the_same_everywhere_does_not_differ() -> None:
    assert packages.compare([having("a", bash="1"), having("b", bash="1")]).differing == 0


def test_several_of_one_name_are_one_row() -> None:
    kernels = (Package(name="kernel", version="6.2", size=1), Package(name="kernel", version="6.1", size=1))
    shown = packages.compare([Found("a", Path("a"), packages=kernels), having("b", kernel="6.1")])
    assert shown.rows == (("kernel", ("6.1", "6.1, 6.2"), (1, 0)),)


def test_images_whose_packages_are_not_known_are_named(tmp_path: Path) -> None:
    reports.image(tmp_path, NAME)
    (tmp_path / NAME / "packages.json").unlink()
    shown = packages.compare(read(tmp_path).images)
    assert (shown.images, shown.unknown) == ((), (NAME,))
    assert f"The packages of {NAME} are not known" in text(rendered(tmp_path))


# --- history


def test_lines_go_from_left_to_right_and_larger_is_higher(tmp_path: Path) -> None:
    for build in range(5):
        history.note(tmp_path, reports.record(NAME, build).model_copy(update={"size": 100 + build}))
    (shown,) = past.past(read(tmp_path).images)
    dots = shown.size.dots
    assert [dot.x for dot in dots] == sorted({dot.x for dot in dots})
    assert [dot.y for dot in dots] == sorted((dot.y for dot in dots), reverse=True)
    assert all(0 < dot.x < 100 and 0 < dot.y < 100 for dot in dots)
    assert (shown.size.lowest, shown.size.highest, shown.size.last) == (100, 104, 104)
    assert [dot.cached for dot in dots] == [False, True, False, False, True]
    assert not shown.is_there
    assert "no image now" in text(rendered(tmp_path)), "of an image that is gone the history stays"


def test_of_many_builds_the_newest_are_shown(tmp_path: Path) -> None:
    for build in range(past.SHOWN + 3):
        history.note(tmp_path, reports.record(NAME, build))
    (shown,) = past.past(read(tmp_path).images)
    assert (shown.builds, len(shown.records), shown.records[0].packages) == (past.SHOWN + 3, past.SHOWN, 153)


@pytest.mark.parametrize("builds", [1, 2])
def test_a_line_may_be_flat(tmp_path: Path, builds: int) -> None:
    for _ in range(builds):
        history.note(tmp_path, reports.record(NAME, 0))
    (shown,) = past.past(read(tmp_path).images)
    assert {dot.y for dot in shown.seconds.dots} == {50.0}


# --- the page


def test_the_page_says_what_happened(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8)
    said = text(rendered(tmp_path))
    assert "8 images in 6 min 00 s: 5 built, 1 up to date, 2 failed." in said
    assert "kylin-V10-SP3-2403-arm64 failed after 33.1 s, exit code 6" in said
    assert "connection timed out after 3 tries Next: is the mirror up? ./invoke doctor says more" in said
    assert "The last 40 lines of its log" in said
    assert "5 of 7, 1 with failures" in said
    assert "test_image::test_root_grows" in said
    assert "Not verified: centos-9-arm64." in said


def test_an_image_that_was_removed_since_is_not_there(tmp_path: Path) -> None:
    reports.matrix(tmp_path, [reports.result(NAME, Status.BUILT, size=1)])
    assert "no image now" in text(rendered(tmp_path))


def test_images_of_build_servers_are_found_where_they_were_collected(tmp_path: Path) -> None:
    shared, build_dir = tmp_path / "shared", tmp_path / "build"
    build_dir.mkdir()
    reports.image(shared, NAME)
    pushed = "registry.example:5000/node-images:debian-12-arm64@sha256:0123"
    known = {"size": 123_400_000, "packages": 150, "server": "arm-1", "artifact": pushed}
    cells = [
        reports.result(NAME, Status.BUILT, size=1, server="amd-1", artifact=str(shared / NAME)),
        reports.result("debian-12-arm64", Status.BUILT, **known),
    ]
    reports.matrix(build_dir, cells)
    assert found(build_dir).manifest is not None
    said = text(rendered(build_dir))
    assert f"{NAME} built on amd-1 {reports.size_of(NAME, 9) / 1e6:.1f} MB" in said
    assert f"debian-12-arm64 built on arm-1 123.4 MB \N{EN DASH} 150 \N{EN DASH} {pushed}" in said
    assert "no image now" not in said
    (shared / NAME / "manifest.json").write_text("{")
    (problem,) = read(build_dir).problems
    assert problem.file == str(shared / NAME / "manifest.json")


def test_names_and_messages_are_escaped(tmp_path: Path) -> None:
    directory = reports.image(tmp_path, NAME, more_packages=[(reports.EVIL, reports.EVIL)])
    reports.verify(directory, "uefi", [(reports.EVIL, reports.EVIL)])
    known = json.loads((directory / "manifest.json").read_text())
    known["kernels"] = [reports.EVIL]
    known["tree"]["directories"][reports.EVIL] = 10**9
    reports.write(directory / "manifest.json", known)
    reports.matrix(tmp_path, [reports.failure(tmp_path, "a-1-amd64", reports.EVIL, reports.EVIL)])
    html = rendered(tmp_path)
    assert reports.EVIL not in html
    assert "<img" not in html
    assert html.count("<script") == 2, "the page's own, and the data of its table"
    assert html.count("&lt;script&gt;") >= 6


def test_equal_input_gives_an_equal_page(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8)
    assert rendered(tmp_path) == rendered(tmp_path)
    other = page.render(read(tmp_path), tmp_path / page.FILE, MADE + datetime.timedelta(days=1))
    ones, others = rendered(tmp_path).splitlines(), other.splitlines()
    differing = [one for one, another in zip(ones, others, strict=True) if one != another]
    assert len(differing) == 1, "only the time of making differs"


def test_links_lead_to_files_from_wherever_the_page_is(tmp_path: Path) -> None:
    build_dir = tmp_path / "a build #1"
    build_dir.mkdir()
    reports.everything(build_dir, 8)
    for target in (None, tmp_path / "elsewhere" / "page.html"):
        if target is not None:
            target.parent.mkdir()
        place = matrix.write_page(build_dir, target).path
        links = re.findall(r'href="([^"#][^"]*)"', place.read_text())
        files = [link for link in links if not link.startswith("data:")]
        assert len(files) == 2 + 2 * 7 + 10, "logs, papers, pytest's reports"
        for link in files:
            path = place.parent / link.replace("%20", " ").replace("%23", "#")
            assert path.is_file(), link


def test_the_page_is_small_also_of_many_images(tmp_path: Path) -> None:
    reports.everything(tmp_path, 200, builds=20)
    written = matrix.write_page(tmp_path)
    assert written.images == 200
    assert written.size < 4_000_000


def test_the_page_names_nothing_outside_of_itself(tmp_path: Path) -> None:
    reports.everything(tmp_path, 8)
    html = rendered(tmp_path).replace("https://mirror.example", "").replace("https://evil.example", "")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert re.findall(r"url\(", html) == []


def test_where_the_page_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / page.FILE).mkdir()
    with pytest.raises(StorageError, match=r"report\.html: is there, and is not a file"):
        matrix.write_page(tmp_path)
    with pytest.raises(StorageError, match=r"nowhere/page\.html: cannot be written"):
        matrix.write_page(tmp_path, tmp_path / "nowhere/page.html")
    assert sorted(os.listdir(tmp_path)) == [page.FILE], "nothing half written is left"


@pytest.mark.parametrize(("target", "status", "said"), [("page.html", 0, " images"), ("nowhere/page.html", 5, "hint:")])
def test_the_command_says_where_the_page_is(tmp_path: Path, target: str, status: int, said: str) -> None:
    words = [sys.executable, "-m", "invoke", "report", "--output", str(tmp_path / target)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert f"{tmp_path / target}" in done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert (tmp_path / "page.html").exists() == (status == 0)
