"""Makes the page: what was found becomes views, and templates make HTML of these."""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import files
from pipeline.matrix.model import Status
from pipeline.matrix.report import packages, past, sizes, times
from pipeline.matrix.report.found import Everything, Found, Manifest
from pipeline.matrix.report.read import link, read

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "page.html.j2"
FILE = "report.html"
MB = 1_000_000
GIB = 1024**3
PAPERS = ("manifest.json", "packages.json", "sbom.cdx.json", "plan.json")
NO_IMAGE, UNREADABLE = "no image now", "not readable"


@dataclass(frozen=True)
class Written:
    """The page that was made.

    Attributes:
        path: where it is.
        size: its bytes.
        images: how many images it shows.
        problems: how many files were broken.
    """

    path: Path
    size: int
    images: int
    problems: int

    def __str__(self) -> str:
        broken = f", {self.problems} broken files named in it" if self.problems else ""
        return f"{self.path} ({self.size / 1000:.0f} kB): {self.images} images{broken}"


@dataclass(frozen=True)
class Row:
    """One line of the overview, and what other parts of the page have on this image.

    Attributes:
        found: all that is known of it.
        status: how it went in the last matrix, unless its image has gone since, or cannot be read; empty if it was not
            part of it.
        anchor: of what is said about its size.
        change: bytes more than its build before, less if negative; None if there is none.
        share: of the largest image's size, in percent.
    """

    found: Found
    status: str
    anchor: str
    change: int | None
    share: float

    @property
    def words(self) -> str:
        """What the page's filter looks for."""
        return f"{self.found.name} {self.status}".lower()

    @property
    def manifest(self) -> Manifest | None:
        """The image's, if there is one."""
        return self.found.manifest

    @property
    def elsewhere(self) -> str:
        """In which registry it is, if it is not here."""
        return _elsewhere(self.found)

    @property
    def failures(self) -> int:
        """How many tests did not pass."""
        return sum(len(run.failures) for run in self.found.verifications)


def write(build_dir: Path, target: Path | None = None) -> Written:
    """Make one self-contained HTML page about all images.

    Args:
        build_dir: directory of all images.
        target: where it goes; None for ``report.html`` among the images.

    Raises:
        StorageError: it cannot be written there.
    """
    everything = read(build_dir)
    place = target or build_dir / FILE
    text = render(everything, place, datetime.datetime.now(datetime.UTC)).encode(errors="replace")
    files.write(place, text)
    return Written(place, len(text), len(everything.images), len(everything.problems))


def render(everything: Everything, target: Path, made: datetime.datetime) -> str:
    """Return the page; the same input gives the same page.

    Args:
        everything: what was found.
        target: where it will be, as links lead from there.
        made: the time that is put on it.
    """
    script = (TEMPLATES / "page.js").read_text()
    return (
        _environment()
        .get_template(PAGE)
        .render(
            _views(everything),
            everything=everything,
            matrix=everything.matrix,
            is_cached=past.is_cached,
            link=lambda path: link(path, target),
            papers=PAPERS,
            made=made,
            style=(TEMPLATES / "page.css").read_text(),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _views(everything: Everything) -> dict[str, object]:
    """Return what each part of the page shows."""
    shown = [found for found in everything.images if found.result or found.manifest or found.directory.is_dir()]
    rows = _rows(shown)
    checked = [row for row in rows if row.found.verifications]
    anchors = {row.found.name: row.anchor for row in rows}
    details = sizes.PACKAGES if len(shown) <= sizes.MANY else sizes.PACKAGES_OF_MANY
    return {
        "rows": rows,
        "there": [row for row in rows if row.manifest],
        "failed": [row.found for row in rows if row.status == Status.FAILED],
        "checked": checked,
        "verified": [row for row in checked if row.manifest and not row.failures],
        "spoilt": [row for row in checked if row.failures],
        "treemap": sizes.of_images(shown, anchors, sizes.WIDE),
        "treemap_narrow": sizes.of_images(shown, anchors, sizes.NARROW),
        "inside": [
            (row, sizes.of_directories(row.manifest), sizes.of_packages(row.manifest, row.found.packages, details))
            for row in rows
            if row.manifest
        ],
        "times": times.times(shown),
        "comparison": packages.compare(shown),
        "past": past.past(everything.images),
    }


def _rows(images: list[Found]) -> list[Row]:
    largest = max((found.manifest.image.size for found in images if found.manifest), default=0) or 1
    rows = []
    for index, found in enumerate(images):
        status = found.result.status.value if found.result else ""
        if found.manifest is None and status != Status.FAILED and not _elsewhere(found):
            status = UNREADABLE if found.directory.is_dir() else NO_IMAGE
        size = found.manifest.image.size if found.manifest else 0
        last = [record.size for record in found.records[-2:]]
        change = last[1] - last[0] if len(last) == 2 and last[1] == size else None
        rows.append(Row(found, status, f"image-{index + 1}", change, round(100 * size / largest, 2)))
    return rows


def _elsewhere(found: Found) -> str:
    """Return where an image is that a build server has pushed to a registry; empty if it is here, or nowhere."""
    result = found.result
    is_away = result is not None and found.manifest is None and result.size is not None
    return result.artifact if result is not None and is_away and not result.artifact.startswith("/") else ""


@functools.cache
def _environment() -> Environment:
    """Return jinja2, with everything escaped: names, messages and logs come from packages and tools."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "mb": _mb,
        "change": lambda size: "unchanged" if size == 0 else f"{size / MB:+.1f} MB",
        "duration": _duration,
        "when": _when,
        "clock": lambda time: _utc(time).strftime("%H:%M UTC"),
        "gib": lambda size: f"{size / GIB:g} GiB",
        "day": lambda time: _utc(time).strftime("%-d %b %Y"),
    }
    environment.filters.update(filters)
    return environment


def _mb(size: float) -> str:
    return f"{size / MB:.1f} MB" if size < 10_000 * MB else f"{size / MB / 1000:.1f} GB"


def _duration(seconds: float) -> str:
    """Return seconds as people say them: ``9.5 s``, ``3 min 07 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"


def _utc(time: datetime.datetime) -> datetime.datetime:
    return time.astimezone(datetime.UTC)


def _when(time: datetime.datetime) -> str:
    return _utc(time).strftime("%-d %b %Y, %H:%M UTC")
