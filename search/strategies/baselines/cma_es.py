"""Baseline: CMA-ES with a diagonal covariance, from the package `cmaes`.

.. [sep-CMA-ES] Ros and Hansen, PPSN 2008: in high dimensions the diagonal learns within a budget.
"""

from __future__ import annotations

import math

import numpy as np

from completedp.errors import needs
from search.strategies.base import HandsOverBestTrial, History, Point

# Octaves. The best of those tried in the prototype.
SIGMA = 0.6


class SeparableCMAES(HandsOverBestTrial):
    """Replays the history in whole generations, then samples from the next generation's distribution.

    A diverged trial ranks last in its generation. A pending trial counts once it has ended.
    """

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        with needs("cmaes", "--strategy cma-es", "'completedp[baselines]'"):
            from cmaes import SepCMA

        if not history.observations:
            return history.start_D.copy()
        if len(history.start_D) == 1:  # the package refuses one dimension
            return rng.uniform(history.lower_D, history.upper_D)
        evolution = SepCMA(
            mean=history.start_D.copy(),
            sigma=SIGMA,
            bounds=np.stack([history.lower_D, history.upper_D], axis=1),
            seed=int(rng.integers(2**31)),
        )
        ended = [
            (o.point_D, math.inf if o.loss is None else o.loss)
            for o in history.observations
            if o.status in ("completed", "diverged")
        ]
        size = evolution.population_size
        for first in range(0, len(ended) - size + 1, size):
            generation = ended[first : first + size]
            # The package keeps the worst value of a generation, so it must be finite.
            finite = [loss for _, loss in generation if math.isfinite(loss)]
            last = max(finite, default=0.0) + 1.0
            evolution.tell([(x_D, min(loss, last)) for x_D, loss in generation])
        return np.asarray(evolution.ask())
