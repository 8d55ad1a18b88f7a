"""The study as a source of jobs: it proposes, confirms, and writes every decision to the journal first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from completedp.hparams import HParams
from completedp.runs.job import Job, Outcome
from completedp.runs.journal import TrialRecord, finished_record
from completedp.scale import Ratios
from search.ax_experiment import AxExperiment
from search.phases import Phase, Split, TrialSpec, all_over, current_phase
from search.scales import PROXY
from search.space import Coordinate, Space
from search.strategies import History, Observation, strategy_named
from search.study import Study

Append = Callable[[Mapping[str, Any]], None]


class JobFactory(Protocol):
    """How a trial becomes a job: which task with which arguments."""

    def __call__(
        self, trial: int, hparams: HParams, seed: int, split: Split, ratios: Ratios
    ) -> Job: ...


class Proposer:
    """The engine's source of jobs for one study.

    A proposal is a pure function of the study's seed and its journal: nothing else is kept.
    """

    def __init__(self, study: Study, append: Append, make_job: JobFactory) -> None:
        study.check_goes_on()
        self.study = study
        self._append = append
        self._make_job = make_job
        self._space = Space.from_config(study.spec.config)
        self._strategy = strategy_named(study.spec.config.search.strategy)
        self._ax = AxExperiment(self._space, self._propose)
        self._waiting = list(study.pending)
        for record in study.searched:
            self._space.check(record.values, f"trial {record.trial}")
            self._ax.attach(record.trial, record.values)
            self._tell(record)

    @property
    def done(self) -> bool:
        """Whether every phase is over, and every trial has finished or been set aside."""
        return all_over(self.study) and not self.study.pending

    def next(self) -> Job | None:
        """The next job: that of an interrupted trial again, or of a new one."""
        if self._waiting:
            spec: TrialSpec | None = TrialSpec.of(self._waiting.pop(0))
        else:
            phase = current_phase(self.study)
            spec = phase.next(self.study, functools.partial(self._ask, phase))
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
        if record.status is None or record.phase == "confirm":
            return  # Ax knows the select split only
        if record.status == "completed" and record.ratios == PROXY:
            assert record.loss is not None
            self._ax.completed(record.trial, record.loss)
        elif record.status == "diverged":
            self._ax.diverged(record.trial, record.reason or "diverged")
        else:  # set aside, stopped, or a loss at another scale: no other trial's loss can be held against it
            self._ax.abandoned(record.trial)

    def _ask(self, phase: Phase) -> dict[str, float]:
        """The next trial's values: those that the phase moves, and those that it takes from its centre."""
        values = self._ax.ask(len(self.study.trials))
        fixed = _fixed(phase, self.study)
        kept = [c.name for c in self._space.coordinates if c.name in fixed or c.part in phase.free]
        return {name: values[name] for name in kept}

    def _propose(self) -> Mapping[str, float]:
        """The strategy's point, in the space."""
        phase = current_phase(self.study)
        free = self._space.part(*phase.free)
        rng = np.random.default_rng([self.study.spec.seed, len(self.study.trials)])
        point_D = self._strategy.propose(self._history(phase, free), rng)
        proposed = {c.name: float(x) for c, x in zip(free, point_D, strict=True)}
        return self._space.project({**_fixed(phase, self.study), **proposed})

    def _history(self, phase: Phase, free: tuple[Coordinate, ...]) -> History:
        """What the strategy sees: the centre, then the phase's trials in the order of the journal.

        Losses at different scales cannot be compared, so it sees those at the scale of the next trial.
        """
        bounds_D = np.array([c.octaves for c in free])
        ratios, centre = phase.ratios(self.study), phase.centre(self.study)
        trials = [*([centre] if centre else []), *self.study.of_phase(phase.name)]
        return History(
            seed=self.study.spec.seed,
            lower_D=-bounds_D,
            upper_D=bounds_D,
            start_D=np.zeros(len(free)),
            observations=[
                Observation(
                    point_D=np.array([t.values.get(c.name, 0.0) for c in free]),
                    status="set_aside" if t.status == "stopped" else t.status or "pending",
                    loss=t.loss,
                )
                for t in trials
                if t.ratios == ratios
            ],
        )


def _fixed(phase: Phase, study: Study) -> Mapping[str, float]:
    """The values that the phase leaves as its centre has them."""
    centre = phase.centre(study)
    return centre.values if centre else {}
