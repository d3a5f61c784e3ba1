"""A comparison as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from pipeline.core import files
from pipeline.image.compare.model import Difference, How
from pipeline.image.compare.report import grouped, packages_tally, safe, tally, verdict

TEMPLATE = Path(__file__).with_name("page.html.j2")
CLASSES = {How.ADDED: "added", How.REMOVED: "removed", How.CHANGED: "changed"}


def html(found: Difference) -> str:
    """Return a comparison as a page; everything from the images is escaped, as they may be a stranger's."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"safe_text": safe, "tally": tally, "packages_tally": packages_tally, "grouped": grouped}
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(found=found, verdict=verdict(found), classes=CLASSES)


def write_html(found: Difference, target: Path) -> None:
    """Write the page to a file.

    Raises:
        StorageError: it cannot be written.
    """
    files.write(target, html(found).encode())
