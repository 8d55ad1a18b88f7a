"""Trust-region random search, the paper's method, around a centre that averages noise.

.. [CompletedP] arXiv 2512.22382: random search in log space within a trust region around the incumbent.
                The paper prints neither radius nor update rule.
.. [Meunier]    Variance reduction for better sampling in continuous domains, arXiv 2004.11687: the mean
                of the k best of n uniform samples beats the best one.
"""

from __future__ import annotations

import math

import numpy as np

from search.strategies.base import History, Point

# Octaves to either side in 37 dimensions and fewer. One length for all: with mixed lengths the best third
# is the shortest steps as much as the best directions, because what a random step costs by curvature
# grows with the mean square of its coordinates times their number (.05 nats for ± 1 octave in each of 82
# at `tiny`). In more dimensions the same cost buys a shorter step. Never shrunk: shrinking on noise is
# what stalled the prototype's box. Chosen on a synthetic bowl with that cost and noise (docs/log.md).
RADIUS = 1.5
RADIUS_DIMENSIONS = 37
# The centre is the mean of the best third, at most 30: on a synthetic 90-dimensional bowl with the
# prototype's noise this gained twice what the single best did (docs/log.md).
SHARE_AVERAGED = 3
MOST_AVERAGED = 30
# A centre is better than the points around it, which all pay for their spread; every eighth trial is
# the centre itself, so that it can win.
CENTRE_EVERY = 8


class TrustRegionRandom:
    """Uniform in ± r octaves around the weighted mean of the best trials."""

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        number = len(arena.observations)
        if number == 0:
            return arena.start_D.copy()
        centre_D = centre(arena)
        # One trial's own mean is that trial again.
        averaged = _averaged(arena) >= 2
        if number % CENTRE_EVERY == CENTRE_EVERY - 1 and averaged:
            return centre_D
        radius = RADIUS * min(1.0, math.sqrt(RADIUS_DIMENSIONS / len(centre_D)))
        point_D = centre_D + rng.uniform(-radius, radius, size=centre_D.shape)
        return np.clip(point_D, arena.lower_D, arena.upper_D)


def centre(arena: History) -> Point:
    """The mean of the best third, weighted by the logarithm of the rank (as CMA-ES recombines)."""
    completed = arena.completed
    if not completed:
        return arena.start_D.copy()
    count = max(1, _averaged(arena))
    weights = np.log(count + 0.5) - np.log(np.arange(1, count + 1))
    best_KD = np.stack([point_D for _, point_D in completed[:count]])
    return np.asarray(weights / weights.sum() @ best_KD)


def _averaged(arena: History) -> int:
    """How many trials the centre averages. A stopped trial counts as one that did worse."""
    stopped = sum(o.status == "stopped" for o in arena.observations)
    completed = len(arena.completed)
    return min(MOST_AVERAGED, (completed + stopped) // SHARE_AVERAGED, completed)
