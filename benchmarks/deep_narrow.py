"""CompleteP's own claim at a reachable size: FLOPs to equal loss against muP, deep and narrow, and optimal.

    python benchmarks/deep_narrow.py --recipe <recipe.yaml> --seeds 3 --root <folder>

The recipe's global baseline, found at its base, is carried to two shapes of the same number of hidden
parameters by both parameterisations, at the same tokens and batch. muP trains once for all of the tokens,
CompleteP for shares of them, whole schedules; where its loss crosses muP's is the share of the FLOPs that
it needs. The paper (arXiv 2505.01618) reports 11.8 % (its optimal shape) to 34.4 % (its deepest) fewer, at
1.5 billion parameters and 20 tokens a parameter.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import carry

from completedp.recipe import Recipe
from completedp.runs.job import Outcome
from completedp.seeds import derive_seed
from completedp.stats import compare
from transfer.measuring.speedup import Arm, Run, speedup
from transfer.planning.planner import make_plan
from transfer.planning.target import TargetRequest, target_for

# In multiples of the base's width and depth; both have 16 times the base's hidden parameters.
SHAPES = {"deep and narrow": (1, 16), "optimal": (2, 4)}
FRACTIONS = (0.5, 0.65, 0.8, 1.0)
RULES: tuple[tuple[Arm, str], ...] = (("baseline", "mup"), ("tuned", "completep"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    carry.add_options(parser, "deep_narrow.json")
    parser.add_argument("--tokens", type=float, default=2.0, help="multiple of the base's")
    arguments = parser.parse_args()
    recipe = Recipe.read(arguments.recipe)
    rows = []
    for name, shape in SHAPES.items():
        runs = list(wanted(recipe, shape, arguments))
        outcomes = carry.trained(runs, arguments)
        rows.append(row(name, runs, outcomes))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "losses"}), flush=True)
        carry.write(arguments, recipe, rows, f"--tokens {arguments.tokens:g}")


def wanted(recipe: Recipe, shape: tuple[int, int], arguments: argparse.Namespace) -> Iterator[Run]:
    """`baseline` is muP, `tuned` CompleteP: the same global values."""
    base = recipe.base
    steps = round(arguments.tokens * base.tokens / base.batch)
    target = target_for(
        recipe,
        TargetRequest(
            width=shape[0] * base.width,
            depth=shape[1] * base.depth,
            batch=base.batch,
            tokens=steps * base.batch,
        ),
    )
    for i in range(arguments.seeds):
        for fraction in FRACTIONS:
            tokens = round(fraction * steps) * base.batch
            scale = dataclasses.replace(target.scale, tokens=tokens)
            for arm, rule in RULES:
                if arm == "tuned" or fraction == 1:
                    plan = make_plan(
                        recipe, scale, target.model, parameterization=rule, which="baseline"
                    )
                    yield Run(
                        scale=1,
                        arm=arm,
                        fraction=fraction,
                        seed=derive_seed(0, "deep-narrow", i),
                        plan=plan,
                    )


def row(name: str, runs: list[Run], outcomes: dict[int, Outcome]) -> dict[str, Any]:
    """FLOPs that CompleteP saves, with what both lost to divergence."""
    mup: dict[int, float] = {}
    completep: dict[float, dict[int, float]] = {fraction: {} for fraction in FRACTIONS}
    for i, run in enumerate(runs):
        loss = outcomes[i].loss if i in outcomes else None
        if loss is not None:
            (mup if run.arm == "baseline" else completep[run.fraction])[run.seed] = loss
    found, difference = speedup(mup, completep), compare(mup, completep[1.0])
    plan = runs[0].plan
    return {
        "shape": name,
        "model": dataclasses.asdict(plan.model),
        "parameters": plan.parameters,
        "whole_runs": {"mup": len(mup), "completep": len(completep[1.0])},
        "difference": difference.to_dict() if difference else None,
        "flops_saved_percent": None
        if found is None
        else {
            name: 100 * (1 - 1 / value)
            for name in ("factor", "low", "high")
            if (value := getattr(found, name)) is not None
        },
        "bound": found.bound if found else None,
        "losses": {"mup": mup, "completep": completep},
    }


if __name__ == "__main__":
    main()
