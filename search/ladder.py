"""The ladder: finalists trained at growing scales, and who survives.

The finalists are the global arm's point, the per-module arm's point, and the point halfway between them. A
gain at the proxy may be a gain of the proxy alone. So the last rung, the largest scale, decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from completedp.runs.journal import TrialRecord
from completedp.stats import compare
from search.rungs import Rung
from search.study import Study

BASELINE, MODULE, HALF = FINALISTS = ("global", "module", "half")


def climbed(study: Study) -> Rung | None:
    """The first rung that still hands out trials. None if there is none."""
    return next((r for r in rungs(study) if len(study.rung(r.flops)) < r.runs(study.budget)), None)


def rungs(study: Study) -> list[Rung]:
    """The rungs that the study climbs. None without a per-module trial: there is nothing to compare."""
    return study.ladder if study.completed("module") else []


def survivors(study: Study, rung: Rung) -> tuple[str, ...] | None:
    """The finalists of a rung, the baseline first. None while the rung below is still being trained."""
    if rung.finalists >= len(FINALISTS):
        return FINALISTS
    below = [r for r in study.ladder if r.flops < rung.flops][-1]
    if any(t.status is None for t in study.rung(below.flops)):
        return None
    return BASELINE, _best(study.rung(below.flops))


def winner(study: Study) -> str | None:
    """The best finalist beside the baseline at the largest scale. None before a rung has ended."""
    for rung in reversed(study.ladder):
        trials = study.rung(rung.flops)
        if len(trials) == rung.runs(study.budget) and all(t.status is not None for t in trials):
            return _best(trials)
    return None


def _best(trials: Sequence[TrialRecord]) -> str:
    """The finalist beside the baseline with the lowest mean loss. A diverged run is the worst."""
    losses: dict[str, list[float]] = {}
    for t in trials:
        if (name := t.extra["finalist"]) != BASELINE:
            losses.setdefault(name, []).append(math.inf if t.loss is None else t.loss)
    return min(losses, key=lambda name: statistics.fmean(losses[name]))


def finalists_of(study: Study) -> dict[str, Mapping[str, float]]:
    """Finalist → values, for those that the current round has trained."""
    return {t.extra["finalist"]: t.values for t in study.judged}


def arms_of(study: Study) -> dict[str, Mapping[str, float]]:
    """Arm → values, by the ladder. Empty without one."""
    found, best = finalists_of(study), winner(study)
    return {} if best is None else {BASELINE: found[BASELINE], MODULE: found[best]}


def rows(study: Study) -> list[dict[str, Any]]:
    """The recipe's record of the ladder: by scale, both arms' losses by seed, and their difference."""
    best = winner(study)
    if best is None:
        return []
    found = []
    for rung in study.ladder:
        losses: dict[str, dict[int, float]] = {
            arm: {
                t.seed: t.loss
                for t in study.rung(rung.flops)
                if t.extra["finalist"] == name and t.loss is not None
            }
            for arm, name in (("baseline", BASELINE), ("tuned", best))
        }
        difference = compare(losses["baseline"], losses["tuned"])
        found.append(
            {
                "scale": rung.flops,
                "flops": round(rung.cost * study.proxy_flops),
                "losses": {arm: {str(s): x for s, x in by.items()} for arm, by in losses.items()},
                "difference": difference.to_dict() if difference else None,
            }
        )
    return found
