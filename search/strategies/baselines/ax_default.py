"""Baseline: Ax's own Bayesian optimization, as its `Client` chooses it, in the whole box.

Slow: 15 to 90 s a proposal in 40 dimensions.
"""

from __future__ import annotations

import numpy as np

from search.strategies.base import HandsOverBestTrial, History, Point


class AxDefault(HandsOverBestTrial):
    """A `Client` with its default generation strategy, rebuilt for each proposal.

    Diverged trials are marked failed, as Ax's documentation asks.
    """

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        from ax.api.client import Client
        from ax.api.configs import RangeParameterConfig

        if not history.observations:
            return history.start_D.copy()
        client = Client(random_seed=int(rng.integers(2**31)))
        names = [f"x{i}" for i in range(len(history.start_D))]
        client.configure_experiment(
            parameters=[
                RangeParameterConfig(
                    name=name, bounds=(float(low), float(high)), parameter_type="float"
                )
                for name, low, high in zip(names, history.lower_D, history.upper_D, strict=True)
            ]
        )
        client.configure_optimization(objective="-loss")
        client.configure_generation_strategy(initialize_with_center=False)
        for o in history.observations:
            inside_D = np.clip(o.point_D, history.lower_D, history.upper_D)
            point = {name: float(x) for name, x in zip(names, inside_D, strict=True)}
            index = client.attach_trial(parameters=point)
            if o.loss is not None:
                client.complete_trial(index, raw_data={"loss": o.loss})
            elif o.status == "diverged":
                client.mark_trial_failed(index)
            elif o.status != "pending":
                client.mark_trial_abandoned(index)
        ((_, parameters),) = client.get_next_trials(max_trials=1).items()
        return np.array([float(parameters[name]) for name in names])
