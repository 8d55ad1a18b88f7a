"""One factor on all learning rates of a recipe and of its baseline: how far each is from its optimum.

    python benchmarks/lr_at_scale.py --recipe <recipe.yaml> --scales 1 16 --root <folder>

At the base and carried, whole runs on paired seeds. Two arms are compared fairly where each has its best
factor; a recipe that carries has its best one at the same place at every scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from typing import Any

import carry

from completedp.hparams import HParams
from completedp.recipe import Recipe
from completedp.stats import compare
from transfer.measuring import transfer_check
from transfer.measuring.speedup import Arm, Run, runs

ARMS: tuple[Arm, ...] = ("baseline", "tuned")
Losses = dict[float, dict[Arm, dict[int, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--factors", type=float, nargs="+", default=[0.5, 0.71, 1, 1.41, 2])
    parser.add_argument("--parameterization", default="completed-p")
    carry.add_options(parser, "lr_at_scale.json")
    parser.add_argument("--scales", type=float, nargs="+", default=(1, 16))
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    rows: list[dict[str, Any]] = []
    for scale in arguments.scales:
        setting = carry.whole_runs(arguments, scale, arguments.parameterization)
        wanted = [
            (factor, run)
            for factor in arguments.factors
            for run in runs(*times(recipe, factor), setting)
        ]
        outcomes = carry.trained([run for _, run in wanted], arguments)
        rows.append(row(scale, wanted, {i: o.loss for i, o in outcomes.items()}))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "losses"}), flush=True)
        own = (
            f"--scales {carry.listed(arguments.scales)} --factors {carry.listed(arguments.factors)} "
            f"--parameterization {arguments.parameterization}"
        )
        carry.write(arguments, recipe, rows, own)


def times(recipe: Recipe, factor: float) -> tuple[Recipe, HParams]:
    """The recipe and its baseline with every learning rate times a factor."""
    scaled = dataclasses.replace(recipe, hparams=transfer_check.times(recipe.hparams, "lr", factor))
    return scaled, transfer_check.times(recipe.baseline, "lr", factor)


def row(
    scale: float, wanted: list[tuple[float, Run]], losses: dict[int, float | None]
) -> dict[str, Any]:
    """Means by factor, each arm's best, and the gain where both have theirs (chosen on the same runs)."""
    found: Losses = {factor: {arm: {} for arm in ARMS} for factor, _ in wanted}
    for i, (factor, run) in enumerate(wanted):
        if (loss := losses.get(i)) is not None:
            found[factor][run.arm][run.seed] = loss
    most = max(len(by[arm]) for by in found.values() for arm in ARMS)
    # A factor at which a seed diverged is nobody's best.
    means = {
        arm: {
            f: statistics.fmean(by[arm].values()) for f, by in found.items() if len(by[arm]) == most
        }
        for arm in ARMS
    }
    best = {arm: min(by_factor, key=by_factor.__getitem__) for arm, by_factor in means.items()}
    gain = compare(found[best["baseline"]]["baseline"], found[best["tuned"]]["tuned"])
    return {
        "scale": scale,
        "means": {arm: {f"{f:g}": x for f, x in by.items()} for arm, by in means.items()},
        "best_factor": best,
        "gain_at_both_best": gain.to_dict() if gain else None,
        "losses": {f"{f:g}": by for f, by in found.items()},
    }


if __name__ == "__main__":
    main()
