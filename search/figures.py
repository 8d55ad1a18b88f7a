"""The figures of a study: the confirmed result, the loss by trial, and a map of multipliers for each kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from completedp import files, plotting
from completedp.config import Model
from completedp.hparams import HParams
from completedp.kinds import KINDS, Kind
from completedp.models import own_inventory
from completedp.stats import compare
from search.confirm import ARMS, losses_by_arm
from search.study import Study

_COLORS = {"global": "#4c78a8", "module": "#e45756"}
_LABELS = {"global": "global", "module": "per module"}
# Octaves at the ends of the maps' colors: all maps of a study share them, so that kinds can be compared.
LEAST_REACH = 1.0


def draw(study: Study, hparams: HParams, folder: Path) -> list[Path]:
    """Write every figure as PNG into `folder`, in place of earlier ones, and return their paths.

    `hparams` gives the multipliers. Raises `UserError` if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = study.spec.config.model
    maps = {
        name: multipliers(kind, hparams, model)
        for name, kind in KINDS.items()
        if name in hparams.types or name in hparams.depth
    }
    moved = [abs(x) for table in maps.values() for row in table.values() for x in row]
    reach = max([LEAST_REACH, *moved])
    figures = {"loss_by_trial": _loss_by_trial(study)}
    if (confirmed := _confirmed(study)) is not None:
        figures["confirmed"] = confirmed
    figures |= {f"multipliers_{n}": _map(KINDS[n], table, reach) for n, table in maps.items()}
    for name in ("confirmed", *(f"multipliers_{kind}" for kind in KINDS)):
        if name not in figures:
            (folder / f"{name}.png").unlink(missing_ok=True)  # left by an earlier configuration
    for name, figure in figures.items():
        files.write_figure(folder / f"{name}.png", figure)
    return [folder / f"{name}.png" for name in figures]


def _confirmed(study: Study) -> Any:
    """Both arms on each fresh seed, and their difference. None without a pair."""
    losses = losses_by_arm(study.confirmations)
    pairs = [
        (x, losses["module"][seed])
        for seed, x in losses["global"].items()
        if seed in losses["module"]
    ]
    difference = compare(losses["global"], losses["module"])
    if not pairs:
        return None
    figure = plotting.new_figure(7, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    for pair in pairs:
        left.plot((0, 1), pair, "-", color="grey", linewidth=0.8, zorder=1)
    for place, arm in enumerate(ARMS):
        left.scatter(
            [place] * len(pairs), [pair[place] for pair in pairs], color=_COLORS[arm], zorder=2
        )
    left.set_xticks((0, 1), [f"best {_LABELS[arm]}" for arm in ARMS])
    left.set_xlim(-0.3, 1.3)
    left.set_ylabel("loss (nats a token, report split)")
    right.axhline(0, color="black", linewidth=0.8)
    right.scatter(
        [0] * len(pairs), [tuned - base for base, tuned in pairs], color="grey", alpha=0.6
    )
    if difference is not None:
        reach = [[difference.mean - difference.low], [difference.high - difference.mean]]
        right.errorbar([0.4], [difference.mean], yerr=reach, fmt="o", color="black", capsize=5)
    right.set_xticks((0, 0.4), ["seeds", "mean, 95 %"])
    right.set_xlim(-0.3, 0.8)
    right.set_ylabel("per module less global")
    figure.suptitle(f"{study.spec.name}: the same fresh seeds for both", fontsize=10)
    return figure


def _loss_by_trial(study: Study) -> Any:
    figure = plotting.new_figure(8, 4.5)
    axes = figure.subplots()
    finite = [t.loss for phase in _COLORS for t in study.completed(phase) if t.loss is not None]
    # The interesting losses are near the best. A loss far above the median is drawn at the edge.
    low, middle = min(finite), sorted(finite)[len(finite) // 2]
    top = middle + 1.5 * (middle - low) + 0.01
    for phase, color in _COLORS.items():
        done = [(t.trial, t.loss) for t in study.completed(phase) if t.loss is not None]
        if not done:
            continue
        number, loss = zip(*done, strict=True)
        axes.scatter(
            number,
            [min(x, top) for x in loss],
            s=14,
            color=color,
            alpha=0.6,
            label=f"{_LABELS[phase]} ({len(done)})",
        )
        best = [min(loss[: i + 1]) for i in range(len(loss))]
        axes.step(number, best, where="post", color=color, linewidth=1.5)
    diverged = [t.trial for t in study.of_phase("global", "module") if t.status == "diverged"]
    if diverged:
        label = f"diverged ({len(diverged)})"
        axes.scatter(diverged, [top] * len(diverged), marker="x", s=24, color="black", label=label)
    axes.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low))
    axes.set(
        xlabel="trial",
        ylabel="loss (nats a token, select split)",
        title=f"{study.spec.name}: loss by trial (line: best so far; worse than the top: at the top)",
    )
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.25)
    return figure


def multipliers(kind: Kind, hparams: HParams, model: Model) -> dict[str, list[float]]:
    """log2 of type × depth over the stack, by type. A type outside the stack has one value in all layers."""
    tensors = [t for t in own_inventory(model) if kind.scope == "tensor"]
    rows = [p for p in kind.places if not tensors or p in {t.module_type for t in tensors}]
    outside = {t.module_type for t in tensors} - {
        t.module_type for t in tensors if t.layer is not None
    }
    return {
        name: [
            math.log2(
                hparams.type_multiplier(kind.name, name)
                * hparams.depth_multiplier(
                    kind.name, None if name in outside else layer, model.depth, model.depth
                )
            )
            for layer in range(model.depth)
        ]
        for name in rows
    }


def _map(kind: Kind, table: dict[str, list[float]], reach: float) -> Any:
    depth = len(next(iter(table.values())))
    figure = plotting.new_figure(3.2 + 0.9 * depth, 1.4 + 0.32 * len(table))
    axes = figure.subplots()
    image = axes.imshow([*table.values()], cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_yticks(range(len(table)), [*table])
    axes.set_xticks(range(depth), [f"layer {i}" for i in range(depth)])
    for i, row in enumerate(table.values()):
        for j, x in enumerate(row):
            color = "white" if abs(x) > 0.6 * reach else "black"
            shown = round(x, 1) + 0.0  # no minus sign before 0
            axes.text(j, i, f"{shown:+.1f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_title(f"{kind.label}: log2 of type × depth", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
