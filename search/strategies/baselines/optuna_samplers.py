"""Baselines: Optuna's samplers with their own defaults, in the whole box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from completedp.errors import needs
from search.strategies.base import HandsOverBestTrial, History, Observation, Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


class OptunaSampler(HandsOverBestTrial):
    """An Optuna study rebuilt from the history for each proposal. A diverged trial has failed there."""

    def __init__(self, kind: Literal["tpe", "gp"]) -> None:
        self._kind = kind

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        with needs("optuna", f"--strategy optuna-{self._kind}", "'completedp[baselines]'"):
            import optuna

        if not history.observations:
            return history.start_D.copy()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        axes: dict[str, BaseDistribution] = {
            f"x{i}": optuna.distributions.FloatDistribution(float(low), float(high))
            for i, (low, high) in enumerate(zip(history.lower_D, history.upper_D, strict=True))
        }
        study = optuna.create_study(sampler=self._sampler(int(rng.integers(2**31))))
        study.add_trials([_frozen(o, history, axes) for o in history.observations])
        asked = study.ask(axes)
        return np.array([asked.params[name] for name in axes])

    def _sampler(self, seed: int) -> BaseSampler:
        from optuna import samplers

        if self._kind == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.GPSampler(seed=seed)


def _frozen(
    observation: Observation, history: History, axes: dict[str, BaseDistribution]
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = {
        "completed": TrialState.COMPLETE,
        "pending": TrialState.RUNNING,
    }.get(observation.status, TrialState.FAIL)
    inside_D = np.clip(observation.point_D, history.lower_D, history.upper_D)
    params = {name: float(x) for name, x in zip(axes, inside_D, strict=True)}
    return create_trial(
        state=state, value=observation.loss, params=params, distributions=dict(axes)
    )
