"""Whether a parameterisation carries the learning rate (or the weight decay, or ε): where its optimum stands
at several scales along one axis, and the loss that is lost by carrying the base's.

At each scale every learning rate of the recipe is multiplied by the same factors; a factor of 1 is what the
parameterisation carries. Whole runs, on the same seeds at every factor, scale and parameterisation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from completedp import root_layout
from completedp.config import Schedule
from completedp.errors import UserError, named, nearest
from completedp.hparams import HParams
from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.rules import PARAMETERIZATIONS
from transfer.measuring.optimum import FEWEST_FACTORS
from transfer.measuring.speedup import Arm
from transfer.planning.planner import make_plan
from transfer.planning.target import Target, TargetRequest, target_for

AXES = ("width", "depth", "batch", "tokens")
# What can be swept, and what people call it.
SWEPT = {"lr": "learning rate", "weight_decay": "weight decay", "eps": "ε"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured. `ratios`: target / base along `axis`, the others as at the base (tokens too where
    the axis is the batch, so that steps go down as it goes up); 1, the base, among them. `factors`: on every
    tensor's `swept` value; with the learning rate λ stays, so that a step's decay goes with them. `which`:
    the recipe's `tuned` values or its `baseline`. `schedule`: in place of the recipe's. `options`: rule
    options; the first parameterisation must know them all, the others take those they know."""

    axis: str
    ratios: tuple[float, ...]
    factors: tuple[float, ...]
    seeds: tuple[int, ...]
    parameterizations: tuple[str, ...]
    swept: str = "lr"
    which: str = "baseline"
    schedule: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {
            "axis": AXES,
            "swept": tuple(SWEPT),
            "which": get_args(Arm),
            "schedule": get_args(Schedule),
        }
        for name, values in known.items():
            if (value := getattr(self, name)) is not None and value not in values:
                raise UserError(f"unknown {name} {value!r}{nearest(value, values)}")
        for name in ("ratios", "factors"):
            values = getattr(self, name)
            said = ", ".join(f"{value:g}" for value in values) or "none"
            if not all(math.isfinite(v) and v > 0 for v in values):
                raise UserError(f"{name} are {said}; expected finite numbers above 0")
            if len(set(values)) < len(values):
                raise UserError(f"{name} are {said}; expected each once")
            if name == "ratios" and (1.0 not in values or len(values) < 2):
                raise UserError(f"ratios are {said}; expected 1, the base, and one or more others")
            if name == "factors" and len(values) < FEWEST_FACTORS:
                raise UserError(f"factors are {said}; expected {FEWEST_FACTORS} or more")
        names = self.parameterizations
        if not names or len(set(names)) < len(names):
            said = ", ".join(names) or "none"
            raise UserError(f"parameterizations are {said}; expected one or more, each once")
        for name in names:
            named(PARAMETERIZATIONS, name, "parameterization")
        if len(self.seeds) < 2:
            raise UserError("one seed is given; expected two or more: one has no interval")

    def options_of(self, parameterization: str) -> dict[str, Any]:
        """Those of the rule options that it is given."""
        if parameterization == self.parameterizations[0]:
            return dict(self.options)
        known = PARAMETERIZATIONS.get(parameterization)
        own = {"alpha", "decay", *(known.options if known else ())}
        return {name: value for name, value in self.options.items() if name in own}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: a parameterisation at a scale, every swept value times a factor."""

    parameterization: str
    axis: str
    ratio: float
    factor: float
    seed: int
    swept: str
    plan: Plan

    @property
    def name(self) -> str:
        """For people, without the seed."""
        return (
            f"{self.parameterization}, {self.axis} x {self.ratio:g}, {self.swept} x {self.factor:g}"
        )


def times(hparams: HParams, swept: str, factor: float) -> HParams:
    """The same with every tensor's `swept` value times a factor."""
    value = factor * getattr(hparams.global_, swept)
    return dataclasses.replace(
        hparams, global_=dataclasses.replace(hparams.global_, **{swept: value})
    )


def runs(recipe: Recipe, setting: Setting) -> list[Run]:
    """Every training that the setting asks for, the lowest ratio first; seeds are the outer loop of a scale
    and parameterisation, so that an interrupted measurement holds whole curves.

    Raises `UserError` for a ratio whose size the recipe's model, batch or data cannot have, a value of 0 that
    no factor moves, and as `make_plan` does. At the base all parameterisations are one, and so are their
    jobs.
    """
    hparams = recipe.hparams if setting.which == "tuned" else recipe.baseline
    if getattr(hparams.global_, setting.swept) == 0:
        raise UserError(
            f"{setting.swept} is 0 in the recipe, and 0 times a factor is 0: sweep another"
        )
    found = []
    for ratio in sorted(setting.ratios):
        target = _target(recipe, setting.axis, ratio)
        for name in setting.parameterizations:
            plans = list(_plans(recipe, target, name, setting))
            found += [
                Run(
                    parameterization=name,
                    axis=setting.axis,
                    ratio=ratio,
                    factor=factor,
                    seed=seed,
                    swept=setting.swept,
                    plan=plan,
                )
                for seed in setting.seeds
                for factor, plan in plans
            ]
    return found


def _target(recipe: Recipe, axis: str, ratio: float) -> Target:
    base = dataclasses.asdict(recipe.base)
    size = ratio * base[axis]
    whole = round(size)
    if axis != "tokens" and abs(size - whole) > 1e-6 * size:  # tokens are rounded to whole batches
        raise UserError(
            f"the {axis} ratio {ratio:g} gives {size:.6g}, the base's being {base[axis]}; expected a "
            "whole number"
        )
    return target_for(recipe, TargetRequest(**{**base, axis: whole}))


def _plans(
    recipe: Recipe, target: Target, parameterization: str, setting: Setting
) -> Iterator[tuple[float, Plan]]:
    hparams = recipe.hparams if setting.which == "tuned" else recipe.baseline
    train = recipe.train
    if setting.schedule is not None:
        train = dataclasses.replace(train, schedule=cast(Schedule, setting.schedule))
    for factor in sorted(setting.factors):
        yield (
            factor,
            make_plan(
                dataclasses.replace(
                    recipe, hparams=times(hparams, setting.swept, factor), train=train
                ),
                target.scale,
                target.model,
                parameterization=parameterization,
                **setting.options_of(parameterization),
            ),
        )


def runs_folder(root: Path, recipe: Path) -> Path:
    """Where a recipe's runs are kept: by the name of its study."""
    return root_layout.transfer_checks(root, recipe)
