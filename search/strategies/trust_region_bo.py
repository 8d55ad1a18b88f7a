"""Trust-region Bayesian optimisation: a model of every trial, and steps around the best point it knows.

.. [CompletedP] arXiv 2512.22382: trust-region random search works in this space and plateaus; trust-region
                BO is what its authors name as missing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from search.strategies.arena import Arena, Observation, Point

# Octaves up or down in every coordinate, in 37 dimensions; in more the same mean square for all together,
# in fewer at most 1. What a step tells of slopes grows with its length, what it costs with the square.
STEP = 0.7
STEP_DIMENSIONS = 37
LONGEST_STEP = 1.0
# How far beyond what was tried the model is believed, in octaves: its effects bend over 2.
REACH = 1.0
# Trials around the start before the model is asked.
FIRST = 12
# Every fourth trial is the model's best point itself.
BEST_EVERY = 4
# The model sees the last so many trials: its memory grows with their square (65 MB in 90 dimensions), and
# the first ones are far from where the region has moved.
MODELLED = 300
# Losses further above the median than so many of their deviations say no more than that a point is bad.
WORST = 3.0
NORMAL = 1.4826  # of a normal distribution: standard deviation over median absolute deviation


class TrustRegionBO:
    """Up or down in every coordinate around the best point of an additive Gaussian process.

    The region is where the trials were, and `REACH` beyond: it moves and grows with them, and it never
    shrinks on noise. A diverged trial is one as bad as the worst.
    """

    def propose(self, arena: Arena, rng: np.random.Generator) -> Point:
        number = len(arena.observations)
        if number == 0:
            return arena.start_D.copy()
        signs_D = rng.choice([-1.0, 1.0], size=len(arena.start_D))
        steps_D = signs_D * step(len(arena.start_D))
        if number < FIRST or len(arena.completed) < 2:
            return np.clip(arena.start_D + steps_D, arena.lower_D, arena.upper_D)
        best_D = expected_best(arena)
        if number % BEST_EVERY == BEST_EVERY - 1:
            return best_D
        return np.clip(best_D + steps_D, arena.lower_D, arena.upper_D)


def step(dimensions: int) -> float:
    """Octaves of a step in each coordinate."""
    return min(LONGEST_STEP, STEP * math.sqrt(STEP_DIMENSIONS / dimensions))


def expected_best(arena: Arena) -> Point:
    """The point of the trust region that the model expects the least loss of."""
    from search.strategies.additive import AdditiveModel

    ended = [(o.point_D, loss) for o in arena.observations if (loss := _loss(o)) is not None]
    away_ND = np.stack([point_D for point_D, _ in ended[-MODELLED:]]) - arena.start_D
    model = AdditiveModel(away_ND, bounded(np.array([loss for _, loss in ended[-MODELLED:]])))
    lower_D = np.maximum(away_ND.min(0) - REACH, arena.lower_D - arena.start_D)
    upper_D = np.minimum(away_ND.max(0) + REACH, arena.upper_D - arena.start_D)
    best_D: Point = arena.start_D + model.best(lower_D, upper_D)
    return best_D


def _loss(observation: Observation) -> float | None:
    """What a trial taught of its point: a loss, a forecast of it, or that it is out of the question."""
    if observation.status == "diverged":
        return math.inf
    return observation.forecast if observation.loss is None else observation.loss


def bounded(losses_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The losses with what is far above the others (and `inf`, a diverged trial) drawn to a bound."""
    finite = losses_N[np.isfinite(losses_N)]
    middle = np.median(finite)
    deviation = NORMAL * np.median(np.abs(finite - middle))
    # Where nearly all are equal there is no scale: then the worst finite one is the bound.
    highest = middle + WORST * deviation if deviation > 0 else finite.max()
    return np.asarray(np.minimum(losses_N, highest))
