"""Where the bytes are: treemaps of the images, and of what is in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.matrix.report.found import Found, Manifest, Package

MB = 1_000_000
HUES = (211, 28, 140, 275, 175, 340, 50, 245, 95, 0)  # degrees of the colour wheel
PACKAGES = 24  # the largest, one by one
PACKAGES_OF_MANY = 12  # the same where there are many images: the page is to stay small
MANY = 20  # images
HALF = (160.0, 100.0)  # width and height of half a screen, which rectangles are laid out for
WIDE, NARROW = (500.0, 100.0), (110.0, 100.0)  # of a whole one, and of a phone's


@dataclass(frozen=True)
class Part:
    """One rectangle of a treemap.

    Attributes:
        name: what it stands for.
        size: bytes.
        hue: of its colour, in degrees; None for grey.
        title: a sentence for whoever points at it.
        link: where it leads; empty for nowhere.
    """

    name: str
    size: int
    hue: int | None
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class Rectangle:
    """Where a part is, in percent of the treemap's width and height."""

    part: Part
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Treemap:
    """A treemap.

    Attributes:
        title: what it shows.
        total: bytes of all parts.
        rectangles: the largest first.
        legend: what each hue stands for, where the names do not say.
    """

    title: str
    total: int
    rectangles: tuple[Rectangle, ...]
    legend: tuple[tuple[str, int], ...] = ()


def treemap(title: str, parts: Iterable[Part]) -> Treemap:
    """Lay parts out in a rectangle, each with an area of its size; those of no size are left out.

    Args:
        title: what it shows.
        parts: in any order.
    """
    there = [part for part in parts if part.size > 0]
    return Treemap(title, sum(part.size for part in there), _laid_out(there, (0.0, 0.0, *HALF), HALF))


def of_images(images: Sequence[Found], anchors: Mapping[str, str], shape: tuple[float, float]) -> Treemap:
    """Return the images by size; those of one operating system are together, and have one colour.

    Args:
        images: all of them; those without an image are left out.
        anchors: where on the page more is said about each, by name.
        shape: width and height that are laid out for.
    """
    there = [(found, found.manifest) for found in images if found.manifest is not None]
    hues = {name: HUES[index % len(HUES)] for index, name in enumerate(sorted({each.os for _, each in there}))}
    groups: dict[str, list[Part]] = {name: [] for name in hues}
    for found, manifest in there:
        part = Part(found.name, manifest.image.size, hues[manifest.os], link=anchors[found.name])
        groups[manifest.os] += [part] * (part.size > 0)
    whole = [Part(name, sum(part.size for part in parts), hues[name]) for name, parts in groups.items() if parts]
    rectangles: list[Rectangle] = []
    for outer in _laid_out(whole, (0.0, 0.0, *shape), shape):
        place = (outer.x, outer.y, outer.width, outer.height)
        x, y, width, height = (share * shape[index % 2] / 100 for index, share in enumerate(place))
        rectangles += _laid_out(groups[outer.part.name], (x, y, width, height), shape)
    total = sum(part.size for part in whole)
    return Treemap("Images by the size of their qcow2", total, tuple(rectangles), tuple(hues.items()))


def _laid_out(
    parts: Iterable[Part], place: tuple[float, float, float, float], shape: tuple[float, float]
) -> tuple[Rectangle, ...]:
    """Fill a place (x, y, width, height) of a rectangle of some width and height with parts, the largest first."""
    import squarify

    ordered = sorted(parts, key=lambda part: (-part.size, part.name))
    total = sum(part.size for part in ordered)
    areas = [part.size * place[2] * place[3] / total for part in ordered]

    def percent(length: float, whole: float) -> float:
        return round(100 * length / whole, 3)

    return tuple(
        Rectangle(
            part,
            percent(found["x"], shape[0]),
            percent(found["y"], shape[1]),
            percent(found["dx"], shape[0]),
            percent(found["dy"], shape[1]),
        )
        for part, found in zip(ordered, squarify.squarify(areas, *place), strict=True)
    )


def of_directories(manifest: Manifest) -> Treemap:
    """Return what is in an image by directory, as far as its manifest tells them apart."""
    named = manifest.tree.directories
    parts = [Part(name, size, HUES[index % len(HUES)]) for index, (name, size) in enumerate(sorted(named.items()))]
    rest = manifest.tree.size - sum(named.values())
    return treemap("By directory", [*parts, Part("all others", rest, None, "each below 1 MB")])


def of_packages(manifest: Manifest, packages: Sequence[Package] | None, shown: int = PACKAGES) -> Treemap:
    """Return what is in an image by package.

    Args:
        manifest: the image's.
        packages: what it has; None if that is not known: the manifest names the largest.
        shown: how many are shown one by one.
    """
    sizes = {package.name: 0 for package in packages or ()} or dict.fromkeys(manifest.largest_packages, 0)
    for name, size in [(package.name, package.size) for package in packages or ()] or manifest.largest_packages.items():
        sizes[name] += size  # there may be several of one name: of two architectures, or two kernels
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    parts = [Part(name, size, HUES[0]) for name, size in ordered[:shown]]
    others = ordered[shown:]
    if others:
        parts.append(Part(f"{len(others)} others", sum(size for _, size in others), HUES[4]))
    rest = manifest.tree.size - sum(sizes.values())
    if packages is None:
        parts.append(Part("all others", rest, None, "the list of packages is not there"))
    else:
        parts.append(
            Part("not from a package", rest, None, "made by the build: initramfs, boot loader, databases, settings")
        )
    return treemap("By package", parts)
