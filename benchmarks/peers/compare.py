"""Our numbers beside those of the peers, as ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.measure import median


@dataclass(frozen=True)
class Row:
    """One thing that everybody did.

    Attributes:
        title: what it was.
        unit: ``s``, ``MB`` (a million bytes) or nothing.
        samples: every measurement, by maker; a maker that could not do it is missing.
        target: what our median may be at most, as a share of the best peer's; None if nothing was promised.
        remark: what a reader needs to know of it.
    """

    title: str
    unit: str
    samples: Mapping[str, tuple[float, ...]]
    target: float | None = None
    remark: str = ""

    def median(self, maker: str) -> float | None:
        """Return what a maker took; None if it could not do it."""
        values = self.samples.get(maker, ())
        return median(values) if values else None

    def best_peer(self, ours: str) -> str | None:
        """Return the peer with the smallest median; None if no peer could do it."""
        medians = {name: median(values) for name, values in self.samples.items() if name != ours and values}
        return min(medians, key=medians.__getitem__) if medians else None

    def ratio(self, ours: str) -> float | None:
        """Return our median as a share of the best peer's; None if one of the two is missing."""
        peer, own = self.best_peer(ours), self.median(ours)
        best = None if peer is None else self.median(peer)
        return own / best if own is not None and best else None

    def met(self, ours: str) -> bool | None:
        """Whether the ratio is within its target; None without a target or without a ratio."""
        ratio = self.ratio(ours)
        return None if self.target is None or ratio is None else ratio <= self.target
