"""The rungs of the ladder: the scales at which finalists are compared, and the number of seeds at each.

A study's own journal has its rungs, so that a later version climbs the same ones. Studies of earlier versions
have none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from completedp import reading
from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.models import external_model, parameter_count, training_flops
from completedp.reading import Field
from completedp.scale import BATCH_EXPONENT, Ratios
from search.scales import PROXY, at_scale, cost_at

# Multiples of a proxy run's FLOPs, and the number of finalists that are trained there. A step of 4 is the
# smallest that shows which way a gain goes. The most expensive rung compares only the best with the baseline.
TABLE = ((1, 3), (4, 3), (16, 2))
# A rung takes at most this share of the budget. It has two seeds at least, because a single one has no
# interval, and four at most: the search needs the runs more.
SHARE = Fraction(1, 5)
FEWEST_SEEDS, MOST_SEEDS = 2, 4
# Width and depth double or stay: every family of models can do that.
SHAPES = ((1, 1), (2, 1), (1, 2), (2, 2))


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung. `flops` is its nominal multiple of a proxy run's, `cost` the exact one."""

    flops: int
    finalists: int
    ratios: Ratios
    cost: Fraction

    def seeds(self, budget: int) -> int:
        """Number of fresh seeds for each finalist. 0 if the budget does not pay for enough."""
        paid = math.floor(SHARE * budget / (self.finalists * self.cost))
        return min(MOST_SEEDS, paid) if paid >= FEWEST_SEEDS else 0

    def runs(self, budget: int) -> int:
        return self.finalists * self.seeds(budget)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON types. A fraction is written as text, because a budget adds up exactly."""
        return {**dataclasses.asdict(self), "cost": str(self.cost)}


def ladder(rungs: Sequence[Rung], budget: int) -> list[Rung]:
    """The rungs that a budget pays for. The first one alone would say nothing about larger scales."""
    paid = [rung for rung in rungs if rung.seeds(budget)]
    return paid if len(paid) > 1 else []


def ladder_cost(rungs: Sequence[Rung], budget: int) -> Fraction:
    """The cost of the whole ladder, in proxy runs."""
    return sum((r.cost * r.runs(budget) for r in ladder(rungs, budget)), Fraction(0))


def rungs_of(config: StudyConfig) -> tuple[Rung, ...]:
    """The rungs of a study. None for an external model in the user's own loop, which knows no base model."""
    if config.train.loop and external_model(config.model) is not None:
        return ()
    found = []
    for flops, finalists in TABLE:
        ratios = PROXY if flops == 1 else _grown(config, flops)
        if ratios is not None:
            cost = cost_at(config, ratios)
            found.append(Rung(flops=flops, finalists=finalists, ratios=ratios, cost=cost))
    return tuple(found)


def _grown(config: StudyConfig, flops: int) -> Ratios | None:
    """The ratios of a run with `flops` times the FLOPs, whose tokens a parameter are nearest to the proxy's.

    None if the model can be grown in no way.
    """
    tokens = config.train.tokens
    paid = flops * training_flops(config.model, tokens)
    best: tuple[float, Ratios] | None = None
    for width, depth in SHAPES:
        try:
            model = at_scale(config, Ratios(width=width, depth=depth)).model
            more = paid / training_flops(model, tokens)
            growth = parameter_count(model) / parameter_count(config.model)
        except UserError:
            continue  # this family does not grow that way
        if more < 1:
            continue
        away = abs(math.log(more / growth))
        if best is None or away < best[0]:
            batch = more**BATCH_EXPONENT
            best = away, Ratios(width=width, depth=depth, batch=batch, tokens=more)
    return None if best is None else _whole(config, best[1])


def _whole(config: StudyConfig, wanted: Ratios) -> Ratios:
    """The ratios with the batch and the tokens of whole steps, as they are trained."""
    train = at_scale(config, wanted).train
    return dataclasses.replace(
        wanted,
        batch=train.batch / config.train.batch,
        tokens=train.steps * train.batch / config.train.tokens,
    )


def is_rungs(value: Any) -> bool:
    """Whether this is a journal's list of rungs."""
    return isinstance(value, list) and all(map(_is_rung, value))


def _is_rung(value: Any) -> bool:
    if not (
        isinstance(value, Mapping) and value.keys() == {f.name for f in dataclasses.fields(Rung)}
    ):
        return False
    counts = reading.is_count(value["flops"]) and reading.is_count(value["finalists"])
    return counts and isinstance(value["ratios"], Mapping) and isinstance(value["cost"], str)


RUNGS = Field(is_rungs, "a list of rungs, each with flops, finalists, ratios and cost")


def rung_from(record: Mapping[str, Any]) -> Rung:
    """A rung from the journal. Raises `UserError` for a number that no rung can have."""
    try:
        cost = Fraction(record["cost"])
        ratios = Ratios(**record["ratios"])
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise UserError(
            f"rungs: {record['ratios']}, cost {record['cost']!r}: no ratios, or no cost"
        ) from None
    if not (cost > 0 and record["finalists"] >= 1 and record["flops"] >= 1):
        raise UserError(f"rungs: cost {record['cost']}; expected numbers above 0")
    return Rung(flops=record["flops"], finalists=record["finalists"], ratios=ratios, cost=cost)
