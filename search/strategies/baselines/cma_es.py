"""CMA-ES with a diagonal covariance, from the package `cmaes`. A baseline.

.. [sep-CMA-ES] Ros and Hansen, PPSN 2008: in high dimensions the diagonal learns within a budget.
"""

from __future__ import annotations

import math

import numpy as np

from completedp.errors import needs
from search.strategies.base import History, Point

# Octaves: the prototype's, where 0.6 did best of what was tried.
SIGMA = 0.6


class SeparableCMAES:
    """Replays whole generations of the journal, then samples the next one's distribution.

    A diverged trial ranks last in its generation; one that has not ended counts for the next generation.
    """

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        with needs("cmaes", "--strategy cma-es", "'completedp[baselines]'"):
            from cmaes import SepCMA

        if not arena.observations:
            return arena.start_D.copy()
        if len(arena.start_D) == 1:  # which the package refuses
            return rng.uniform(arena.lower_D, arena.upper_D)
        evolution = SepCMA(
            mean=arena.start_D.copy(),
            sigma=SIGMA,
            bounds=np.stack([arena.lower_D, arena.upper_D], axis=1),
            seed=int(rng.integers(2**31)),
        )
        told = [
            (o.point_D, math.inf if o.loss is None else o.loss)
            for o in arena.observations
            if o.status in ("completed", "diverged")
        ]
        size = evolution.population_size
        for first in range(0, len(told) - size + 1, size):
            generation = told[first : first + size]
            # The package keeps the worst value of a generation: it has to be finite.
            finite = [loss for _, loss in generation if math.isfinite(loss)]
            last = max(finite, default=0.0) + 1.0
            evolution.tell([(x_D, min(loss, last)) for x_D, loss in generation])
        return np.asarray(evolution.ask())
