"""Our strategies as Ax generation nodes, for any `Client` (docs/ax.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ax.core.base_trial import BaseTrial
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.generator_run import GeneratorRun
from ax.core.parameter import FixedParameter, Parameter, ParameterType, RangeParameter
from ax.core.trial import Trial
from ax.core.trial_status import TrialStatus
from ax.core.types import TParameterization
from ax.generation_strategy.external_generation_node import ExternalGenerationNode

from completedp.errors import UserError
from search.strategies.base import History, Observation, Point, Status, Strategy

# A linear range counts as so many octaves: ± 4, the width in which a study searches learning rates.
LINEAR_OCTAVES = 8.0
_STATUS: Mapping[TrialStatus, Status] = {
    TrialStatus.FAILED: "diverged",
    TrialStatus.CANDIDATE: "pending",
    TrialStatus.STAGED: "pending",
    TrialStatus.RUNNING: "pending",
}


@dataclass(frozen=True, kw_only=True)
class SeenTrial:
    """One trial of the experiment. Lower is better in `loss`, whatever the objective's sign.

    `seed` is the training seed in the trial's metadata, 0 without one.
    """

    parameters: Mapping[str, Any]
    status: Status
    loss: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """A free parameter. `unit` is the length of an octave in a linear range."""

    parameter: RangeParameter
    unit: float

    def octaves(self, value: float) -> float:
        if self.parameter.log_scale:
            return math.log2(max(value, self.parameter.lower))  # an attached trial may lie below
        return value / self.unit

    def value(self, octaves: float) -> float:
        value = math.exp2(octaves) if self.parameter.log_scale else octaves * self.unit
        inside = min(max(value, self.parameter.lower), self.parameter.upper)
        return float(self.parameter.cast(inside))


class StrategyNode(ExternalGenerationNode):  # type: ignore[misc]
    """An Ax generation node that proposes with one of our strategies.

    It reads everything from the experiment, so it keeps no state and goes on in a reloaded one. Completed
    trials have their objective as loss. Failed trials count as diverged, running ones as pending. All others
    (abandoned, stopped early, completed without a finite objective) only count as tried. The first trial is
    the start; without any, the middle of the ranges is proposed.

    `seed` makes proposals repeat: they depend on it and on the experiment alone. A range with `scaling="log"`
    is searched in octaves (factors of 2). A linear one counts as 8 octaves, or gives `unit`, the length of
    an octave. `fixed_parameters` of `get_next_trials` are held; then only trials with these values count.

    Proposing raises `UserError` unless the objective is one metric without constraints and every parameter
    that is not fixed is a float range.
    """

    def __init__(
        self,
        strategy: Strategy,
        seed: int = 0,
        *,
        unit: float | None = None,
        name: str = "completedp",
    ) -> None:
        # Ax's de-duplication would silently fall back to Sobol points of the whole box.
        super().__init__(name=name, should_deduplicate=False)
        self._strategy, self._seed, self._unit = strategy, seed, unit
        self._parameters: dict[str, Parameter] = {}
        self._trials: list[SeenTrial] = []
        self._fixed: TParameterization = {}

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Read the experiment's parameters and trials."""
        if experiment.search_space.parameter_constraints:
            raise UserError("the search space has parameter constraints; expected ranges alone")
        self._parameters = dict(experiment.search_space.parameters)
        self._trials = _trials(experiment, data)

    def _gen(self, experiment: Experiment, **options: Any) -> GeneratorRun:
        features = options.get("fixed_features")
        self._fixed = {} if features is None else dict(features.parameters)
        return super()._gen(experiment=experiment, **options)

    def get_next_candidate(self, pending_parameters: list[TParameterization]) -> TParameterization:
        """The parameters of the next trial, inside their ranges."""
        agreeing = [t for t in self._trials if self._held.items() <= t.parameters.items()]
        parameters = self.proposal(agreeing, len(self._trials))
        # Ax may ask for more trials before it adds this one to the experiment.
        self._trials.append(SeenTrial(parameters=parameters, status="pending"))
        return parameters

    def proposal(self, trials: Sequence[SeenTrial], number: int) -> TParameterization:
        """The parameters of trial `number`, from those trials that count."""
        rng = np.random.default_rng([self._seed, number])
        return self._parameters_of(trials, lambda history: self._strategy.propose(history, rng))

    def best(self, trials: Sequence[SeenTrial]) -> TParameterization:
        """The parameters to hand over after those trials."""
        return self._parameters_of(trials, self._strategy.best)

    def _parameters_of(
        self, trials: Sequence[SeenTrial], choose: Callable[[History], Point]
    ) -> TParameterization:
        held = self._held
        axes = [self._axis(p) for name, p in self._parameters.items() if name not in held]
        point_D = choose(_history(axes, trials, self._seed))
        free = {a.parameter.name: a.value(float(x)) for a, x in zip(axes, point_D, strict=True)}
        return {**held, **free}

    @property
    def _held(self) -> TParameterization:
        constants = self._parameters.values()
        return {p.name: p.value for p in constants if isinstance(p, FixedParameter)} | self._fixed

    def _axis(self, parameter: Parameter) -> _Axis:
        if (
            not isinstance(parameter, RangeParameter)
            or parameter.parameter_type != ParameterType.FLOAT
        ):
            raise UserError(
                f"parameter {parameter.name!r} is not a float range; make it a RangeParameterConfig of type "
                "'float', or hold it with get_next_trials(fixed_parameters=...)"
            )
        unit = self._unit or (parameter.upper - parameter.lower) / LINEAR_OCTAVES
        return _Axis(parameter=parameter, unit=unit)


def _history(axes: Sequence[_Axis], trials: Sequence[SeenTrial], seed: int) -> History:
    def point(parameters: Mapping[str, Any]) -> Point:
        return np.array([axis.octaves(parameters[axis.parameter.name]) for axis in axes])

    lower_D = point({axis.parameter.name: axis.parameter.lower for axis in axes})
    upper_D = point({axis.parameter.name: axis.parameter.upper for axis in axes})
    observations = [
        Observation(point_D=point(t.parameters), status=t.status, loss=t.loss, seed=t.seed)
        for t in trials
    ]
    start_D = observations[0].point_D if observations else (lower_D + upper_D) / 2
    return History(
        seed=seed, lower_D=lower_D, upper_D=upper_D, start_D=start_D, observations=observations
    )


def _trials(experiment: Experiment, data: Data) -> list[SeenTrial]:
    """Every trial of the experiment in the order of its index."""
    config = experiment.optimization_config
    if config is None or not config.objective.is_single_objective or config.all_constraints:
        raise UserError(
            "the experiment's objective is not one metric without constraints; set it with "
            "configure_optimization(objective='-loss')"
        )
    (metric,) = config.objective.metric_names
    sign = 1.0 if config.objective.minimize else -1.0
    rows = zip(*(data.df[name] for name in ("trial_index", "metric_name", "mean")), strict=True)
    losses = {int(index): sign * float(mean) for index, name, mean in rows if name == metric}
    return [_seen(trial, losses.get(index)) for index, trial in sorted(experiment.trials.items())]


def _seen(trial: BaseTrial, loss: float | None) -> SeenTrial:
    if not isinstance(trial, Trial) or trial.arm is None:
        raise UserError(f"trial {trial.index} has several arms; expected trials of one arm")
    parameters, seed = trial.arm.parameters, int(trial.run_metadata.get("seed", 0))
    if trial.status == TrialStatus.COMPLETED and loss is not None and math.isfinite(loss):
        return SeenTrial(parameters=parameters, status="completed", loss=loss, seed=seed)
    status = _STATUS.get(trial.status, "set_aside")
    return SeenTrial(parameters=parameters, status=status, seed=seed)
