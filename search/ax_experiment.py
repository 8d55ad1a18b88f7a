"""The Ax experiment of a study: one adapter, whatever the strategy.

Ax's own de-duplication silently falls back to Sobol over the whole box, so it is off; a diverged trial is
marked failed, a set-aside one abandoned, and no non-finite number ever reaches Ax (`inf` poisons it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

logging.disable(logging.INFO)  # Ax announces its storage when it is imported
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from ax.core.data import Data
from ax.core.experiment import Experiment
from ax.core.types import TParameterization
from ax.generation_strategy.external_generation_node import ExternalGenerationNode
from ax.generation_strategy.generation_strategy import GenerationStrategy
from ax.utils.common.logger import set_stderr_log_level

logging.disable(logging.NOTSET)
# Not Ax's loggers one by one: another thread may be making loggers while Ax walks over all there are.
set_stderr_log_level(logging.WARNING)
from search.space import Space

METRIC = "loss"
Ask = Callable[[], Mapping[str, float]]


class _StrategyNode(ExternalGenerationNode):  # type: ignore[misc]
    """Asks the study for the next point; the study's history, not Ax's, is what its strategy sees."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(name="completedp", should_deduplicate=False)
        self._ask = ask

    def update_generator_state(self, experiment: Experiment, data: Data) -> None:
        """Nothing to keep: a proposal is a function of the study's seed and journal."""

    def get_next_candidate(self, pending_parameters: list[TParameterization]) -> TParameterization:
        return dict(self._ask())


class AxExperiment:
    """Ask and tell on one `Client`. Trials are numbered by the study; Ax's own indices stay inside."""

    def __init__(self, space: Space, ask: Ask) -> None:
        self._names = [c.name for c in space.coordinates]
        self._ask = ask
        self._index: dict[int, int] = {}
        self._client = Client()
        self._client.configure_experiment(
            name="completedp",
            parameters=[
                RangeParameterConfig(
                    name=_ax_name(c.name), bounds=(-c.octaves, c.octaves), parameter_type="float"
                )
                for c in space.coordinates
            ],
        )
        self._client.configure_optimization(objective=f"-{METRIC}")
        self._client.set_generation_strategy(
            GenerationStrategy(name="completedp", nodes=[_StrategyNode(self._ask_full)])
        )

    def _ask_full(self) -> dict[str, float]:
        values = self._ask()
        return {_ax_name(name): values.get(name, 0.0) for name in self._names}

    def ask(self, trial: int) -> dict[str, float]:
        """The strategy's next point, registered as `trial`."""
        ((index, parameters),) = self._client.get_next_trials(max_trials=1).items()
        self._index[trial] = index
        return {name: float(parameters[_ax_name(name)]) for name in self._names}

    def attach(self, trial: int, values: Mapping[str, float]) -> None:
        """Register a trial that the journal already holds."""
        full = {_ax_name(name): values.get(name, 0.0) for name in self._names}
        self._index[trial] = self._client.attach_trial(parameters=full)

    def completed(self, trial: int, loss: float) -> None:
        """Tell a finite loss."""
        self._client.complete_trial(self._index[trial], raw_data={METRIC: loss})

    def diverged(self, trial: int, reason: str) -> None:
        """The hyperparameters' fault: failed."""
        self._client.mark_trial_failed(self._index[trial], failed_reason=reason)

    def abandoned(self, trial: int) -> None:
        """Not the hyperparameters' fault, or stopped early: no data."""
        self._client.mark_trial_abandoned(self._index[trial])


def _ax_name(name: str) -> str:
    """Ax reads parameter names in expressions, where a dot means an attribute."""
    return name.replace(".", "__")
