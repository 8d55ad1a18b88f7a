"""Where a study stands, in numbers: what `status --json` prints, and what displays put into words."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any, Literal

from completedp.stats import compare
from search.confirm import losses_by_arm
from search.study import Study, confirmation_runs

Stage = Literal["global", "module", "confirm", "done", "stuck"]


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """Runs by state, the part of the budget that is being spent, and the incumbents (select split, nats).

    `unfinished`: begun and not ended, at work or interrupted.
    `stage`: `stuck` where no global trial completed, so that there is nothing to go on from. `stage_done` of
    `stage_runs`: its trials so far. `confirmed`: the difference per module less global on fresh paired seeds.
    `lead`: the same of the search's own one seed; `scatter` the standard deviation of the better half of the
    global trials, which differ in more than noise, so it overstates the uncertainty.
    """

    budget: int
    done: int
    unfinished: int
    completed: int
    diverged: int
    stopped: int
    set_aside: int
    stage: Stage
    stage_done: int
    stage_runs: int
    best: dict[str, dict[str, Any]]
    confirmed: dict[str, Any] | None
    lead: float | None
    scatter: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return dataclasses.asdict(self)


def standing(study: Study) -> StudyStatus:
    """Of the journal alone."""
    trials = list(study.trials.values())
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
        finished = sorted(t.loss for t in study.of_phase("global") if t.loss is not None)
        better = finished[: max(2, len(finished) // 2)]
        scatter = statistics.stdev(better) if len(better) > 1 else None
    fresh = losses_by_arm(study.confirmations)
    confirmed = compare(fresh["global"], fresh["module"])
    stage, stage_done, stage_runs = _stage(study)
    return StudyStatus(
        budget=study.budget,
        done=sum(count.values()),
        unfinished=len(study.pending),
        **count,
        stage=stage,
        stage_done=stage_done,
        stage_runs=stage_runs,
        best={arm: {"loss": record.loss, "trial": record.trial} for arm, record in best.items()},
        confirmed=None if confirmed is None else confirmed.to_dict(),
        lead=lead,
        scatter=scatter,
    )


def _stage(study: Study) -> tuple[Stage, int, int]:
    if study.done:
        return "done", study.budget, study.budget
    tried, per_module = study.of_phase("global"), study.of_phase("module")
    if not study.search_proposed and study.next_phase == "global":
        return "global", len(tried), study.global_limit
    if study.best("global") is None and all(trial.status is not None for trial in tried):
        return "stuck", len(tried), study.global_limit
    if study.search_proposed:
        return "confirm", len(study.confirmations), confirmation_runs(study.budget)
    return "module", len(per_module), study.search_limit - study.global_limit
