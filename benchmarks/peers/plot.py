"""Draws the plots of a report, run by a Python of its own that has matplotlib: ``plot.py REPORT.json DIRECTORY``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl  # type: ignore[import-not-found]

mpl.use("svg")
# The same numbers, the same file: no date, and identifiers that are not drawn at random.
mpl.rcParams["svg.hashsalt"] = "peers"
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["font.family"] = "sans-serif"

from matplotlib import pyplot as plt  # noqa: E402  after the choice of what draws

COLOURS = ("#1b6ca8", "#e08e45", "#7a7a7a")


def main() -> None:
    """Draw the plot of each row that has a file name."""
    report = json.loads(Path(sys.argv[1]).read_text())
    rows = {row["title"]: row for row in report["rows"]}
    for title, name in report["plots"].items():
        draw(rows[title], Path(sys.argv[2]) / name)


def draw(row: dict[str, object], path: Path) -> None:
    """Draw medians as bars and every measurement as a dot."""
    medians, samples = row["medians"], row["samples"]
    assert isinstance(medians, dict)
    assert isinstance(samples, dict)
    makers = [maker for maker, value in medians.items() if value is not None]
    figure, axes = plt.subplots(figsize=(6, 0.5 + 0.55 * len(makers)))
    axes.barh(makers, [medians[maker] for maker in makers], color=COLOURS[: len(makers)], height=0.6)
    for place, maker in enumerate(makers):
        axes.plot(samples[maker], [place] * len(samples[maker]), "k.", markersize=4)
        axes.text(medians[maker], place, f"  {medians[maker]:.1f}", va="bottom", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.margins(x=0.12)
    axes.set_xlabel(f"{row['title']} ({row['unit']})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    plt.close(figure)


if __name__ == "__main__":
    main()
