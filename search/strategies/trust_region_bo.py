"""Trust-region Bayesian optimisation: a model of every trial, and steps around the best point it knows.

.. [CompletedP] arXiv 2512.22382: trust-region random search works in this space and plateaus; trust-region
                BO is what its authors name as missing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from search.strategies.base import History, Observation, Point

# Root mean square of a step, octaves in each coordinate: in 37 dimensions; in more the same sum of squares,
# in fewer at most 1. What a step tells of slopes grows with its length, what it costs with the square.
STEP = 0.7
STEP_DIMENSIONS = 37
LONGEST_STEP = 1.0
# How far beyond what was tried the model is believed, in octaves: its effects bend over 2.
REACH = 1.0
# Trials around the start before the model is asked; in fewer dimensions as many as those.
FIRST = 12
# Every fourth trial is the model's best point itself.
BEST_EVERY = 4
# The model sees the last so many trials: its memory grows with their square (200 MB at the peak in 90
# dimensions), and the first ones are far from where the region has moved.
MODELLED = 300
# Losses further above the median than so many standard deviations say only that a point is bad; but no more
# than a tenth of them: where most trials are alike, the rest still counts.
WORST, MOST_BOUNDED = 3.0, 0.1
# Octaves: above what a journal's rounding changes, far below what a run can tell.
SAME = 1e-4
NORMAL = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


class TrustRegionBO:
    """Up or down in every coordinate around the best point of an additive Gaussian process.

    The region is where the trials were, and `REACH` beyond: it moves and grows with them, and it never
    shrinks on noise. A diverged trial counts as one at the bound of `bounded`.
    """

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        number = len(arena.observations)
        if number == 0:
            return arena.start_D.copy()
        centre_D = arena.start_D
        best_D = expected_best(arena) if number >= min(FIRST, len(centre_D)) else None
        if best_D is not None:
            # Twice the same point on the search's one seed is twice the same run.
            again = any(np.abs(best_D - o.point_D).max() < SAME for o in arena.observations)
            if number % BEST_EVERY == BEST_EVERY - 1 and not again:
                return best_D
            centre_D = best_D
        elif sum(o.status != "pending" for o in arena.observations) >= FIRST:
            # Nothing trains around the start.
            return rng.uniform(arena.lower_D, arena.upper_D)
        return np.clip(centre_D + steps(len(centre_D), rng), arena.lower_D, arena.upper_D)


def steps(dimensions: int, rng: np.random.Generator) -> Point:
    """Octaves in each coordinate: one length, up or down; in few dimensions, where signs alone would come to
    the same corners again, uniform with the same mean square."""
    length = min(LONGEST_STEP, STEP * math.sqrt(STEP_DIMENSIONS / dimensions))
    if dimensions < STEP_DIMENSIONS:
        return rng.uniform(-math.sqrt(3) * length, math.sqrt(3) * length, size=dimensions)
    return rng.choice([-length, length], size=dimensions)


def expected_best(arena: History) -> Point | None:
    """The point of the trust region that the model expects the least loss of; None where fewer than two of
    the trials it sees have a loss."""
    from search.strategies.additive import AdditiveModel

    known = [(o.point_D, loss) for o in arena.observations if (loss := _loss(o)) is not None]
    known = known[-MODELLED:]
    losses_N = np.array([loss for _, loss in known])
    if np.isfinite(losses_N).sum() < 2:
        return None
    away_ND = np.stack([point_D for point_D, _ in known]) - arena.start_D
    lower_D = np.maximum(away_ND.min(0) - REACH, arena.lower_D - arena.start_D)
    upper_D = np.minimum(away_ND.max(0) + REACH, arena.upper_D - arena.start_D)
    best_D: Point = arena.start_D + AdditiveModel(away_ND, bounded(losses_N)).best(lower_D, upper_D)
    return best_D


def _loss(observation: Observation) -> float | None:
    """What a trial taught of its point: a loss, a forecast of it, or that it is out of the question."""
    if observation.status == "diverged":
        return math.inf
    return observation.forecast if observation.loss is None else observation.loss


def bounded(losses_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The losses with what is far above the others (and `inf`, a diverged trial) drawn down to a bound."""
    finite = losses_N[np.isfinite(losses_N)]
    median = np.median(finite)
    deviation = NORMAL * np.median(np.abs(finite - median))
    bound = max(median + WORST * deviation, np.quantile(finite, 1 - MOST_BOUNDED))
    return np.asarray(np.minimum(losses_N, bound))
