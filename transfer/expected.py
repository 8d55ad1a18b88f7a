"""The gain to expect at a target, by the recipe's ladder, and the arm to plan there."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from completedp.models import training_flops
from completedp.recipe import Recipe

Arm = Literal["tuned", "baseline"]
# The redrawn laws' quantiles that an interval shows.
ENDS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The expected difference tuned - baseline at a target, in nats per token. A negative one is a gain.

    `mean` is the median of the redrawn laws, `low` and `high` are the ends of their 95 % interval. `beyond`
    is the target's FLOPs over those of the ladder's largest rung.
    """

    mean: float
    low: float
    high: float
    beyond: float

    @property
    def in_words(self) -> str:
        return (
            f"{self.mean:+.4f} nats [{self.low:+.4f}, {self.high:+.4f}] expected by the recipe's ladder, "
            f"{self.beyond:.3g} x the FLOPs of its largest rung"
        )


def expected(recipe: Recipe, flops: float) -> Expected | None:
    """The gain that a recipe's ladder lets one expect at `flops`. None without a ladder.

    Raises `UserError` for a damaged ladder, and `transfer.law.TooLittle` if too few of its runs completed.
    """
    if not has_ladder(recipe):
        return None
    from transfer import law

    rows = law.ladder_rows(recipe)
    data = law.measured(rows, "begin a study with a larger --budget")
    differences = sorted(
        d for one in law.redrawn(data) if (d := one.loss(1, flops) - one.loss(0, flops)) == d
    )
    low, high = (float(differences[round(end * (len(differences) - 1))]) for end in ENDS)
    return Expected(
        mean=float(statistics.median(differences)),
        low=low,
        high=high,
        beyond=flops / float(data.flops_S.max()),
    )


def has_ladder(recipe: Recipe) -> bool:
    """Whether a recipe has measured losses at several scales. A damaged ladder is one too."""
    ladder = recipe.provenance.get("ladder")
    return bool(ladder) and not (isinstance(ladder, Mapping) and ladder.get("rows") == [])


def better_arm(recipe: Recipe, flops: float) -> tuple[Arm, str]:
    """The arm that the ladder expects to be better at `flops`, and the reason in words.

    An arm that diverged on more of the ladder's runs is not planned. Without a ladder the tuned arm is.
    Raises `UserError` for a damaged ladder.
    """
    if not has_ladder(recipe):
        return (
            "tuned",
            f"the recipe has no ladder, so no gain is known there; {ladder_cost(recipe)}",
        )
    from transfer import law

    completed = {
        arm: sum(len(losses[arm]) for _, losses in law.ladder_rows(recipe)) for arm in law.ARMS
    }
    lost = completed["baseline"] - completed["tuned"]
    if lost > 0:
        return "baseline", f"the tuned values diverged on {lost} more of the ladder's runs"
    if lost < 0:
        return "tuned", f"the baseline diverged on {-lost} more of the ladder's runs"
    try:
        found = expected(recipe, flops)
    except law.TooLittle as error:
        return "tuned", f"the recipe's ladder tells nothing ({error})"
    if found is None:
        return (
            "tuned",
            f"the recipe has no ladder, so no gain is known there; {ladder_cost(recipe)}",
        )
    return "tuned" if found.mean < 0 else "baseline", found.in_words


def ladder_cost(recipe: Recipe) -> str:
    """The cost of a ladder for a recipe without one, in words."""
    flops = training_flops(recipe.model, recipe.train.tokens)
    return (
        "`completedp speedup --scales 1,4 --fractions 1` measures it at two scales: 30 proxy runs, "
        f"{30 * flops:.3g} FLOPs"
    )
