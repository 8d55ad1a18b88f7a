"""The end of a study: its recipe and its summary."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from completedp.recipe import Recipe
from completedp.runs.journal import TrialRecord
from completedp.stats import compare
from search.confirm import (
    ARMS,
    confirmed_arm,
    diverged_by_arm,
    losses_by_arm,
    values_by_arm,
    verdict,
)
from search.ladder import rows, winner
from search.space import Space
from search.study import Study

PARAMETERIZATION = "completed-p"


def build_recipe(study: Study) -> Recipe:
    """The recipe of a study whose confirmation has ended.

    The recipe holds the per-module configuration if `confirmed_arm` chooses it. Otherwise it holds the global
    one in both places, and `provenance.chosen` says so. `provenance.ladder` has the losses of both arms by
    scale, which tell what a plan at a target may expect.
    """
    config = study.spec.config
    space = Space.from_config(config)
    values = values_by_arm(study.confirmations)
    losses = losses_by_arm(study.confirmations)
    chosen, confirmed = _judged(study.confirmations)
    if "module" not in values:
        confirmed["verdict"] = "nothing to compare: no per-module trial completed"
    judged = (_judged(study.confirmations_of(number)) for number in range(study.round))
    # A reader should see if the budget was raised until there was a gain. A round may have confirmed nothing.
    earlier = [found for _, found in judged if found]
    provenance: dict[str, Any] = {
        "chosen": chosen,
        "finalist": winner(study),
        "budget": study.budget,
        "strategy": config.search.strategy,
        "search": {
            "global_share": config.search.global_share,
            "frozen": list(config.search.frozen),
            "coordinates": len(space.coordinates),
            "outcomes": outcome_counts(study),
        },
        "seeds": {
            "study": study.spec.seed,
            "search": sorted({t.seed for t in study.searched}),
            "confirm": sorted({t.seed for t in study.confirmations}),
        },
        "data": dict(study.spec.data),
        "confirmed": {
            **{arm: arm_summary(by_seed) for arm, by_seed in losses.items() if by_seed},
            **confirmed,
            **({"earlier_rounds": earlier} if earlier else {}),
            "unit": "nats per token, report split",
        },
        "ladder": {"rows": rows(study), "unit": "nats per token, select split"},
        "versions": dict(study.spec.versions),
    }
    return Recipe(
        parameterization=PARAMETERIZATION,
        model=config.model,
        data=config.data,
        train=config.train,
        hparams=space.to_hparams(values[chosen]),
        baseline=space.to_hparams(values["global"]),
        provenance=provenance,
    )


def _judged(trials: Sequence[TrialRecord]) -> tuple[str, dict[str, Any]]:
    """The arm that a round's confirmation chooses, and its figures. They are empty without trials."""
    if not trials:
        return "global", {}
    losses, diverged = losses_by_arm(trials), diverged_by_arm(trials)
    comparison = compare(losses["global"], losses["module"])
    return confirmed_arm(comparison, diverged), {
        "difference": comparison.to_dict() if comparison else None,
        "diverged": diverged,
        "verdict": verdict(comparison, diverged),
    }


def arm_summary(by_seed: dict[int, float]) -> dict[str, Any]:
    """Mean, spread and losses by seed of one confirmed arm, in nats per token."""
    values = list(by_seed.values())
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": spread,
        "losses": {str(seed): loss for seed, loss in by_seed.items()},
    }


def outcome_counts(study: Study) -> dict[str, int]:
    """Number of the study's runs by status."""
    counts = Counter(trial.status or "pending" for trial in study.trials.values())
    return dict(sorted(counts.items()))


def summarize(study: Study, recipe: Recipe) -> dict[str, Any]:
    """The summary of a finished study, as plain JSON types."""
    confirmed = recipe.provenance["confirmed"]
    bytes_per_token = study.spec.data["bytes_per_token"]["report"]
    return {
        "study": study.spec.name,
        "budget": study.budget,
        "outcomes": outcome_counts(study),
        "diverged": [
            {"trial": t.trial, "phase": t.phase, "step": t.steps, "reason": t.reason}
            for t in study.trials.values()
            if t.status == "diverged"
        ],
        "chosen": recipe.provenance["chosen"],
        "finalist": recipe.provenance["finalist"],
        "ladder": [
            {"scale": row["scale"], "difference": row["difference"]}
            for row in recipe.provenance["ladder"]["rows"]
        ],
        "confirmed": confirmed,
        "bits_per_byte": None
        if bytes_per_token is None
        else {
            arm: confirmed[arm]["mean"] / math.log(2) / bytes_per_token
            for arm in ARMS
            if arm in confirmed
        },
        "largest_multipliers": largest_multipliers(recipe),
    }


def largest_multipliers(recipe: Recipe, count: int = 8) -> list[dict[str, Any]]:
    """The module-type multipliers furthest from 1."""
    rows = [
        {"kind": kind, "type": name, "multiplier": multiplier}
        for kind, by_type in recipe.hparams.types.items()
        for name, multiplier in by_type.items()
    ]
    rows.sort(key=lambda row: -abs(math.log(float(row["multiplier"]))))  # type: ignore[arg-type]
    return rows[:count]
