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
from search.scales import PROXY
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
            spec = current_phase(self.study).next(self.study, self)
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
        if record.phase not in ("ladder", "confirm"):  # Ax knows the strategy's trials only
            self._ax.tell(record)

    def propose(self, phase: SearchPhase, seed: int) -> dict[str, float]:
        """The next trial's octaves, of the coordinates that the phase moves."""
        view = self._view(phase, phase.ratios(self.study))
        return self._ax.ask(len(self.study.trials), seed, view)

    def best(self, phase: SearchPhase) -> dict[str, float]:
        """The octaves that the strategy hands over at the study's own scale."""
        return self._ax.best(self._view(phase, PROXY))

    def _view(self, phase: SearchPhase, ratios: Ratios) -> View:
        """The phase's trials at a scale. Losses at different scales cannot be compared."""
        free = [c.name for c in self._space.part(*phase.free)]
        seen = [t.trial for t in self.study.of_phase(*phase.seen) if t.ratios == ratios]
        return View(phase=phase.name, free=free, trials=seen)
