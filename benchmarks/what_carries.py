"""Which kinds of per-module values keep their gain when a recipe is carried: each alone, at several scales.

    python benchmarks/what_carries.py --recipe <recipe.yaml> --scales 1 16 --seeds 3 --root <folder>

The recipe's own global values with the multipliers of one kind, of all kinds, and of all without depth, each
against the global baseline on the same seeds, whole runs. Finished runs are kept, those of
`completedp speedup` under the same root too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from typing import Any

import carry

from completedp.hparams import HParams
from completedp.kinds import KINDS
from completedp.recipe import Recipe
from completedp.stats import compare
from transfer.measuring.speedup import Run, runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    carry.add_options(parser, "what_carries.json")
    parser.add_argument("--scales", type=float, nargs="+", default=(1, 16))
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    rows: list[dict[str, Any]] = []
    for scale in arguments.scales:
        setting = carry.whole_runs(arguments, scale)
        wanted = [
            (name, run)
            for name, hparams in configurations(recipe).items()
            for run in runs(dataclasses.replace(recipe, hparams=hparams), recipe.baseline, setting)
        ]
        outcomes = carry.trained([run for _, run in wanted], arguments)
        rows += table(scale, wanted, {i: o.loss for i, o in outcomes.items()})
        carry.write(arguments, recipe, rows, f"--scales {carry.listed(arguments.scales)}")


def configurations(recipe: Recipe) -> dict[str, HParams]:
    """By name; every one has the recipe's global values."""
    tuned = recipe.hparams
    kept = {kind: only(tuned, (kind,)) for kind in KINDS if kind in {*tuned.types, *tuned.depth}}
    return {"all": tuned, "all, no depth": dataclasses.replace(tuned, depth={}), **kept}


def only(hparams: HParams, kinds: tuple[str, ...]) -> HParams:
    """The multipliers of these kinds alone."""
    return dataclasses.replace(
        hparams,
        types={k: v for k, v in hparams.types.items() if k in kinds},
        depth={k: v for k, v in hparams.depth.items() if k in kinds},
    )


def table(
    scale: float, wanted: list[tuple[str, Run]], losses: dict[int, float | None]
) -> list[dict[str, Any]]:
    """A row a configuration: its paired difference from the baseline."""
    by_arm: dict[tuple[str, str], dict[int, float]] = {}
    for i, (name, run) in enumerate(wanted):
        if (loss := losses.get(i)) is not None:
            by_arm.setdefault((name, run.arm), {})[run.seed] = loss
    rows = []
    for name in dict.fromkeys(name for name, _ in wanted):
        tuned, baseline = by_arm.get((name, "tuned"), {}), by_arm.get((name, "baseline"), {})
        difference = compare(baseline, tuned)
        rows.append(
            {
                "scale": scale,
                "kinds": name,
                "mean": statistics.fmean(tuned.values()) if tuned else None,
                "difference": difference.to_dict() if difference else None,
                "losses": {str(seed): loss for seed, loss in tuned.items()},
            }
        )
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "losses"}), flush=True)
    return rows


if __name__ == "__main__":
    main()
