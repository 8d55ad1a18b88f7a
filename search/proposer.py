"""The study as a source of jobs. Every decision goes to the journal before it takes effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from completedp.hparams import HParams
from completedp.runs.job import Job, Outcome
from completedp.runs.journal import TrialRecord, finished_record
from completedp.scale import Ratios
from search.ax_experiment import AxExperiment, View
from search.phases import SearchPhase, Split, TrialSpec, all_over, current_phase
from search.space import Space
from search.study import Study

Append = Callable[[Mapping[str, Any]], None]


class JobFactory(Protocol):
    """Makes the job of a trial."""

    def __call__(
        self, trial: int, hparams: HParams, seed: int, split: Split, ratios: Ratios
    ) -> Job: ...


class Proposer:
    """The engine's source of jobs for one study.

    A proposal is a pure function of the study's seed and its journal. Raises `UserError` if the study cannot
    go on.
    """

    def __init__(self, study: Study, append: Append, make_job: JobFactory) -> None:
        study.check_goes_on()
        self.study = study
        self._append = append
        self._make_job = make_job
        self._space = Space.from_config(study.spec.config)
        self._ax = AxExperiment(study)
        self._waiting = list(study.pending)

    @property
    def done(self) -> bool:
        """Whether every phase is over, and every trial has finished or been set aside."""
        return all_over(self.study) and not self.study.pending

    def next(self) -> Job | None:
        """The next job: an interrupted trial again, else a new trial. None if there is none now."""
        if self._waiting:
            spec: TrialSpec | None = TrialSpec.of(self._waiting.pop(0))
        else:
            spec = current_phase(self.study).next(self.study, self._ask)
            if spec is not None:
                self._record(spec.to_record())
        if spec is None:
            return None
        hparams = self._space.to_hparams(spec.values)
        return self._make_job(spec.trial, hparams, spec.seed, spec.split, ratios=spec.ratios)

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

    def _ask(self, phase: SearchPhase) -> dict[str, float]:
        """The next trial's values in octaves: those that the phase moves, and those of its center.

        Losses at different scales cannot be compared. So the strategy sees only trials at the next one's
        scale.
        """
        center, ratios = phase.center(self.study), phase.ratios(self.study)
        free = [c.name for c in self._space.part(*phase.free)]
        fixed = center.values if center else {}
        trials = [*([center] if center else []), *self.study.of_phase(phase.name)]
        seen = [t.trial for t in trials if t.ratios == ratios]
        view = View(phase=phase.name, free=free, fixed=fixed, trials=seen)
        values = self._ax.ask(len(self.study.trials), view)
        kept = {*free, *fixed}
        return {c.name: values[c.name] for c in self._space.coordinates if c.name in kept}
