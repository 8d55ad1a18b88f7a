"""The figure of a transfer check: loss over the swept value, a panel per parameterization."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from completedp import files, plotting
from transfer.measuring.transfer_check import SWEPT

# Room above the worst scale's lowest loss, as a share of the range of the scales' lowest losses. Higher
# losses are drawn at the top.
HEADROOM = 0.6
# The least room, as a share of the worst scale's lowest loss.
LEAST_HEADROOM = 0.06
# Distance between the scales' lines of diverged factors, in shares of the height.
CROSSES = 0.025


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a report. Raises `UserError` if the file cannot be written."""
    parts = document["parameterizations"]
    figure = plotting.new_figure(1.0 + 4.6 * len(parts), 4.8)
    panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)
    limits = _limits(document)
    for panel, part in zip(panels[0], parts, strict=True):
        _draw_panel(panel, part, document, limits)
    panels[0][0].set_ylim(*limits)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * len(parts), fontsize=8)
    panels[0][0].set_ylabel("loss on the report split (nats a token)")
    figure.suptitle(
        f"{document['axis']}: {document['which']} values, {document['schedule']}, means of "
        f"{len(document['seeds'])} seeds\nstars: optima with 95 % intervals; dotted: the base's, "
        "carried; crosses: diverged",
        fontsize=9,
    )
    files.write_figure(path, figure)


def _draw_panel(
    panel: Any, part: Mapping[str, Any], document: Mapping[str, Any], limits: tuple[float, float]
) -> None:
    axis, rows = document["axis"], part["rows"]
    octaves = [math.log2(factor) for factor in document["factors"]]
    colors = plotting.colormap("viridis")(np.linspace(0, 0.85, len(rows)))
    for i, (color, row) in enumerate(zip(colors, rows, strict=True)):
        means = _means(row, len(document["seeds"]))
        label = f"{axis} {row['target'][axis]:,} (x {row['ratio']:g})"
        clipped = [min(loss, limits[1]) for loss in means.values()]
        panel.plot(
            list(means), clipped, "o-", color=color, markersize=4, linewidth=0.7, label=label
        )
        diverged = [math.log2(float(factor)) for factor in row["diverged"]]
        line = limits[1] - (1 + i) * CROSSES * (limits[1] - limits[0])
        panel.plot(diverged, [line] * len(diverged), "x", color=color, markersize=6)
        if row["optimum"] and row["optimum"]["parabola"]:
            _draw_optimum(panel, row["optimum"], color, (min(octaves), max(octaves)))
        if row["ratio"] == 1 and row["carried"]:
            panel.axvline(row["carried"]["octaves"], color="grey", linewidth=0.9, linestyle=":")
    panel.set_title(part["parameterization"], fontsize=10)
    panel.set_xlabel(f"log2 of the factor on the carried {SWEPT[document['swept']]}")
    panel.grid(alpha=0.25)


def _draw_optimum(
    panel: Any, optimum: Mapping[str, Any], color: Any, ends: tuple[float, float]
) -> None:
    """Draw an optimum's parabola and its interval, cut at the ends of the grid."""
    parabola, octaves = optimum["parabola"], optimum["octaves"]
    x = np.linspace(parabola["first"], parabola["last"], 40)
    a, b, c = parabola["coefficients"]
    panel.plot(x, a + b * x + c * x**2, color=color, linewidth=1.8)
    low = ends[0] if octaves["low"] is None else max(ends[0], octaves["low"])
    high = ends[1] if octaves["high"] is None else min(ends[1], octaves["high"])
    panel.plot([low, high], [optimum["loss"]] * 2, color=color, linewidth=1.2, marker="|")
    panel.plot(octaves["value"], optimum["loss"], "*", color=color, markersize=11, zorder=3)


def _limits(document: Mapping[str, Any]) -> tuple[float, float]:
    """The lowest and highest loss of the panel."""
    seeds = len(document["seeds"])
    rows = [row for part in document["parameterizations"] for row in part["rows"]]
    least = [min(means.values()) for row in rows if (means := _means(row, seeds))] or [0.0]
    room = max(HEADROOM * (max(least) - min(least)), LEAST_HEADROOM * max(least), 1e-9)
    return min(least) - 0.1 * room, max(least) + room


def _means(row: Mapping[str, Any], seeds: int) -> dict[float, float]:
    """The mean loss by log2 of the factor, for factors with a loss of every seed."""
    return {
        math.log2(float(factor)): statistics.fmean(by_seed.values())
        for factor, by_seed in row["losses"].items()
        if len(by_seed) == seeds
    }
