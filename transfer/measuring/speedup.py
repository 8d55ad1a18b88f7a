"""The speed-up: the tokens with which a recipe equals its global baseline, at the base and carried.

At each scale the baseline trains for all the tokens, the recipe for all and for less. Every horizon is a
whole schedule, because a run cut short is not a shorter run. The recipe needs the share of the tokens at
which its loss crosses the baseline's. FLOPs are proportional to tokens at one model size, so the share
holds for both.

.. [CompletedP] arXiv 2512.22382: 1/2.3 of the tokens at its 50M proxy, 1/1.32 carried to its largest model.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from completedp import files, reading, root_layout
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import external_model, training_flops
from completedp.recipe import Recipe
from completedp.runs.job import Outcome
from completedp.stats import compare, jackknife_error, t_reach
from completedp.training.sweeps import Training
from transfer.expected import Arm
from transfer.measuring import setting as common
from transfer.planning.planner import make_plan
from transfer.planning.target import Target, TargetRequest, target_for

PAPER = {"proxy": 2.3, "carried": 1.32}  # [CompletedP]
MEASUREMENT = root_layout.SPEEDUPS

Losses = Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Setting(common.Setting):
    """The scales and horizons at which the two arms are compared.

    `scales` are multiples of the base's training FLOPs; each makes a target by the rules of
    `transfer.planning.target`. `fractions` are shares of the target's tokens, 1 among them.
    `parameterization` defaults to the recipe's.
    """

    scales: tuple[float, ...]
    fractions: tuple[float, ...]
    parameterization: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("scales", "numbers above 0", lambda s: math.isfinite(s) and s > 0)
        self.check("fractions", "shares of the tokens in (0, 1]", lambda f: 0 < f <= 1)
        if 1.0 not in self.fractions:
            raise UserError("fractions are without 1, all the tokens; expected 1 among them")


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """An arm's training at a scale, for a share of that scale's tokens."""

    scale: float
    arm: Arm
    fraction: float


def runs(recipe: Recipe, baseline: HParams, setting: Setting) -> list[Run]:
    """Every training of the setting, the smallest scale first.

    Seeds are a scale's outer loop, so that an interrupted measurement has whole pairs.
    """
    source = dataclasses.replace(recipe, baseline=baseline)
    found = []
    for scale in sorted(setting.scales):
        target = _target(recipe, scale)
        pair = []
        for fraction in sorted(setting.fractions, reverse=True):
            steps = max(1, round(fraction * (target.scale.tokens // target.scale.batch)))
            tokens = target.scale.tokens if fraction == 1 else steps * target.scale.batch
            arms: tuple[Arm, ...] = ("baseline", "tuned") if fraction == 1 else ("tuned",)
            for arm in arms:
                plan = make_plan(
                    source,
                    dataclasses.replace(target.scale, tokens=tokens),
                    target.model,
                    parameterization=setting.parameterization,
                    which=arm,
                    **setting.options,
                )
                name = f"x {scale:g} {arm}, {fraction:g} of the tokens"
                pair.append((name, arm, fraction, plan))
        found += [
            Run(name=name, scale=scale, arm=arm, fraction=fraction, seed=seed, plan=plan)
            for seed in setting.seeds
            for name, arm, fraction, plan in pair
        ]
    return found


def _target(recipe: Recipe, scale: float) -> Target:
    base = recipe.base
    if scale == 1:
        return target_for(recipe, TargetRequest(width=base.width, depth=base.depth))
    if (external := external_model(recipe.model)) is not None:
        raise UserError(
            f"scale {scale:g}: the shapes of {external.source} are not chosen here; give --scales 1"
        )
    flops = scale * training_flops(recipe.model, base.tokens)
    return target_for(recipe, TargetRequest(flops=flops))


def read_same_base(recipe: Recipe, path: Path) -> Recipe:
    """The recipe in a file. Raises `UserError` if its base is not that of `recipe`."""
    other = Recipe.read(path)
    for name in ("model", "data", "train"):
        if getattr(other, name) != getattr(recipe, name):
            raise UserError(
                f"{path}: its {name} is {getattr(other, name)}, the recipe's {getattr(recipe, name)}; "
                "expected a recipe of the same base"
            )
    return other


def report(
    recipe: Recipe,
    baseline: HParams,
    setting: Setting,
    wanted: Sequence[Run],
    outcomes: Mapping[int, Outcome],
) -> dict[str, Any]:
    """The measurement as plain JSON: a row per scale with every loss. `outcomes` are by the run's place."""
    return {
        "schema": 1,
        "kind": "speedup",
        "recipe_digest": recipe.digest,
        "baseline_digest": files.digest(baseline.to_dict()),
        "parameterization": setting.parameterization or recipe.parameterization,
        "options": dict(setting.options),
        "seeds": list(setting.seeds),
        "paper": PAPER,
        "rows": [_row(s, wanted, outcomes) for s in sorted(setting.scales)],
    }


def _row(scale: float, wanted: Sequence[Run], outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    losses: dict[Arm, dict[float, dict[int, float]]] = {"tuned": {}, "baseline": {}}
    diverged = dict.fromkeys(losses, 0)
    here = [(run, outcomes.get(i)) for i, run in enumerate(wanted) if run.scale == scale]
    whole = next(run.plan for run, _ in here if run.fraction == 1)
    for run, outcome in here:
        # The share that was trained, in whole steps; the requested share may differ.
        share = run.plan.train.steps / whole.train.steps
        by_seed = losses[run.arm].setdefault(share, {})
        if outcome is not None and outcome.loss is not None:
            by_seed[run.seed] = outcome.loss
        elif outcome is not None:
            diverged[run.arm] += 1
    # The whole horizon trains both arms.
    difference = compare(losses["baseline"][1.0], losses["tuned"][1.0])
    found = speedup(losses["baseline"][1.0], losses["tuned"])
    return {
        "scale": scale,
        "target": dataclasses.asdict(whole.scale),
        "parameters": whole.parameters,
        "flops": whole.flops,
        "runs_missing": sum(outcome is None for _, outcome in here),
        "diverged": diverged,
        "losses": {
            arm: {str(f): {str(s): x for s, x in by.items()} for f, by in found_.items()}
            for arm, found_ in losses.items()
        },
        "difference": difference.to_dict() if difference else None,
        "speedup": dataclasses.asdict(found) if found else None,
    }


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """The baseline's tokens (and FLOPs) over the recipe's at equal loss, with the ends of a 95 % interval.

    `bound` is `at least` if even the shortest horizon was as good as the baseline, and `below` if not even
    the whole run was as good on the mean (then `factor` is 1 and the truth is lower). An end of the
    interval is None if it lies beyond the measurement: `low` below 1, `high` above the shortest horizon's
    factor.
    """

    seeds: int
    factor: float
    low: float | None
    high: float | None
    bound: Literal["", "at least", "below"] = ""


def speedup(baseline: Losses, tuned: Mapping[float, Losses]) -> Speedup | None:
    """The speed-up from losses by seed (the recipe's also by fraction); None with fewer than two whole seeds.

    A seed counts if all its runs completed. The interval is Student's over the jackknife of the seeds, in
    log2 of the factor: the estimate is a crossing of means, not a mean of crossings. For the spread alone,
    the outer segments continue beyond the horizons: cut off there, all seeds would seem to agree.
    """
    seeds = [s for s in baseline if all(s in losses for losses in tuned.values())]
    if len(seeds) < 2:
        return None
    whole = _octaves(seeds, baseline, tuned)
    left_out = [_octaves([s for s in seeds if s != out], baseline, tuned) for out in seeds]
    n, most = len(seeds), -math.log2(min(tuned))
    if all(map(math.isfinite, [whole, *left_out])):
        reach = t_reach(n) * jackknife_error(left_out)
        low, high = whole - reach, whole + reach
    else:
        low, high = -math.inf, math.inf
    bound: Literal["", "at least", "below"] = ""
    if _mean(seeds, tuned[min(tuned)]) <= _mean(seeds, baseline):
        bound = "at least"
    elif whole < 0:
        bound = "below"
    return Speedup(
        seeds=n,
        factor=2 ** min(most, max(0.0, whole)),
        low=None if low < 0 else 2 ** min(most, low),
        high=None if high > most else 2 ** max(0.0, high),
        bound=bound,
    )


def _octaves(seeds: Sequence[int], baseline: Losses, tuned: Mapping[float, Losses]) -> float:
    """log2 of the factor at which the recipe's mean losses cross the baseline's.

    The recipe's losses are a piecewise line over log2 of the fraction.
    The first segment whose end is as good as the baseline counts, because one may stop there. Beyond the
    horizons, the first or last segment continues; infinite if that segment does not fall.
    """
    goal = _mean(seeds, baseline)
    points = [(math.log2(f), _mean(seeds, losses)) for f, losses in sorted(tuned.items())]
    segments = list(pairwise(points))
    beyond = points[0][1] <= goal
    if not segments:
        return math.inf if beyond else -math.inf
    met = (segment for segment in segments if segment[1][1] <= goal)
    (x0, y0), (x1, y1) = segments[0] if beyond else next(met, segments[-1])
    if y1 >= y0:
        return math.inf if beyond else -math.inf
    return -(x0 + (x1 - x0) * (y0 - goal) / (y0 - y1))


def _mean(seeds: Sequence[int], losses: Losses) -> float:
    return statistics.fmean(losses[s] for s in seeds)


def table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows for people."""
    columns = ["FLOPs", "width", "depth", "tokens", "baseline", "tuned", "difference", "speed-up"]
    return columns, [_shown(row) for row in document["rows"]]


def _shown(row: Mapping[str, Any]) -> list[str]:
    target, difference, found = row["target"], row["difference"], row["speedup"]
    arms = [row["losses"][arm].get("1.0", {}).values() for arm in ("baseline", "tuned")]
    means = [f"{statistics.fmean(losses):.4f}" if losses else "–" for losses in arms]
    change = speed = "–"
    if difference:
        change = f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
    if found:
        low = "under 1" if found["low"] is None else f"{found['low']:.2f}"
        high = "beyond" if found["high"] is None else f"{found['high']:.2f}"
        speed = {
            "": f"{found['factor']:.2f} [{low}, {high}]",
            "at least": f"at least {found['factor']:.2f} on the mean [{low}, {high}]",
            "below": "below 1" if difference and difference["low"] > 0 else "1 not reached",
        }[found["bound"]]
    lost = sum(row["diverged"].values())
    return [
        f"x {row['scale']:g} ({row['flops']:.3g})",
        f"{target['width']:,}",
        f"{target['depth']:,}",
        f"{target['tokens']:,}",
        *means,
        change,
        speed + (f" ({lost} diverged)" if lost else ""),
    ]


def read_document(path: Path) -> dict[str, Any]:
    """The content of a file that `report` made. Raises `UserError` for another file."""
    document = reading.read_object(path)
    if document.get("kind") != "speedup":
        raise UserError(f"{path}: not a file of `completedp speedup`; expected its speedup.json")
    return document
