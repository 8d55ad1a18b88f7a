"""The transfer check: does a parameterization carry the learning rate (or the weight decay, or ε)?

It measures the optimum at several scales along one axis, and the loss that is lost by carrying the base's
optimum. At each scale the recipe's swept values are multiplied by the same factors; a factor of 1 is what the
parameterization carries. All runs are whole, on the same seeds at every factor, scale and parameterization.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast, get_args

from completedp import root_layout
from completedp.config import Schedule
from completedp.errors import UserError, named, nearest
from completedp.hparams import HParams
from completedp.recipe import Recipe
from completedp.rules import PARAMETERIZATIONS
from completedp.training.sweeps import Training
from transfer.expected import Arm
from transfer.measuring import setting as common
from transfer.measuring.optimum import FEWEST_FACTORS
from transfer.planning.planner import make_plan, values_of
from transfer.planning.target import Target, TargetRequest, target_for

AXES = ("width", "depth", "batch", "tokens")
# The values that can be swept, with the names that people use.
SWEPT = {"lr": "learning rate", "weight_decay": "weight decay", "eps": "ε"}
MEASUREMENT = root_layout.TRANSFER_CHECKS


@dataclass(frozen=True, kw_only=True)
class Setting(common.Setting):
    """The scales, factors and parameterizations whose optima are compared.

    `ratios` are target / base along `axis`, 1 (the base) among them. The other axes stay at the base, the
    tokens too if the axis is the batch: then the steps go down as the batch goes up. `factors` multiply
    every tensor's `swept` value. With the learning rate λ stays, so that a step's decay is multiplied too.
    `which` chooses the recipe's `tuned` values or its `baseline`. `schedule` replaces the recipe's. The
    first parameterization must know all the `options`; each other one takes those that it knows.
    """

    axis: str
    ratios: tuple[float, ...]
    factors: tuple[float, ...]
    parameterizations: tuple[str, ...]
    swept: str = "lr"
    which: str = "baseline"
    schedule: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {
            "axis": AXES,
            "swept": tuple(SWEPT),
            "which": get_args(Arm),
            "schedule": get_args(Schedule),
        }
        for name, values in known.items():
            if (value := getattr(self, name)) is not None and value not in values:
                raise UserError(f"unknown {name} {value!r}{nearest(value, values)}")
        for name, fewest in (("ratios", 2), ("factors", FEWEST_FACTORS)):
            expected = f"{fewest} or more finite numbers above 0"
            self.check(name, expected, lambda v: math.isfinite(v) and v > 0, fewest)
        if 1.0 not in self.ratios:
            raise UserError("ratios are without 1, the base; expected 1 among them")
        self.check("parameterizations", "one or more names", lambda name: True)
        for name in self.parameterizations:
            named(PARAMETERIZATIONS, name, "parameterization")

    def options_of(self, parameterization: str) -> dict[str, Any]:
        """The rule options that one of the parameterizations takes."""
        if parameterization == self.parameterizations[0]:
            return dict(self.options)
        known = {"alpha", "decay", *PARAMETERIZATIONS[parameterization].options}
        return {name: value for name, value in self.options.items() if name in known}


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """A training under a parameterization at a scale, every swept value times a factor."""

    parameterization: str
    ratio: float
    factor: float


def times(hparams: HParams, swept: str, factor: float) -> HParams:
    """The hyperparameters with every tensor's `swept` value multiplied by `factor`."""
    value = {swept: factor * getattr(hparams.global_, swept)}
    return dataclasses.replace(hparams, global_=dataclasses.replace(hparams.global_, **value))


def runs(recipe: Recipe, setting: Setting) -> list[Run]:
    """Every training of the setting, the lowest ratio first.

    Seeds are the outer loop of a scale and parameterization, so that an interrupted measurement has whole
    curves. At the base all parameterizations make the same jobs. Raises `UserError` for a ratio whose size
    the recipe's model, batch or data cannot have, for a value of 0 that no factor moves, and as `make_plan`
    does.
    """
    swept, axis = setting.swept, setting.axis
    hparams, train = values_of(recipe, setting.which), recipe.train
    if getattr(hparams.global_, swept) == 0:
        raise UserError(f"{swept} is 0 in the recipe, and 0 times a factor is 0: sweep another")
    if setting.schedule is not None:
        train = dataclasses.replace(train, schedule=cast(Schedule, setting.schedule))
    found = []
    for ratio in sorted(setting.ratios):
        target = _target(recipe, axis, ratio)
        for name in setting.parameterizations:
            plans = {
                factor: make_plan(
                    dataclasses.replace(recipe, hparams=times(hparams, swept, factor), train=train),
                    target.scale,
                    target.model,
                    parameterization=name,
                    **setting.options_of(name),
                )
                for factor in sorted(setting.factors)
            }
            found += [
                Run(
                    name=f"{name}, {axis} x {ratio:g}, {swept} x {factor:g}",
                    parameterization=name,
                    ratio=ratio,
                    factor=factor,
                    seed=seed,
                    plan=plan,
                )
                for seed in setting.seeds
                for factor, plan in plans.items()
            ]
    return found


def _target(recipe: Recipe, axis: str, ratio: float) -> Target:
    base = dataclasses.asdict(recipe.base)
    size = ratio * base[axis]
    whole = round(size)
    # Tokens are rounded to whole batches anyway.
    if axis != "tokens" and abs(size - whole) > 1e-6 * size:
        raise UserError(
            f"the {axis} ratio {ratio:g} gives {size:.6g}, the base's being {base[axis]}; expected a "
            "whole number"
        )
    return target_for(recipe, TargetRequest(**{**base, axis: whole}))
