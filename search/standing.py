"""Where a study stands, in numbers: what `status --json` prints, and what displays put into words."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any, Literal

from completedp.paired import compare
from search.confirm import losses_by_arm
from search.ledger import Ledger, confirmation_runs

Stage = Literal["global", "module", "confirm", "done", "stuck"]


@dataclass(frozen=True, kw_only=True)
class Standing:
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


def standing(ledger: Ledger) -> Standing:
    """Of the journal alone."""
    trials = list(ledger.trials.values())
    count = {
        status: sum(t.status == status for t in trials)
        for status in ("completed", "diverged", "stopped", "set_aside")
    }
    best = {arm: found for arm in ("global", "module") if (found := ledger.best(arm)) is not None}
    lead = scatter = None
    if len(best) == 2:
        losses = {arm: record.loss for arm, record in best.items()}
        assert losses["global"] is not None
        assert losses["module"] is not None
        lead = losses["module"] - losses["global"]
        finished = sorted(t.loss for t in ledger.of_phase("global") if t.loss is not None)
        better = finished[: max(2, len(finished) // 2)]
        scatter = statistics.stdev(better) if len(better) > 1 else None
    fresh = losses_by_arm(ledger.confirmations)
    confirmed = compare(fresh["global"], fresh["module"])
    stage, stage_done, stage_runs = _stage(ledger)
    return Standing(
        budget=ledger.budget,
        done=sum(count.values()),
        unfinished=len(ledger.pending),
        **count,
        stage=stage,
        stage_done=stage_done,
        stage_runs=stage_runs,
        best={arm: {"loss": record.loss, "trial": record.trial} for arm, record in best.items()},
        confirmed=None if confirmed is None else confirmed.to_dict(),
        lead=lead,
        scatter=scatter,
    )


def _stage(ledger: Ledger) -> tuple[Stage, int, int]:
    if ledger.done:
        return "done", ledger.budget, ledger.budget
    tried, per_module = ledger.of_phase("global"), ledger.of_phase("module")
    if not ledger.search_proposed and ledger.next_phase == "global":
        return "global", len(tried), ledger.global_limit
    if ledger.best("global") is None and all(trial.status is not None for trial in tried):
        return "stuck", len(tried), ledger.global_limit
    if ledger.search_proposed:
        return "confirm", len(ledger.confirmations), confirmation_runs(ledger.budget)
    return "module", len(per_module), ledger.search_limit - ledger.global_limit
