"""The Ax experiment of a study: one `Client` that proposes the search trials and learns their outcomes.

A diverged trial is marked failed, and a trial that was set aside is marked abandoned. No non-finite number
may reach Ax, because `inf` would spoil its data.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logging.disable(logging.INFO)  # Ax announces its storage on import
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from ax.core.types import TParameterization
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.utils.common.logger import set_stderr_log_level

logging.disable(logging.NOTSET)
# This sets the level of one handler. Setting that of every logger fails if another thread is making loggers.
set_stderr_log_level(logging.WARNING)
from completedp import files
from completedp.runs.journal import TrialRecord
from search.space import Space
from search.strategies import strategy_named
from search.strategies.node import SeenTrial, StrategyNode
from search.study import Study

METRIC = "loss"
NO_TIME = "1970-01-01 00:00:00.000000"


@dataclass(frozen=True, kw_only=True)
class View:
    """The part of a study that one proposal is about.

    `free` names the coordinates that move. The others are held at 0, the preset's own value. `trials` are the
    numbers of the trials that the strategy sees, oldest first. The first of them is its start.
    """

    phase: str
    free: Sequence[str]
    trials: Sequence[int]


class AxExperiment:
    """The study's search trials in Ax. Callers use the study's trial numbers, never Ax's own."""

    def __init__(self, study: Study) -> None:
        """Register every search trial of the journal with its outcome.

        Raises `UserError` if the journal's values do not belong to the study's space.
        """
        self._space = Space.from_config(study.spec.config)
        self._strategy = strategy_named(study.spec.config.search.strategy)
        self._seed = study.spec.seed
        self._names = [c.name for c in self._space.coordinates]
        self._index: dict[int, int] = {}
        self._client = Client()
        self._client.configure_experiment(
            name=study.spec.name,
            parameters=[
                RangeParameterConfig(
                    name=_ax_name(c.name), bounds=(-c.octaves, c.octaves), parameter_type="float"
                )
                for c in self._space.coordinates
            ],
        )
        self._client.configure_optimization(objective=f"-{METRIC}")
        for record in study.searched:
            self._space.check(record.values, f"trial {record.trial}")
            full = {_ax_name(name): record.values.get(name, 0.0) for name in self._names}
            index = self._client.attach_trial(parameters=full)
            self._register(record.trial, record.phase, record.seed, index)
            self.tell(record)

    def _register(self, trial: int, phase: str, seed: int, index: int) -> None:
        self._index[trial] = index
        metadata = {"trial": trial, "phase": phase, "seed": seed}
        self._client._experiment.trials[index].update_run_metadata(metadata)

    def ask(self, trial: int, seed: int, view: View) -> dict[str, float]:
        """The strategy's next point, registered as `trial` with a training seed: octaves by coordinate."""
        node = _ViewNode(self, trial, view)
        self._client.set_generation_strategy(GenerationStrategy(name=node.name, nodes=[node]))
        trials = self._client.get_next_trials(max_trials=1, fixed_parameters=self._held(view))
        ((index, parameters),) = trials.items()
        self._register(trial, view.phase, seed, index)
        return self._octaves(parameters, view)

    def best(self, view: View) -> dict[str, float]:
        """The point that the strategy would hand over: octaves by coordinate. No trial is registered."""
        node, experiment = _ViewNode(self, 0, view), self._client._experiment
        node.update_generator_state(experiment, experiment.lookup_data())
        return self._octaves(node.best_of_view(self._held(view)), view)

    def _held(self, view: View) -> TParameterization:
        return {_ax_name(name): 0.0 for name in self._names if name not in view.free}

    @staticmethod
    def _octaves(parameters: TParameterization, view: View) -> dict[str, float]:
        return {name: float(parameters[_ax_name(name)]) for name in view.free}

    def tell(self, record: TrialRecord) -> None:
        """Pass on the outcome of a registered trial. A pending one has none."""
        index = self._index[record.trial]
        if record.loss is not None:
            self._client.complete_trial(index, raw_data={METRIC: record.loss})
        elif record.status == "diverged":
            self._client.mark_trial_failed(index, failed_reason=record.reason or "diverged")
        elif record.status is not None:
            self._client.mark_trial_abandoned(index)

    def save(self, path: Path) -> None:
        """Write a file for `Client.load_from_json_file`, atomically.

        Equal studies give equal bytes, so the times in the file are not real. The file holds Ax's default
        generation strategy in place of ours: Ax can store only its own nodes, and its analyses use the
        default strategy's model.
        """
        self._client.configure_generation_strategy()
        with tempfile.TemporaryDirectory() as folder:
            snapshot = Path(folder) / path.name
            self._client.save_to_json_file(str(snapshot))
            saved = json.loads(snapshot.read_text(), object_hook=_without_time)
        # A second copy of the experiment, which loading does not use.
        saved["generation_strategy"]["experiment"] = None
        files.write_text(path, json.dumps(saved, allow_nan=False))


def _without_time(saved: dict[str, Any]) -> dict[str, Any]:
    return saved | {"value": NO_TIME} if saved.get("__type") == "datetime" else saved


class _ViewNode(StrategyNode):
    """The study's node: it shows the strategy the trials of a view and keeps points inside the space."""

    def __init__(self, study: AxExperiment, trial: int, view: View) -> None:
        super().__init__(study._strategy, study._seed, unit=1.0, name=view.phase)
        self._study, self._trial, self._view = study, trial, view

    def get_next_candidate(self, pending_parameters: list[TParameterization]) -> TParameterization:
        return self._projected(self.proposal(self._shown, self._trial))

    def best_of_view(self, held: TParameterization) -> TParameterization:
        """The parameters to hand over, with `held` fixed."""
        self._fixed = held
        return self._projected(self.best(self._shown))

    @property
    def _shown(self) -> list[SeenTrial]:
        return [self._trials[self._study._index[trial]] for trial in self._view.trials]

    def _projected(self, parameters: TParameterization) -> TParameterization:
        octaves = {name: parameters[_ax_name(name)] for name in self._view.free}
        inside = self._study._space.project(octaves)
        return parameters | {_ax_name(name): x for name, x in inside.items()}


def _ax_name(name: str) -> str:
    """Ax reads parameter names in expressions, in which a dot means an attribute."""
    return name.replace(".", "__")
