"""The honest end of a study: the recipe, and what to say of it."""

from __future__ import annotations

import math
import statistics
from typing import Any

from completedp.recipe import Recipe
from completedp.seeds import derive_seed
from completedp.stats import compare
from search.confirm import ARMS, confirmed_arm, diverged_by_arm, losses_by_arm, verdict
from search.space import Space
from search.study import Study

PARAMETERIZATION = "completed-p"


def build_recipe(study: Study) -> Recipe:
    """The recipe of a study whose confirmation has ended.

    Holds the per-module configuration if it is confirmed (`confirmed_arm`). Else the global one stands in
    both places, as `provenance.chosen` says.
    """
    config = study.spec.config
    space = Space.from_config(config)
    best = {arm: study.best(arm) for arm in ARMS}
    baseline = best["global"]
    assert baseline is not None, "a study without a global incumbent does not confirm"
    losses = losses_by_arm(study.confirmations)
    comparison = compare(losses["global"], losses["module"])
    diverged = diverged_by_arm(study.confirmations)
    tuned = best[confirmed_arm(comparison, diverged)] or baseline
    provenance: dict[str, Any] = {
        "chosen": tuned.phase,
        "trials": {"global": baseline.trial, "chosen": tuned.trial},
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
            "search": derive_seed(study.spec.seed, "search"),
            "confirm": sorted({t.seed for t in study.confirmations}),
        },
        "data": dict(study.spec.data),
        "confirmed": {
            **{arm: arm_summary(by_seed) for arm, by_seed in losses.items() if by_seed},
            "difference": comparison.to_dict() if comparison else None,
            "diverged": diverged,
            "verdict": verdict(comparison, diverged)
            if best["module"]
            else "nothing to compare: no per-module trial completed",
            **_earlier(study),
            "unit": "nats per token, report split",
        },
        "versions": dict(study.spec.versions),
    }
    return Recipe(
        parameterization=PARAMETERIZATION,
        model=config.model,
        data=config.data,
        train=config.train,
        hparams=space.to_hparams(tuned.values),
        baseline=space.to_hparams(baseline.values),
        provenance=provenance,
    )


def _earlier(study: Study) -> dict[str, Any]:
    """What was confirmed before the budget was raised, where it was: who raises until there is a gain should
    be seen to."""
    rounds = []
    for number in range(study.round):
        trials = study.confirmations_of(number)
        if not trials:
            continue  # raised before anything was confirmed
        losses = losses_by_arm(trials)
        comparison, diverged = compare(losses["global"], losses["module"]), diverged_by_arm(trials)
        rounds.append(
            {
                "difference": comparison.to_dict() if comparison else None,
                "diverged": diverged,
                "verdict": verdict(comparison, diverged),
            }
        )
    return {"earlier_rounds": rounds} if rounds else {}


def arm_summary(by_seed: dict[int, float]) -> dict[str, Any]:
    """Mean, spread and the losses by seed of one confirmed arm."""
    values = list(by_seed.values())
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": statistics.fmean(values),
        "standard_deviation": spread,
        "losses": {str(seed): loss for seed, loss in by_seed.items()},
    }


def outcome_counts(study: Study) -> dict[str, int]:
    """How the study's runs ended, by status."""
    counts: dict[str, int] = {}
    for trial in study.trials.values():
        status = trial.status or "pending"
        counts[status] = counts.get(status, 0) + 1
    return dict(sorted(counts.items()))


def summarize(study: Study, recipe: Recipe) -> dict[str, Any]:
    """What a person or a program wants to know of a finished study."""
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
    """The module-type multipliers furthest from 1, for the reader's eye."""
    rows = [
        {"kind": kind, "type": name, "multiplier": multiplier}
        for kind, by_type in recipe.hparams.types.items()
        for name, multiplier in by_type.items()
    ]
    rows.sort(key=lambda row: -abs(math.log(float(row["multiplier"]))))  # type: ignore[arg-type]
    return rows[:count]
