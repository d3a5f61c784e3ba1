"""A forecast of a bundle, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.listing import table
from pipeline.bundle.rates import MEASURED

if TYPE_CHECKING:
    from pipeline.bundle.rates import Rates

MB = 1e6
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Row:
    """An image for a platform, or what is attached to an image.

    Attributes:
        image: where it is read.
        platform: what it runs on.
        blobs: how many manifests, configurations and layers.
        size: their bytes.
        new: bytes of those that no image above it has.
    """

    image: str
    platform: str
    blobs: int
    size: int
    new: int


@dataclass(frozen=True)
class Sizes:
    """What a bundle has.

    Attributes:
        blobs: how many it carries.
        total: their bytes.
        gzip: bytes of its gzip layers, which may be stored lean.
        head: bytes of the first volume.
        body: bytes of the other volumes of a plain bundle.
        volumes: how many volumes it has, the head included.
    """

    blobs: int
    total: int
    gzip: int
    head: int
    body: int
    volumes: int

    @property
    def plain(self) -> int:
        """Bytes of all volumes of a plain bundle."""
        return self.head + self.body

    def lean(self, ratio: float) -> int:
        """Return the bytes of all volumes of a lean bundle.

        Args:
            ratio: what a byte of a gzip layer becomes.
        """
        return round(self.plain - self.gzip * (1 - ratio))


@dataclass(frozen=True)
class Delta:
    """A patch or an upgrade.

    Attributes:
        kind: which of the two.
        sizes: what it has; None if there is nothing to patch.
        needed: bytes that the site has already.
        counts: how many images are new, changed and unchanged.
    """

    kind: str
    sizes: Sizes | None
    needed: int
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class Forecast:
    """What a bundle of some images will be. Sizes are bytes.

    Attributes:
        rows: each image for each platform.
        full: a full bundle.
        to_fetch: what is not in the store yet.
        volume_size: bytes of a volume; None for one volume.
        deltas: a patch and an upgrade, if there are bases.
        rates: how fast things go.
    """

    rows: tuple[Row, ...]
    full: Sizes
    to_fetch: int
    volume_size: int | None
    deltas: tuple[Delta, ...]
    rates: Rates

    def text(self) -> str:
        """Return it for the user."""
        return "\n".join(self._lines())

    def to_json(self) -> str:
        """Return it as JSON; sizes are bytes, times seconds."""
        value = asdict(self) | {"times": dict(self.times(self.full)), "measured": MEASURED}
        return json.dumps(value, indent=2)

    def times(self, sizes: Sizes) -> Iterator[tuple[str, tuple[float, float]]]:
        """Yield what is done with a bundle, and the seconds that it takes: of the smallest and the largest case.

        Args:
            sizes: what the bundle has.
        """
        rates = self.rates
        volumes = (sizes.lean(rates.ratio[0]), sizes.lean(rates.ratio[1]))
        lean = sizes.gzip / MB / (rates.pack_lean * rates.cores)
        yield "pack_plain", (sizes.plain / MB / rates.pack_plain,) * 2
        yield "pack_lean", (lean + volumes[0] / MB / rates.pack_plain, lean + volumes[1] / MB / rates.pack_plain)
        yield "copy_plain", (sizes.plain / MB / rates.usb,) * 2
        yield "copy_lean", (volumes[0] / MB / rates.usb, volumes[1] / MB / rates.usb)
        yield "sync", (sizes.total / MB / rates.link,) * 2

    def _lines(self) -> Iterator[str]:
        rows = [
            (one.image, one.platform, str(one.blobs), f"{one.size / MB:.1f}", f"{one.new / MB:.1f}")
            for one in self.rows
        ]
        yield from table([("image", "platform", "blobs", "MB", "of it new"), *rows])
        yield ""
        rates, seconds = self.rates, self.to_fetch / MB / self.rates.fetch
        yield f"to fetch for all of it: {self.to_fetch / MB:.1f} MB, {duration(seconds)} at {rates.fetch:g} MB/s"
        yield from self._bundle("full bundle", self.full)
        for delta in self.deltas:
            new, changed, unchanged = delta.counts
            images = f"{new} images new, {changed} changed, {unchanged} unchanged"
            if delta.sizes is None:
                yield f"{delta.kind}: nothing to do: {images}"
                continue
            yield from self._bundle(f"{delta.kind}, {images}, {delta.needed / MB:.1f} MB at the site", delta.sizes)
        yield ""
        packing = f"plain {rates.pack_plain:g} MB/s, lean {rates.pack_lean:g} MB/s on each of {rates.cores} cores"
        yield f"pack: {packing} (defaults: measured on {MEASURED})"
        yield f"copy: {rates.usb:g} MB/s, fetch: {rates.fetch:g} MB/s, sync: {rates.link:g} MB/s to an empty registry"
        yield "  (defaults: nominal rates of USB 2.0 and of 1 Gbit/s; give your own)"
        yield f"lean: a byte of gzip layers becomes {ratio(rates.ratio)}; 'bundle.probe' tells for a registry"

    def _bundle(self, what: str, sizes: Sizes) -> Iterator[str]:
        times = dict(self.times(sizes))
        low, high = (sizes.lean(one) for one in self.rates.ratio)
        volumes = f", {sizes.volumes} volumes" if self.volume_size else ""
        lean = span(f"{low / MB:.1f}", f"{high / MB:.1f}")
        yield f"{what}: {sizes.blobs} blobs, {sizes.total / MB:.1f} MB"
        yield f"  plain  {sizes.plain / MB:.1f} MB{volumes}; " + self._durations(times, "plain")
        yield f"  lean   {lean} MB, as its layers are made; " + self._durations(times, "lean")

    def _durations(self, times: dict[str, tuple[float, float]], store: str) -> str:
        words = (("pack", f"pack_{store}"), ("copy", f"copy_{store}"), ("sync", "sync"))
        return ", ".join(f"{word} {span(*map(duration, times[key]))}" for word, key in words)


def span(low: str, high: str) -> str:
    """Return two values as one text; one only if they are the same."""
    return low if low == high else f"{low} to {high}"


def ratio(values: tuple[float, float]) -> str:
    """Return the range of a ratio."""
    return span(*(f"{value:.2f}" for value in values))


def duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    minutes = round(seconds / MINUTE)
    return f"{minutes} min" if seconds < HOUR else f"{minutes // 60} h {minutes % 60:02d} min"
