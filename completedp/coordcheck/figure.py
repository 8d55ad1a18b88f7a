"""A figure of the coordinate check, with lines that should be level."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from completedp import files, plotting
from completedp.coordcheck.slopes import Axis

Document = Mapping[str, Any]

_TITLES = {
    "output": "output at init",
    "update": "own update",
    "change": "change",
    "gradient": "gradient / ε",
    "noise": "gradient noise / ε",
}
_COLORS = {"holds": "#4c78a8", "open": "#f2a541", "fails": "#e45756"}
_NAMED = 2  # failing lines that are named in a panel


def draw(rows: Sequence[tuple[str, Axis, Document]], path: Path) -> None:
    """Draw a row of panels for each of `rows` (title, axis, document of the check), one panel a quantity.

    A line is one module's size: the geometric mean over seeds, divided by the expected size and by its value
    at the smallest ratio. The wedge is the tolerance. A blue line holds, an orange one is undecided, a red
    one fails.
    """
    columns = 4
    figure = plotting.new_figure(11, 2.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (title, axis, document) in zip(grid, rows, strict=True):
        judged = [s for s in document["slopes"] if s["axis"] == axis and s["expected"] is not None]
        quantities = [q for q in _TITLES if any(s["quantity"] == q for s in judged)]
        for axes in axes_row[len(quantities) :]:
            axes.set_visible(False)
        for axes, quantity in zip(axes_row, quantities, strict=False):
            _panel(axes, document, [s for s in judged if s["quantity"] == quantity])
            axes.set_title(_TITLES[quantity], fontsize=9)
            axes.set_xlabel(f"{axis} / base", fontsize=8)
        axes_row[0].set_ylabel(title, fontsize=9)
    files.write_figure(path, figure, dpi=110)


def _panel(axes: Any, document: Document, slopes: Sequence[Mapping[str, Any]]) -> None:
    ratios = sorted(document["ratios"])
    reach = [(r / ratios[0]) ** document["tolerance"] for r in ratios]
    axes.fill_between(ratios, [1 / r for r in reach], reach, color="#eeeeee", linewidth=0)
    named = sorted(
        (s for s in slopes if s["verdict"] == "fails" and s["mean"] is not None),
        key=lambda s: -s["distance"],
    )[:_NAMED]
    for verdict, color in _COLORS.items():
        for slope in slopes:
            if slope["verdict"] == verdict and slope["mean"] is not None:
                heights = _level(slope, document["ratios"])
                place = "" if slope["place"] is None else f" {slope['place']}"
                name = f"{slope['module']}{place}"
                axes.plot(ratios, heights, color=color, linewidth=0.9, alpha=0.8)
                if slope in named:
                    axes.annotate(name, (ratios[-1], heights[-1]), fontsize=6, ha="right")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(ratios, [f"{r:g}" for r in ratios])
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.tick_params(labelsize=7)
    axes.minorticks_off()


def _level(slope: Mapping[str, Any], ratios: Sequence[float]) -> list[float]:
    """Sizes by ascending ratio, relative to the first. They are flat if the slope is as expected."""
    columns = sorted(zip(ratios, zip(*slope["sizes"], strict=True), strict=True))
    expected = statistics.fmean(slope["expected"])
    logs = [
        statistics.fmean(math.log(size) for size in sizes) - expected * math.log(ratio)
        for ratio, sizes in columns
    ]
    return [math.exp(log - logs[0]) for log in logs]
