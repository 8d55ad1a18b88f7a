"""The figures of a study: loss by trial, and for each kind a map of its multipliers by type and depth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from completedp import files
from completedp.config import Model
from completedp.hparams import HParams
from completedp.kinds import KINDS, Kind
from completedp.models import own_inventory
from search.study import Study

_COLORS = {"global": "#4c78a8", "module": "#e45756"}
_LABELS = {"global": "global", "module": "per module"}


def draw(study: Study, hparams: HParams, folder: Path) -> list[Path]:
    """Write every figure as PNG into `folder`, in place of earlier ones, and return their paths.

    `hparams` gives the multipliers. Raises `UserError` if a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [_save(_loss_by_trial(study), folder / "loss_by_trial.png")]
    for name, kind in KINDS.items():
        path = folder / f"multipliers_{name}.png"
        if name in hparams.types or name in hparams.depth:
            paths.append(_save(_multipliers(kind, hparams, study.spec.config.model), path))
        else:
            path.unlink(missing_ok=True)  # left by an earlier configuration
    return paths


def _save(figure: Any, path: Path) -> Path:
    files.write_figure(path, figure)
    plt.close(figure)
    return path


def _loss_by_trial(study: Study) -> Any:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
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
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.25)
    return figure


def _multipliers(kind: Kind, hparams: HParams, model: Model) -> Any:
    """log2 of type × depth over the stack; a type outside the stack has one value, drawn full width."""
    tensors = [t for t in own_inventory(model) if kind.scope == "tensor"]
    rows = [p for p in kind.places if not tensors or p in {t.module_type for t in tensors}]
    outside = {t.module_type for t in tensors} - {
        t.module_type for t in tensors if t.layer is not None
    }
    table = [
        [
            math.log2(
                hparams.type_multiplier(kind.name, name)
                * hparams.depth_multiplier(
                    kind.name, None if name in outside else layer, model.depth, model.depth
                )
            )
            for layer in range(model.depth)
        ]
        for name in rows
    ]
    reach = max(1.0, max(abs(x) for row in table for x in row))
    figure, axes = plt.subplots(
        figsize=(3.2 + 0.9 * model.depth, 1.4 + 0.32 * len(rows)), layout="constrained"
    )
    image = axes.imshow(table, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(model.depth), [f"layer {i}" for i in range(model.depth)])
    for i, row in enumerate(table):
        for j, x in enumerate(row):
            color = "white" if abs(x) > 0.6 * reach else "black"
            shown = round(x, 1) + 0.0  # no minus sign before 0
            axes.text(j, i, f"{shown:+.1f}", ha="center", va="center", fontsize=7, color=color)
    axes.set_title(f"{kind.label}: log2 of type × depth", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
