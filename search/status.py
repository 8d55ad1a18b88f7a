"""The state of a study in numbers. `status --json` prints them, and displays put them into words."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from completedp.stats import compare
from search.confirm import losses_by_arm
from search.phases import current_phase
from search.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """Runs by state, the phase that spends the budget, and the incumbents. Losses are in nats per token.

    `budget`, `spent`, `stage_done` and `stage_runs` are in proxy runs. `spent` is the cost of the trials that
    have ended. `unfinished` trials have begun and not ended. `stage` is a phase, `done` or `stuck`: no global
    trial completed, so there is nothing to go on from. `stage_done` is the cost of the phase's trials, and
    `stage_runs` its part of the budget. `best` holds the incumbents (select split). `confirmed` is the
    difference per module - global on fresh paired seeds (report split). `lead` is the same difference on the
    search's own seed (select split). `scatter` is the standard deviation of the better half of the global
    trials. It overstates the uncertainty, because these trials differ in more than noise.
    """

    budget: int
    done: int
    spent: float
    unfinished: int
    completed: int
    diverged: int
    stopped: int
    set_aside: int
    stage: str
    stage_done: float
    stage_runs: float
    best: dict[str, dict[str, Any]]
    confirmed: dict[str, Any] | None
    lead: float | None
    scatter: float | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return dataclasses.asdict(self)


def status_of(study: Study) -> StudyStatus:
    """The state of a study, from its journal alone."""
    trials = study.ended
    count = {
        status: sum(t.status == status for t in trials)
        for status in ("completed", "diverged", "stopped", "set_aside")
    }
    best = {arm: found for arm in ("global", "module") if (found := study.best(arm)) is not None}
    lead = scatter = None
    if len(best) == 2:
        losses = {arm: record.loss for arm, record in best.items()}
        assert losses["global"] is not None
        assert losses["module"] is not None
        lead = losses["module"] - losses["global"]
        finished = sorted(t.loss for t in study.completed("global") if t.loss is not None)
        better = finished[: max(2, len(finished) // 2)]
        scatter = statistics.stdev(better) if len(better) > 1 else None
    fresh = losses_by_arm(study.confirmations)
    confirmed = compare(fresh["global"], fresh["module"])
    stage, stage_done, stage_runs = _stage(study)
    return StudyStatus(
        budget=study.budget,
        done=len(trials),
        spent=_number(study.cost(trials)),
        unfinished=len(study.pending),
        **count,
        stage=stage,
        stage_done=_number(stage_done),
        stage_runs=_number(stage_runs),
        best={arm: {"loss": record.loss, "trial": record.trial} for arm, record in best.items()},
        confirmed=None if confirmed is None else confirmed.to_dict(),
        lead=lead,
        scatter=scatter,
    )


def _stage(study: Study) -> tuple[str, Fraction, Fraction]:
    """The stage, the cost of its trials, and its part of the budget."""
    if study.done:
        return "done", Fraction(study.budget), Fraction(study.budget)
    phase = current_phase(study)
    tried = study.of_phase("global")
    if (
        phase.name != "global"
        and study.best("global") is None
        and not any(t.status is None for t in tried)
    ):
        return "stuck", study.cost(tried), Fraction(study.global_limit)
    rounds = {"ladder": study.judged, "confirm": study.confirmations}
    trials = rounds.get(phase.name, study.of_phase(phase.name))
    return phase.name, study.cost(trials), phase.runs(study)


def _number(cost: Fraction) -> float:
    """An `int` if the cost is whole, as it is without trials at other scales."""
    return int(cost) if cost.denominator == 1 else float(cost)
