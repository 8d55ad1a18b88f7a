"""The study as a source of jobs: it proposes, confirms, and writes every decision to the journal first."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.runs.job import Job, Outcome, Rung
from completedp.runs.journal import TrialRecord, finished_record
from completedp.seeds import derive_seed
from search.ax_experiment import AxExperiment, View
from search.confirm import ARMS
from search.space import Space
from search.stopping import Curve, stopping_named
from search.study import Study, confirmation_runs

# More than a round of confirmation has, so that every round has seeds of its own.
MOST_SEEDS = 1000

Append = Callable[[Mapping[str, Any]], None]
CurveOf = Callable[[int], Curve]


class JobFactory(Protocol):
    """How a trial becomes a job: which task with which arguments."""

    def __call__(
        self, trial: int, hparams: HParams, seed: int, split: Literal["select", "report"]
    ) -> Job: ...


class Proposer:
    """The engine's source of jobs for one study.

    A proposal is a pure function of the study's seed and its journal, and where trials are stopped early of
    the curves of the trials before it too (`curve_of`): nothing else is kept. Search trials share one seed,
    so that their differences are those of the hyperparameters; confirmations take fresh ones.
    """

    def __init__(
        self, study: Study, append: Append, make_job: JobFactory, curve_of: CurveOf
    ) -> None:
        self.study = study
        self._append = append
        self._make_job = make_job
        self._curve_of = functools.cache(curve_of)
        self._stopping = stopping_named(study.spec.config.search.stopping)
        self._space = Space.from_config(study.spec.config)
        self._ax = AxExperiment(study)
        self._waiting = [t.trial for t in study.pending]

    @property
    def done(self) -> bool:
        """Every run of the budget has finished or been set aside."""
        return len(self.study.trials) >= self.study.budget and not self.study.pending

    def next(self) -> Job | None:
        """The next job: an interrupted one again, a proposal, or a confirmation run."""
        if self._waiting:
            record = self.study.trials[self._waiting.pop(0)]
        elif len(self.study.trials) >= self.study.budget:
            return None
        elif not self.study.search_proposed:
            if self._at_the_border and self._pending("global"):
                return None  # the centre of the per-module phase is not known yet
            record = self._search_trial()
        elif self._pending("global", "module"):
            return None  # the incumbents are not known yet
        else:
            record = self._confirmation_trial()
        split: Literal["select", "report"] = "report" if record.phase == "confirm" else "select"
        hparams = self._space.to_hparams(record.values)
        job = self._make_job(record.trial, hparams, record.seed, split)
        rungs = tuple(Rung(**rung) for rung in record.extra.get("rungs", ()))
        return dataclasses.replace(job, rungs=rungs)

    def finished(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self._record(finished_record(outcome))
        self._tell(self.study.trials[outcome.trial])

    def set_aside(self, trial: int, reason: str) -> None:
        """Record a trial that died every time it was tried."""
        self._record({"event": "set_aside", "trial": trial, "reason": reason})
        self._tell(self.study.trials[trial])

    def _record(self, record: Mapping[str, Any]) -> None:
        self._append(record)
        self.study.add(record)

    def _tell(self, record: TrialRecord) -> None:
        if record.phase != "confirm":  # Ax knows the select split only
            self._ax.tell(record)

    @property
    def _at_the_border(self) -> bool:
        """Whether the next search trial is the first per-module one."""
        return self.study.next_phase == "module" and not self.study.of_phase("module")

    def _pending(self, *phases: str) -> bool:
        return any(t.phase in phases for t in self.study.pending)

    def _search_trial(self) -> TrialRecord:
        trial = len(self.study.trials)
        phase = self.study.next_phase
        if self._at_the_border:
            self.arms()  # refuses to go on from nothing
        values = self._ax.ask(trial, self._view(phase))
        rungs = self._rungs() if phase == "module" else ()
        kept = [c.name for c in self._space.coordinates if phase == "module" or c.part == "global"]
        return self._proposed(
            trial=trial,
            values={name: values[name] for name in kept},
            phase=phase,
            seed=derive_seed(self.study.spec.seed, "search"),
            **({"rungs": [dataclasses.asdict(rung) for rung in rungs]} if rungs else {}),
        )

    def _rungs(self) -> tuple[Rung, ...]:
        """On record with the proposal, so that a resumed trial has the same."""
        ended = [t for t in self.study.of_phase("module") if t.status in ("completed", "stopped")]
        return self._stopping.rungs([self._curve_of(t.trial) for t in ended])

    def _proposed(self, **record: Any) -> TrialRecord:
        self._record({"event": "proposed", **record})
        return self.study.trials[record["trial"]]

    def _view(self, phase: str) -> View:
        """The coordinates and trials that the strategy sees in a phase."""
        trials = [t.trial for t in self.study.of_phase(phase)]
        if phase == "global":
            free = self._space.part("global")
            return View(phase=phase, free=[c.name for c in free], fixed={}, trials=trials)
        centre = self.study.centre
        assert centre is not None, "the border was passed with a global incumbent"
        free = self._space.part("type", "depth")
        return View(
            phase=phase,
            free=[c.name for c in free],
            fixed=centre.values,
            trials=[centre.trial, *trials],
        )

    def _confirmation_trial(self) -> TrialRecord:
        """Both arms of a seed one after the other, so that an interrupted study holds whole pairs."""
        arms = self.arms()
        number = len(self.study.confirmations)
        assert number < confirmation_runs(self.study.budget)
        names = list(arms)
        arm = names[number % len(names)]
        return self._proposed(
            trial=len(self.study.trials),
            values=dict(arms[arm].values),
            phase="confirm",
            seed=derive_seed(
                self.study.spec.seed,
                "confirm",
                MOST_SEEDS * self.study.round + number // len(names),
            ),
            arm=arm,
            of=arms[arm].trial,
            round=self.study.round,
        )

    def arms(self) -> dict[str, TrialRecord]:
        """The incumbents to confirm, by arm; a study without a per-module phase has only the global one."""
        best = {arm: self.study.best(arm) for arm in ARMS}
        arms = {arm: record for arm, record in best.items() if record is not None}
        if "global" not in arms:
            tried = self.study.of_phase("global")
            diverged = [t.reason for t in tried if t.status == "diverged"]
            if diverged:
                reason = diverged[0]
                advice = (
                    "begin a new study from a preset with a lower values.lr or narrower "
                    "search.global_octaves: this one keeps its own"
                )
            else:
                reason = tried[0].reason
                advice = "their workers died: mend that, then begin a new study"
            raise UserError(
                f"none of the {len(tried)} global trials completed (the first: {reason}); {advice}"
            )
        return arms
