"""Trust-region random search, the paper's method, around a center that averages out noise.

.. [CompletedP] arXiv 2512.22382: random search in log space within a trust region around the incumbent.
                The paper prints neither the radius nor the update rule.
.. [Meunier]    Variance reduction for better sampling in continuous domains, arXiv 2004.11687: the mean
                of the k best of n uniform samples is better than the best one.
"""

from __future__ import annotations

import math

import numpy as np

from search.strategies.base import HandsOverBestTrial, History, Point

# Octaves to either side in up to 37 dimensions. All coordinates share one length: with mixed lengths the best
# third would be the shortest steps as much as the best directions. The curvature makes a random step cost its
# mean square times the number of coordinates (.05 nats for ± 1 octave in each of 82 at `tiny`). In more
# dimensions the same cost buys a shorter step. The radius never shrinks: shrinking on noise stalled the
# prototype's box. Chosen on a synthetic bowl with that cost and noise (docs/log.md).
RADIUS = 1.5
RADIUS_DIMENSIONS = 37
# The center is the mean of the best third, of at most 30 trials. On a synthetic 90-dimensional bowl with the
# prototype's noise it gained twice as much as the single best trial (docs/log.md).
SHARE_AVERAGED = 3
MOST_AVERAGED = 30
# The center is better than the points around it, which all pay for their spread. Every eighth trial is the
# center itself, so that it can win.
CENTER_EVERY = 8


class TrustRegionRandom(HandsOverBestTrial):
    """A uniform step within ± radius around the weighted mean of the best trials."""

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        number = len(history.observations)
        if number == 0:
            return history.start_D.copy()
        center_D = center(history)
        # The mean of a single trial would only repeat that trial.
        if number % CENTER_EVERY == CENTER_EVERY - 1 and _averaged(history) >= 2:
            return center_D
        radius = RADIUS * min(1.0, math.sqrt(RADIUS_DIMENSIONS / len(center_D)))
        point_D = center_D + rng.uniform(-radius, radius, size=center_D.shape)
        return np.clip(point_D, history.lower_D, history.upper_D)


def center(history: History) -> Point:
    """The mean of the best third, shape (D,), weighted by the logarithm of the rank as in CMA-ES."""
    completed = history.completed
    if not completed:
        return history.start_D.copy()
    count = max(1, _averaged(history))
    weights = np.log(count + 0.5) - np.log(np.arange(1, count + 1))
    best_KD = np.stack([point_D for _, point_D in completed[:count]])
    return np.asarray(weights / weights.sum() @ best_KD)


def _averaged(history: History) -> int:
    return min(MOST_AVERAGED, len(history.completed) // SHARE_AVERAGED)
