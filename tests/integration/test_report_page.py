"""The report in a real browser: nothing is loaded or complained about, everything has its place, and it can be used."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import matrix
from tests.integration.browser import PLACE, Page, browser, tree
from tests.unit import reports

pytestmark = [pytest.mark.slow, pytest.mark.network]

PAGES = ("several", "many", "one", "broken", "empty")
WIDTHS = (400, 1280)
COUNTS = {"several": 8, "many": 200}

# Places of elements in a page, as far as they are seen: [left, top, right, bottom].
BOXES = """(selector) => [...document.querySelectorAll(selector)].filter((each) => each.checkVisibility())
  .map((each) => each.getBoundingClientRect()).map((box) => [box.left, box.top, box.right, box.bottom])"""

# What text is hard to read: too small, too pale for what is behind it (WCAG 2.2, 1.4.3), or cut off by the window.
UNREADABLE = """(() => {
  const channels = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const known = new Map();
  const cached = (colour) => known.get(colour) || known.set(colour, channels(colour)).get(colour);
  const light = (colour) => cached(colour).slice(0, 3)
    .map((value) => value / 255).map((value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [.2126, .7152, .0722][index], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (cached(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.data.trim();
    if (!words || ["SCRIPT", "NOSCRIPT", "STYLE"].includes(element.tagName)) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    const [one, other] = [light(style.color), light(behind(element))];
    const contrast = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (parseFloat(style.fontSize) < 12) found.push(`small: ${words}`);
    if (contrast < 4.5) found.push(`pale, ${contrast.toFixed(1)}: ${words}`);
    const inside = element.closest(".scroll, .packages, .quote, .treemap, thead, .skip");
    if (!inside && (box.right > innerWidth + .5 || box.left < -.5)) found.push(`cut off: ${words}`);
  }
  return [...new Set(found)].slice(0, 20);
})()"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with pages: of several images, of many, of one, of broken files, of nothing."""
    place = tmp_path_factory.mktemp("pages")
    for name in PAGES:
        build_dir = place / name
        build_dir.mkdir()
        if name in COUNTS:
            reports.everything(build_dir, COUNTS[name])
        elif name == "one":
            reports.image(build_dir, "debian-12-amd64")
        elif name == "broken":
            names = reports.everything(build_dir, 12)
            for image, file in zip(names, ["manifest.json", "packages.json", "verify/uefi.xml"] * 4, strict=True):
                if (build_dir / image).is_dir():
                    (build_dir / image / "verify").mkdir(exist_ok=True)
                    (build_dir / image / file).write_text(f"{{ {reports.EVIL}")
        matrix.write_page(build_dir)
    return place


@pytest.fixture(scope="module")
def shown(folder: Path) -> Iterator[Page]:
    try:
        tree()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"there is no browser, and none can be fetched: {error}")
    if shutil.which("bwrap") is None:
        pytest.skip("there is no bubblewrap to run the browser in")
    with browser(folder) as page:
        yield page


def boxes(page: Page, selector: str) -> list[list[float]]:
    found: list[list[float]] = page.value(f"({BOXES})({json.dumps(selector)})")
    return found


def overlapping(places: list[list[float]]) -> list[tuple[list[float], list[float]]]:
    """Return the pairs of boxes that cover each other by more than half a pixel each way."""
    return [
        (one, other)
        for index, one in enumerate(places)
        for other in places[:index]
        if min(one[2], other[2]) - max(one[0], other[0]) > 0.5 and min(one[3], other[3]) - max(one[1], other[1]) > 0.5
    ]


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("several", 400, True), ("several", 1280, False)]
    + [(name, width, width == 1280) for name in PAGES for width in WIDTHS],
)
def test_a_page_is_whole_and_readable(shown: Page, name: str, width: int, dark: bool, tmp_path: Path) -> None:
    address = f"{name}/report.html"
    shown.open(address, width=width, dark=dark)
    assert shown.complaints == []
    assert shown.requests == [f"file://{PLACE}/{address}"], "it loads nothing"
    assert shown.value("document.title") == "Node images", "nobody else's script was run"
    assert shown.value("document.images.length") == 0
    assert shown.value("document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert shown.value(UNREADABLE) == []
    places = boxes(shown, "header, .bar, main > section, main > footer")
    assert len(places) >= 9
    assert overlapping(places) == []
    assert all(0 <= left < right <= width and bottom - top > 30 for left, top, right, bottom in places)
    picture = shown.picture(tmp_path / "page.png")
    assert struct.unpack(">II", picture[16:24])[0] == width
    brightness = shown.value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(brightness) < 60) if dark else (min(brightness) > 200)


def test_text_that_is_hard_to_read_is_seen(shown: Page) -> None:
    shown.open("one/report.html", width=400)
    styles = {"small": "font-size:11px", "pale": "color:#999", "cut off": "margin-left:300px;width:200px"}
    for style in styles.values():
        shown.value(
            f"document.querySelector('footer').insertAdjacentHTML('beforeend', '<p style=\"{style}\">words</p>')"
        )
    assert [found.partition(":")[0].partition(",")[0] for found in shown.value(UNREADABLE)] == list(styles)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["several", "many", "one"])
def test_rectangles_fill_their_treemap_and_do_not_overlap(shown: Page, name: str, width: int) -> None:
    shown.open(f"{name}/report.html", width=width)
    maps = boxes(shown, ".treemap")
    assert len(maps) == (2 if name == "one" else 3), "those of one image, and one of all"
    for index, (left, top, right, bottom) in enumerate(maps):
        shown.value(f"[...document.querySelectorAll('.treemap')].filter((m) => m.checkVisibility())[{index}].id = 'at'")
        tiles = boxes(shown, "#at > li")
        shown.value("document.getElementById('at').removeAttribute('id')")
        assert len(tiles) > 4
        for tile in tiles:
            assert left - 0.5 <= tile[0] < tile[2] <= right + 0.5
            assert top - 0.5 <= tile[1] < tile[3] <= bottom + 0.5
        assert overlapping(tiles) == []
        covered = sum((tile[2] - tile[0]) * (tile[3] - tile[1]) for tile in tiles)
        assert covered == pytest.approx((right - left) * (bottom - top), rel=0.02)


def test_bars_and_lines_are_drawn(shown: Page) -> None:
    shown.open("several/report.html")
    tracks, segments = boxes(shown, ".track"), boxes(shown, ".track span")
    assert len(tracks) == 8
    assert len(segments) > 40
    assert overlapping(segments) == []
    assert max(right for _, _, right, _ in segments) == pytest.approx(tracks[0][2], abs=1)
    charts = boxes(shown, ".chart svg")
    assert len(charts) == 16
    assert all(right - left > 200 and bottom - top > 50 for left, top, right, bottom in charts)
    assert shown.value("document.querySelectorAll('.chart line.hollow').length") == 8 * 3, "found their base"


def test_the_filter_chooses_images_everywhere(shown: Page) -> None:
    shown.open("several/report.html")
    shown.type("#filter", "centos arm64")
    assert shown.value("document.getElementById('filtered').textContent") == "1 of 8 images"
    seen = (
        "[...document.querySelectorAll('%s')].filter((each) => each.checkVisibility()).map((each) => each.textContent)"
    )
    assert shown.value(seen % "#images tbody th") == ["centos-9-arm64"]
    assert shown.value(seen % ".stack .name") == ["centos-9-arm64"]
    assert shown.value(seen % "#sizes .treemap.all b") == ["centos-9-arm64"]
    assert shown.value(seen % ".past h3") == ["centos-9-arm64"]
    assert shown.value(seen % "#package-table thead th") == ["Package", "centos-9-arm64"]
    shown.type("#filter", "FAILED")
    assert shown.value(seen % "#images tbody th") == ["centos-9-amd64", "kylin-V10-SP3-2403-arm64"]
    assert len(shown.value(seen % ".failure h3")) == 2
    shown.type("#filter", "up to date")
    assert shown.value(seen % ".past h3") == ["debian-12-amd64"]
    shown.type("#filter", "nothing has this name")
    assert shown.value("document.getElementById('filtered').textContent") == "0 of 8 images"
    shown.type("#filter", " ")
    assert len(shown.value(seen % "#images tbody th")) == 8
    assert shown.complaints == []


def test_the_table_of_packages_shows_what_differs_and_can_be_searched(shown: Page) -> None:
    shown.open("several/report.html")
    names = "[...document.querySelectorAll('#package-table tbody th')].map((each) => each.textContent)"
    differing = shown.value(names)
    assert "only-here" in differing
    row = "[...document.querySelectorAll('#package-table tbody tr')].find((each) => each.cells[0].textContent === '%s')"
    assert shown.value(f"[...({row % 'only-here'}).cells].map((each) => each.textContent)") == [
        "only-here",
        "1.0",
        *["\N{EN DASH}"] * 6,
    ]
    shown.value("document.getElementById('package-all').focus()")
    shown.key(" ")
    assert set(shown.value(names)) > set(differing)
    shown.type("#package-filter", "only-")
    assert shown.value(names) == ["only-here"]
    assert shown.value("document.getElementById('package-count').textContent") == "1 package"
    heads = boxes(shown, "#package-table thead th")
    assert overlapping(heads) == []


def test_a_column_is_sorted_by_its_values(shown: Page) -> None:
    shown.open("several/report.html")
    sizes = "[...document.querySelectorAll('#images tbody tr')].map((row) => row.cells[2].dataset.value)"
    button = "document.querySelectorAll('#images thead button')[2]"
    shown.value(f"{button}.focus()")
    shown.key("Enter")
    ascending = [int(size) for size in shown.value(sizes) if size]
    assert ascending == sorted(ascending)
    assert shown.value(f"{button}.parentNode.getAttribute('aria-sort')") == "ascending"
    shown.key("Enter")
    assert [int(size) for size in shown.value(sizes) if size] == sorted(ascending, reverse=True)


def test_a_treemap_leads_to_the_image(shown: Page) -> None:
    shown.open("several/report.html")
    link = "document.querySelectorAll('#sizes .treemap.all a')[2]"
    name = shown.value(f"{link}.querySelector('b').textContent")
    shown.value(f"{link}.focus()")
    shown.key("Enter")
    opened = "[...document.querySelectorAll('details.image[open] > summary > b')].map((each) => each.textContent)"
    shown.wait(f"{opened}.includes({json.dumps(name)})")


def test_a_keyboard_reaches_everything_that_scrolls(shown: Page) -> None:
    shown.open("several/report.html")
    shown.key("Tab")
    assert shown.value("document.activeElement.textContent") == "To the content"
    unnamed = """[...document.querySelectorAll('main *')].filter((each) => each.checkVisibility())
      .filter((each) => ['auto', 'scroll'].includes(getComputedStyle(each).overflowX))
      .filter((each) => each.tabIndex !== 0 || !(each.ariaLabel || each.getAttribute('aria-labelledby')))
      .map((each) => each.outerHTML.slice(0, 99))"""
    assert shown.value(unnamed) == []


def test_without_scripts_nothing_is_hidden_but_what_needs_them(shown: Page) -> None:
    shown.open("several/report.html", script=False)
    nodes = shown.call("DOM.getDocument", depth=1)["root"]["nodeId"]

    def seen(selector: str) -> int:
        found = shown.call("DOM.querySelectorAll", nodeId=nodes, selector=selector)["nodeIds"]
        drawn = 0
        for node in found:
            try:
                drawn += shown.call("DOM.getBoxModel", nodeId=node)["model"]["height"] > 0
            except RuntimeError:  # it has no box
                continue
        return drawn

    assert seen("#images tbody tr") == 8
    assert seen(".track") == 8
    assert seen("noscript p") == 1
    assert seen(".needs-script") == 0


def test_on_paper_nothing_is_cut_off(shown: Page) -> None:
    shown.open("several/report.html", width=720)  # what a sheet has between its margins
    shown.call("Emulation.setEmulatedMedia", media="print")
    quotes = "[...document.querySelectorAll('.quote, .packages')]"
    assert shown.value(f"{quotes}.filter((each) => each.scrollHeight > each.clientHeight + 1).length") == 0
    tables = boxes(shown, "table")
    assert len(tables) == 3
    assert max(right for _, _, right, _ in tables) <= 720
    printed = shown.call("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert len(printed) > 50_000
