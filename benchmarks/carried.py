"""One recipe and its baseline carried to larger scales by every parameterisation: who loses least.

    python benchmarks/carried.py --recipe <recipe.yaml> --scales 1 16 64 --seeds 3 --root <folder>

Whole runs on the same seeds under each; at scale 1 all are the same run. Runs that `completedp speedup` has
made of the recipe under the same root are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import carry

from completedp.recipe import Recipe
from completedp.stats import compare
from transfer.measuring import speedup

PARAMETERIZATIONS = ("completed-p", "completep", "mup", "sp-fan-in")
ARMS: tuple[speedup.Arm, ...] = ("baseline", "tuned")
Losses = dict[str, dict[speedup.Arm, dict[int, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    carry.add_options(parser, "carried.json")
    parser.add_argument("--scales", type=float, nargs="+", default=(1, 16, 64))
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    rows: list[dict[str, Any]] = []
    for scale in arguments.scales:  # a table of whole scales, however far it comes
        runs = [
            (name, run)
            for name in PARAMETERIZATIONS
            for run in speedup.runs(
                recipe, recipe.baseline, carry.whole_runs(arguments, scale, name)
            )
        ]
        losses = trained(runs, arguments)
        rows += [row(scale, name, losses) for name in PARAMETERIZATIONS]
        carry.write(arguments, recipe, rows, f"--scales {carry.listed(arguments.scales)}")
        for r in rows[-len(PARAMETERIZATIONS) :]:
            print(json.dumps({k: v for k, v in r.items() if k != "losses"}), flush=True)


def trained(runs: list[tuple[str, speedup.Run]], arguments: argparse.Namespace) -> Losses:
    """Losses by parameterisation, arm and seed; none of a run that diverged."""
    outcomes = carry.trained([run for _, run in runs], arguments)
    losses: Losses = {name: {arm: {} for arm in ARMS} for name in PARAMETERIZATIONS}
    for i, (name, run) in enumerate(runs):
        if i in outcomes and (loss := outcomes[i].loss) is not None:
            losses[name][run.arm][run.seed] = loss
    return losses


def row(scale: float, name: str, losses: Losses) -> dict[str, Any]:
    """Means, the recipe's gain under this parameterisation, and each arm less Complete(d)P's."""
    own, best = losses[name], losses["completed-p"]
    gain = compare(own["baseline"], own["tuned"])
    less = {arm: compare(best[arm], own[arm]) for arm in ARMS}
    return {
        "scale": scale,
        "parameterization": name,
        "mean": {arm: statistics.fmean(own[arm].values()) if own[arm] else None for arm in ARMS},
        "gain": gain.to_dict() if gain else None,
        "minus_completed_p": {arm: c.to_dict() if c else None for arm, c in less.items()},
        "losses": {arm: {str(s): x for s, x in own[arm].items()} for arm in ARMS},
    }


if __name__ == "__main__":
    main()
