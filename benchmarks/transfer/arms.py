"""Which arm of a carried recipe ends lowest? Whole runs of each arm on the same seeds.

    python benchmarks/transfer/arms.py rules --recipe <recipe.yaml> --scales 1 16 64 --root <folder>
    python benchmarks/transfer/arms.py kinds --recipe <recipe.yaml> --scales 1 16 --root <folder>
    python benchmarks/transfer/arms.py rates --recipe <recipe.yaml> --scales 1 16 --root <folder>
    python benchmarks/transfer/arms.py shapes --recipe <recipe.yaml> --root <folder>

rules   Which parameterization loses least? The recipe and its baseline, carried by each of them.
kinds   Which kinds of per-module values keep their gain? The multipliers of one kind alone, of all kinds,
        and of all kinds without depth. Each has the recipe's global values.
rates   How far is each arm from its best learning rate? One factor multiplies all learning rates. A recipe
        that carries has the same best factor at every scale.
shapes  How many FLOPs does CompleteP save against muP? The recipe's global baseline goes to two shapes with
        equal hidden parameters. muP trains for all tokens, CompleteP for shares of them. The paper
        (arXiv 2505.01618) reports 11.8 % for its optimal shape and 34.4 % for its deepest, at 1.5 billion
        parameters and 20 tokens a parameter.

A scale is a multiple of the base's training FLOPs. The printed rows hold the mean loss of each arm and the
paired difference tuned - baseline with its 95 % interval. Finished runs are kept under the root, together
with those of `completedp speedup`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp.hparams import HParams
from completedp.kinds import KINDS
from completedp.recipe import Recipe
from completedp.seeds import derive_seed
from completedp.stats import compare
from completedp.training.sweeps import Training, train_all
from transfer.expected import Arm
from transfer.measuring.setting import runs_folder
from transfer.measuring.speedup import MEASUREMENT, Run, Setting, runs, speedup
from transfer.measuring.transfer_check import times
from transfer.planning.planner import make_plan
from transfer.planning.target import TargetRequest, target_for

PARAMETERIZATIONS = ("completed-p", "completep", "mup", "sp-fan-in")
FACTORS = (0.5, 0.71, 1, 1.41, 2)
ARMS: tuple[Arm, ...] = ("baseline", "tuned")
# In multiples of the base's width and depth. Both have 16 times the base's hidden parameters.
SHAPES = {"deep and narrow": (1, 16), "optimal": (2, 4)}
FRACTIONS = (0.5, 0.65, 0.8, 1.0)

Row = Mapping[str, Any]
Named = tuple[str, Run]
Summary = Callable[[Sequence[Row]], dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Carried:
    """A recipe's and a baseline's values, and the rules that carry both; None: the recipe's rules."""

    tuned: HParams
    baseline: HParams
    parameterization: str | None = None


def main() -> None:
    parser = result.parser(__doc__)
    parser.add_argument("question", choices=QUESTIONS)
    add_options(parser)
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="of `rates`")
    parser.add_argument("--parameterization", help="of `rates`; default: the recipe's")
    parser.add_argument("--tokens", type=float, default=2.0, help="of `shapes`, the base's is 1")
    arguments = parser.parse_args()
    arguments.out = arguments.out or result.RESULTS / f"arms_{arguments.question}.json"
    QUESTIONS[arguments.question](Recipe.read(arguments.recipe), arguments)


def add_options(parser: argparse.ArgumentParser, scales: Sequence[float] = (1, 16)) -> None:
    """The options of every benchmark that trains carried recipes."""
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--scales", type=float, nargs="*", default=scales)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="runs at a time; default: one a core or GPU")
    parser.add_argument("--out", type=Path, help="the result file")


def rules(recipe: Recipe, arguments: argparse.Namespace) -> None:
    arms = {
        name: Carried(tuned=recipe.hparams, baseline=recipe.baseline, parameterization=name)
        for name in PARAMETERIZATIONS
    }
    measure_scales(recipe, arms, arguments, beside_completed_p)


def beside_completed_p(rows: Sequence[Row]) -> dict[str, Any]:
    """The loss of each parameterization's arms less that of Complete(d)P's."""
    losses = {row["arm"]: row["losses"] for row in rows}
    best = losses.pop("completed-p")
    return {
        name: {arm: difference(best[arm], own[arm]) for arm in ARMS} for name, own in losses.items()
    }


def kinds(recipe: Recipe, arguments: argparse.Namespace) -> None:
    tuned = recipe.hparams
    values = {"all": tuned, "all, no depth": dataclasses.replace(tuned, depth={})}
    values |= {kind: only(tuned, kind) for kind in KINDS if kind in {*tuned.types, *tuned.depth}}
    measure_scales(recipe, against_baseline(recipe, values), arguments)


def against_baseline(recipe: Recipe, values: Mapping[str, HParams]) -> dict[str, Carried]:
    """Each of the values beside the recipe's baseline."""
    return {name: Carried(tuned=one, baseline=recipe.baseline) for name, one in values.items()}


def only(hparams: HParams, kind: str) -> HParams:
    """The multipliers of one kind alone."""
    types = {k: v for k, v in hparams.types.items() if k == kind}
    depth = {k: v for k, v in hparams.depth.items() if k == kind}
    return dataclasses.replace(hparams, types=types, depth=depth)


def rates(recipe: Recipe, arguments: argparse.Namespace) -> None:
    arms = {
        f"{factor:g}": Carried(
            tuned=times(recipe.hparams, "lr", factor),
            baseline=times(recipe.baseline, "lr", factor),
            parameterization=arguments.parameterization,
        )
        for factor in arguments.factors
    }
    measure_scales(recipe, arms, arguments, best_factors)


def best_factors(rows: Sequence[Row]) -> dict[str, Any]:
    """Each arm's best factor, and the gain with both at their best (chosen on the same runs)."""
    # A factor with a diverged seed is not the best one.
    most = max(len(losses) for row in rows for losses in row["losses"].values())
    best: dict[str, Row] = {
        arm: min(
            (row for row in rows if len(row["losses"][arm]) == most),
            key=lambda row: row["mean"][arm],
        )
        for arm in ARMS
    }
    gain = difference(*(best[arm]["losses"][arm] for arm in ARMS))
    return {"best_factor": {arm: row["arm"] for arm, row in best.items()}, "gain_at_both": gain}


def shapes(recipe: Recipe, arguments: argparse.Namespace) -> None:
    """Here `baseline` is muP and `tuned` is CompleteP, both with the baseline's values."""
    groups = {name: list(shaped(recipe, shape, arguments)) for name, shape in SHAPES.items()}
    measure(recipe, groups, arguments, flops_saved)


def shaped(
    recipe: Recipe, shape: tuple[int, int], arguments: argparse.Namespace
) -> Iterator[Named]:
    base = recipe.base
    steps = round(arguments.tokens * base.tokens / base.batch)
    request = TargetRequest(
        width=shape[0] * base.width,
        depth=shape[1] * base.depth,
        batch=base.batch,
        tokens=steps * base.batch,
    )
    target = target_for(recipe, request)
    for i in range(arguments.seeds):
        seed = derive_seed(0, "deep-narrow", i)
        for fraction in FRACTIONS:
            tokens = round(fraction * steps) * base.batch
            scale = dataclasses.replace(target.scale, tokens=tokens)
            for arm, rule in zip(ARMS, ("mup", "completep"), strict=True):
                if arm == "tuned" or fraction == 1:
                    plan = make_plan(
                        recipe, scale, target.model, parameterization=rule, which="baseline"
                    )
                    name = f"{fraction:g}"
                    yield (
                        name,
                        Run(name=name, scale=1, arm=arm, fraction=fraction, seed=seed, plan=plan),
                    )


def flops_saved(rows: Sequence[Row]) -> dict[str, Any]:
    """FLOPs that CompleteP saves at muP's loss, in percent, with what bounds the figure."""
    by_fraction = {float(row["arm"]): row["losses"] for row in rows}
    found = speedup(
        by_fraction[1.0]["baseline"], {f: losses["tuned"] for f, losses in by_fraction.items()}
    )
    if found is None:
        return {"flops_saved_percent": None}
    factors = {name: getattr(found, name) for name in ("factor", "low", "high")}
    percent = {name: 100 * (1 - 1 / x) for name, x in factors.items() if x is not None}
    return {"flops_saved_percent": percent, "bound": found.bound}


def measure_scales(
    recipe: Recipe,
    arms: Mapping[str, Carried],
    arguments: argparse.Namespace,
    summary: Summary | None = None,
    first: Sequence[Row] = (),
) -> None:
    """Train every arm at every scale for all of the scale's tokens."""
    # The seeds of `completedp speedup`, whose finished runs count here too.
    seeds = tuple(derive_seed(0, "speedup", i) for i in range(arguments.seeds))
    groups = {
        f"x {scale:g}": [
            (name, run)
            for name, arm in arms.items()
            for run in runs(
                dataclasses.replace(recipe, hparams=arm.tuned),
                arm.baseline,
                Setting(
                    scales=(scale,),
                    fractions=(1.0,),
                    seeds=seeds,
                    parameterization=arm.parameterization,
                ),
            )
        ]
        for scale in arguments.scales
    }
    measure(recipe, groups, arguments, summary, first)


def measure(
    recipe: Recipe,
    groups: Mapping[str, Sequence[Named]],
    arguments: argparse.Namespace,
    summary: Summary | None = None,
    first: Sequence[Row] = (),
) -> None:
    """Train one group after the other. Its rows are printed, and written with those before them."""
    rows: list[Row] = list(first)
    for at, wanted in groups.items():
        losses = trained(wanted, recipe, arguments)
        names = dict.fromkeys(name for name, _ in wanted)
        found = [{"at": at, **row(name, losses)} for name in names]
        rows += found
        if summary is not None:
            rows.append({"at": at, "summary": summary(found)})
        for one in rows[-len(found) - (summary is not None) :]:
            print(json.dumps({k: v for k, v in one.items() if k != "losses"}), flush=True)
        result.write(arguments.out, {"recipe_digest": recipe.digest, "rows": rows})


Losses = Mapping[tuple[str, Arm], dict[int, float]]


def trained(wanted: Sequence[Named], recipe: Recipe, arguments: argparse.Namespace) -> Losses:
    """Losses by name, arm and seed. A run that diverged or is missing has none."""
    root = arguments.root.resolve()
    say = functools.partial(print, file=sys.stderr, flush=True)
    outcomes = train_all(
        [Training(plan=run.plan, seed=run.seed, name=f"{name}, {run.arm}") for name, run in wanted],
        recipe,
        runs_folder(root, MEASUREMENT, arguments.recipe),
        root=root,
        device=arguments.device,
        workers=arguments.workers,
        yes=True,
        say=say,
        warn=say,
    )
    assert outcomes is not None, "no dry run"
    losses: dict[tuple[str, Arm], dict[int, float]] = {}
    for i, (name, run) in enumerate(wanted):
        found = losses.setdefault((name, run.arm), {})
        if i in outcomes and (loss := outcomes[i].loss) is not None:
            found[run.seed] = loss
    return losses


def row(name: str, losses: Losses) -> dict[str, Any]:
    own = {arm: losses.get((name, arm), {}) for arm in ARMS}
    return {
        "arm": name,
        "mean": {arm: mean(by_seed.values()) for arm, by_seed in own.items()},
        "difference": difference(own["baseline"], own["tuned"]),
        "losses": own,
    }


def mean(losses: Iterable[float]) -> float | None:
    found = list(losses)
    return statistics.fmean(found) if found else None


def difference(baseline: Mapping[int, float], tuned: Mapping[int, float]) -> dict[str, Any] | None:
    """The paired comparison as plain JSON."""
    found = compare(baseline, tuned)
    return found.to_dict() if found else None


QUESTIONS = {"rules": rules, "kinds": kinds, "rates": rates, "shapes": shapes}


if __name__ == "__main__":
    main()
