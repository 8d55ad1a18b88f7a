"""The report of a transfer check: optima, the loss lost by carrying, the exponent, and the verdict.

The loss lost at a scale is the fitted loss at the base's best learning rate, carried, minus the fitted loss
at the scale's own best. A user who tunes at the base and trusts the rule pays it. The optimum's move is not
the measure: if the loss is flat, a move costs nothing. The losses come from the fit, because the lowest of
several noisy means is the luckiest and lies below the truth.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.rules import PARAMETERIZATIONS
from completedp.runs.job import Outcome
from transfer.measuring.optimum import (
    FEWEST_FACTORS,
    WINDOW,
    Sweep,
    Vector,
    estimate,
    shares,
    slope,
)
from transfer.measuring.transfer_check import SWEPT, Run, Setting
from transfer.planning.planner import values_of

MOST_LOST = 0.003  # as a share of the loss
MOST_MOVED = 0.5  # octaves


def report(
    recipe: Recipe, setting: Setting, wanted: Sequence[Run], outcomes: Mapping[int, Outcome]
) -> dict[str, Any]:
    """The measurement as plain JSON: a row per scale and parameterization, with every loss.

    `outcomes` are by the run's place in `wanted`. `verdict` is None while runs are missing.
    """
    parts = [_part(setting, name, wanted, outcomes) for name in setting.parameterizations]
    missing = sum(row["runs_missing"] for part in parts for row in part["rows"])
    return {
        "schema": 1,
        "kind": "transfer-check",
        "recipe_digest": recipe.digest,
        "which": setting.which,
        "swept": setting.swept,
        "value": getattr(values_of(recipe, setting.which).global_, setting.swept),
        "schedule": wanted[0].plan.train.schedule,
        "axis": setting.axis,
        "ratios": sorted(setting.ratios),
        "factors": sorted(setting.factors),
        "seeds": list(setting.seeds),
        "options": dict(setting.options),
        "window_octaves": WINDOW,
        "parameterizations": parts,
        "verdict": None if missing else verdict(setting, parts[0]["rows"]),
    }


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A scale under a parameterization: the losses of completed runs by factor and seed."""

    plan: Plan
    seeds: Sequence[int]
    losses: Mapping[float, Mapping[int, float]]
    diverged: Mapping[float, int]
    missing: int

    @classmethod
    def of(cls, setting: Setting, here: Sequence[tuple[Run, Outcome | None]]) -> _Cell:
        losses: dict[float, dict[int, float]] = {factor: {} for factor in sorted(setting.factors)}
        diverged = dict.fromkeys(losses, 0)
        for run, outcome in here:
            if outcome is not None and outcome.loss is not None:
                losses[run.factor][run.seed] = outcome.loss
            elif outcome is not None:
                diverged[run.factor] += 1
        return cls(
            plan=here[0][0].plan,
            seeds=setting.seeds,
            losses=losses,
            diverged=diverged,
            missing=sum(outcome is None for _, outcome in here),
        )

    @cached_property
    def candidates(self) -> list[float]:
        """The factors for the optimum: the neighbors of the lowest mean that have a loss of every seed.

        They end at the first factor without one: no curve is drawn over diverged runs.
        """
        n = len(self.seeds)
        whole = {f: statistics.fmean(x.values()) for f, x in self.losses.items() if len(x) == n}
        if not whole:
            return []
        lowest, runs = min(whole, key=whole.__getitem__), groupby(self.losses, whole.__contains__)
        return next(run for run in (list(run) for _, run in runs) if lowest in run)

    @cached_property
    def sweep(self) -> Sweep | None:
        """The sweep over the candidates; None if they are too few for a parabola."""
        if len(self.candidates) < FEWEST_FACTORS:
            return None
        loss_SF = np.array([[self.losses[f][seed] for f in self.candidates] for seed in self.seeds])
        return Sweep(octave_F=np.log2(self.candidates), mean_RF=shares(self.seeds) @ loss_SF)

    def reaches(self, octave: float) -> bool:
        """Whether the factors on both sides of `octave` are candidates."""
        factors = list(self.losses)
        after = int(np.searchsorted(np.log2(factors), octave))
        after = min(max(after, 1), len(factors) - 1)
        return set(factors[after - 1 : after + 1]) <= set(self.candidates)

    def estimate(self, value_R: Vector) -> dict[str, float | None] | None:
        """The estimate as plain JSON."""
        found = estimate(value_R, len(self.seeds))
        return None if found is None else dataclasses.asdict(found)


@np.errstate(invalid="ignore")
def _part(
    setting: Setting, name: str, wanted: Sequence[Run], outcomes: Mapping[int, Outcome]
) -> dict[str, Any]:
    """A parameterization's rows by ratio, and its exponents."""
    here = [(r, outcomes.get(i)) for i, r in enumerate(wanted) if r.parameterization == name]
    cells = {
        ratio: _Cell.of(setting, [(run, outcome) for run, outcome in here if run.ratio == ratio])
        for ratio in sorted(setting.ratios)
    }
    base = cells[1.0]
    return {
        "parameterization": name,
        "options": dataclasses.asdict(base.plan.options),
        **_exponents(setting, base, list(cells.values())),
        "rows": [{"ratio": ratio, **_row(cell, base.sweep)} for ratio, cell in cells.items()],
    }


def _exponents(setting: Setting, base: _Cell, cells: Sequence[_Cell]) -> dict[str, Any]:
    """`exponent`: the best factor on the carried values grows with this power of the axis' ratio.

    It is 0 if the rule is right, and None unless every scale has an optimum. A sweep of the learning rate
    along the tokens also has `duration_exponent`: the p of a best learning rate ∝ m_D^-p at a fixed batch.
    It is the rule's own p (0 without one) minus that power; under Complete(d)P, β, ε and λ have moved with
    q at the rule's own p.
    """
    axis, optimum_KR = setting.axis, [cell.sweep.optimum_R for cell in cells if cell.sweep]
    power = None
    if len(optimum_KR) == len(cells):
        ratios = [getattr(cell.plan.ratios, axis) for cell in cells]
        power = base.estimate(slope(ratios, optimum_KR))
    exponents: dict[str, Any] = {"exponent": power}
    if axis == "tokens" and setting.swept == "lr":
        known = axis in PARAMETERIZATIONS[base.plan.parameterization].axes
        rule = base.plan.options.duration_exponent if known else 0.0
        ends = {"value": "value", "low": "high", "high": "low"}
        fitted = power and {
            end: None if (x := power[other]) is None else rule - x for end, other in ends.items()
        }
        exponents["duration_exponent"] = {"rule": rule, "fitted": fitted}
    return exponents


def _row(cell: _Cell, base: Sweep | None) -> dict[str, Any]:
    """A scale's losses and optimum, and the loss lost by carrying the optimum of `base`.

    An optimum's `place` is `inside` the grid, `low edge` or `high edge` (there or beyond), or `unclear`.
    """
    plan, here = cell.plan, cell.sweep
    optimum = moved = carried = None
    if here is not None:
        inside = here.place == "inside"
        optimum = {
            "place": here.place,
            "octaves": cell.estimate(here.optimum_R),
            "loss": float(here.loss_R(here.optimum_R)[0]) if inside else None,
            "parabola": here.parabola if inside else None,
        }
    if here is not None and base is not None and base.place == "inside":
        moved = cell.estimate(here.optimum_R - base.optimum_R)
        if cell.reaches(float(base.optimum_R[0])):
            carried = _carried(cell, here, base.optimum_R)
    return {
        "target": dataclasses.asdict(plan.scale),
        "parameters": plan.parameters,
        "flops": plan.flops,
        "runs_missing": cell.missing,
        "diverged": {f"{factor:g}": n for factor, n in cell.diverged.items() if n},
        "losses": {
            f"{factor:g}": {str(seed): loss for seed, loss in by_seed.items()}
            for factor, by_seed in cell.losses.items()
        },
        "optimum": optimum,
        "candidates": cell.candidates,
        "moved": moved,
        "carried": carried,
    }


def _carried(cell: _Cell, here: Sweep, octave_R: Vector) -> dict[str, Any]:
    """The losses at the base's optimum, carried, in nats per token; `lost_percent` in percent of the loss.

    `lost_to_edge` is given if the scale's own optimum lies at or beyond an edge: the mean loss minus the
    lowest mean of the grid, a lucky one. `seed_spread` is the standard deviation over seeds at the nearest
    factor.
    """
    loss_R, least_R = here.loss_R(octave_R), here.loss_R(here.optimum_R)
    at_edge = here.place in ("low edge", "high edge")
    nearest = cell.candidates[int(here.nearest(octave_R[:1])[0])]
    return {
        "octaves": float(octave_R[0]),
        "loss": float(loss_R[0]),
        "lost": cell.estimate(loss_R - least_R),
        "lost_percent": cell.estimate(100 * loss_R / least_R - 100),
        "lost_to_edge": max(0.0, float(loss_R[0]) - here.lowest) if at_edge else None,
        "seed_spread": statistics.stdev(cell.losses[nearest].values()),
    }


def verdict(setting: Setting, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the rule carries the swept value, with the reasons why not, from one parameterization's rows.

    It does if the base's optimum is inside the grid and every other scale passes. A scale passes if the
    loss lost is at most `MOST_LOST` of the loss at its own optimum or at most one seed's spread, or if the
    optimum has moved by at most `MOST_MOVED` octaves. It fails if its own optimum is not inside the grid,
    or if runs diverge beside the carried value. Estimates decide, not the ends of their intervals: a wide
    interval proves nothing.
    """
    base = next(row for row in rows if row["ratio"] == 1)
    if why := _no_optimum(base):
        reasons = [f"at the base {why}"]
    else:
        refused = (
            (row["ratio"], _refused(row, SWEPT[setting.swept])) for row in rows if row["ratio"] != 1
        )
        reasons = [f"{setting.axis} x {ratio:g}: {why}" for ratio, why in refused if why]
    return {"carries": not reasons, "reasons": reasons}


def _no_optimum(row: Mapping[str, Any]) -> str:
    """The reason why a scale has no optimum; empty if it has one."""
    if row["optimum"] is None:
        return (
            f"fewer than {FEWEST_FACTORS} factors side by side are without a diverged run: give other "
            "--factors"
        )
    place, first, last = row["optimum"]["place"], row["candidates"][0], row["candidates"][-1]
    lost = [float(factor) for factor in row["diverged"]]
    edges = {
        "high edge": (last, min((f for f in lost if f > last), default=None)),
        "low edge": (first, max((f for f in lost if f < first), default=None)),
    }
    inner, diverging = edges.get(place, (None, None))
    if diverging is not None:
        return (
            f"the optimum is at factor {inner:g} or between it and {diverging:g}, where runs diverge: give "
            "--factors between them"
        )
    return {
        "inside": "",
        "low edge": "the optimum is at the lowest factor or below: give lower --factors",
        "high edge": "the optimum is at the highest factor or above: give higher --factors",
        "unclear": "the losses show no single optimum: give more --seeds or a wider range of --factors",
    }[place]


def _refused(row: Mapping[str, Any], what: str) -> str:
    """The reason why a scale does not pass; empty if it does."""
    carried = row["carried"]
    if carried is None and row["optimum"] is not None:
        return f"runs diverge beside the {what} that is carried"
    if why := _no_optimum(row):
        to_edge = carried and carried["lost_to_edge"]
        return f"{why}; to that edge carrying loses {to_edge:.4f} on the mean" if to_edge else why
    lost, moved = carried["lost"]["value"], row["moved"]["value"]
    allowed = max(MOST_LOST * row["optimum"]["loss"], carried["seed_spread"])
    if lost <= allowed or abs(moved) <= MOST_MOVED:
        return ""
    return (
        f"{lost:.4f} ({carried['lost_percent']['value']:.2f} %) is lost by carrying, where a seed's spread "
        f"is {carried['seed_spread']:.4f}, and the optimum has moved by {moved:+.2f} octaves"
    )
