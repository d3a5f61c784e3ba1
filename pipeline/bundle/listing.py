"""What is in a bundle, for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.bundle.model import LEAN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.bundle.model import Bundle, Image

MB = 1e6
TITLES = ("image", "tags", "platforms", "attached", "digest")


def text(bundle: Bundle) -> str:
    """Return a bundle's images, base and volumes as text."""
    return "\n".join(_lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    yield f"{bundle.name}: {bundle.kind} bundle, {bundle.store}, made {bundle.created}"
    yield bundle.id
    yield ""
    yield from table([TITLES, *map(_row, bundle.images)])
    yield ""
    lean = sum(1 for blob in bundle.blobs if blob.stored == LEAN)
    stored = f", {lean} of them lean" if bundle.store == LEAN else ""
    size = sum(volume.size for volume in bundle.volumes) / MB
    yield f"{len(bundle.blobs)} blobs of {bundle.total / MB:.1f} MB{stored}, in volumes of {size:.1f} MB together:"
    for volume in bundle.volumes:
        yield f"  {volume.name}  {volume.size / MB:10.1f} MB  sha256 {volume.sha256}"
    if bundle.base.bundles:
        names = ", ".join(one.name for one in bundle.base.bundles)
        count, needed = len(bundle.base.digests), sum(one.size for one in bundle.base.digests) / MB
        yield f"needs {count} blobs of {needed:.1f} MB at the site, which these brought: {names}"


def _row(image: Image) -> tuple[str, ...]:
    platforms = ", ".join(str(platform) for platform in image.platforms)
    if image.left_out:
        platforms += f" ({len(image.left_out)} left out)"
    attached = str(len(image.attachments)) if image.attachments else ""
    return image.repository, ", ".join(image.tags), platforms, attached, image.root.digest


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with columns of equal width; the first row is the title."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]  # noqa: B905
