"""Trust-region Bayesian optimization: fit a model to every trial, then step around its best point.

.. [CompletedP] arXiv 2512.22382: trust-region random search works in this space and then plateaus. Its
                authors name trust-region BO as the missing method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.strategies.base import History, Point

# Root mean square of a step in octaves per coordinate, in 37 dimensions. In more dimensions the sum of
# squares stays the same. In fewer dimensions a step is at most LONGEST_STEP. A longer step tells more about
# the slopes, in proportion to its length; its cost grows with the square.
STEP = 0.7
STEP_DIMENSIONS = 37
LONGEST_STEP = 1.0
# Octaves beyond the tried points in which the model is trusted. Its effects bend over 2.
REACH = 1.0
# Trials around the start before the model is asked. In fewer dimensions one trial per dimension.
FIRST = 12
# Every fourth trial is the model's best point itself.
BEST_EVERY = 4
# Number of most recent trials that the model sees. Its memory grows with the square (200 MB at the peak in
# 90 dimensions), and the region has moved away from older trials.
MODELED = 300
# A loss this many standard deviations above the median only says that the point is bad. At most a tenth of
# the losses are cut this way, because the rest must still count if most trials are alike.
WORST, MOST_BOUNDED = 3.0, 0.1
# Octaves below which two points are the same: above a journal's rounding, far below any effect on a run.
SAME = 1e-4
NORMAL = 1.4826  # standard deviation over median absolute deviation of a normal distribution


class TrustRegionBO:
    """One step up or down per coordinate around the best point of an additive Gaussian process.

    The trust region is the box of the tried points, widened by `REACH`. It moves and grows with the trials
    and never shrinks because of noise. A diverged trial counts as a loss at the limit of `bounded`.
    """

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        number = len(history.observations)
        if number == 0:
            return history.start_D.copy()
        center_D = history.start_D
        best_D = expected_best(history) if number >= min(FIRST, len(center_D)) else None
        if best_D is not None:
            # The same point again tells the model less than a step.
            again = any(np.abs(best_D - o.point_D).max() < SAME for o in history.observations)
            if number % BEST_EVERY == BEST_EVERY - 1 and not again:
                return best_D
            center_D = best_D
        elif sum(o.status != "pending" for o in history.observations) >= FIRST:
            # Nothing trains around the start.
            return rng.uniform(history.lower_D, history.upper_D)
        return np.clip(center_D + steps(len(center_D), rng), history.lower_D, history.upper_D)

    def best(self, history: History) -> Point:
        best_D = expected_best(history)
        return history.start_D.copy() if best_D is None else best_D


def steps(dimensions: int, rng: np.random.Generator) -> Point:
    """A random step in octaves, shape (D,): one length, up or down in each coordinate.

    Few dimensions have few corners, which signs alone would repeat. There the step is uniform with the same
    mean square.
    """
    length = min(LONGEST_STEP, STEP * math.sqrt(STEP_DIMENSIONS / dimensions))
    if dimensions < STEP_DIMENSIONS:
        return rng.uniform(-math.sqrt(3) * length, math.sqrt(3) * length, size=dimensions)
    return rng.choice([-length, length], size=dimensions)


def expected_best(history: History) -> Point | None:
    """The point of the trust region with the lowest expected loss, shape (D,).

    None if fewer than two of the modeled trials have a loss.
    """
    from search.strategies.additive import AdditiveModel

    known = [
        (o.point_D, math.inf if o.status == "diverged" else o.loss, o.seed)
        for o in history.observations
        if o.status == "diverged" or o.loss is not None
    ][-MODELED:]
    points, losses, seeds = zip(*known, strict=True) if known else ((), (), ())
    losses_N = np.array(losses, dtype=np.float64)
    if np.isfinite(losses_N).sum() < 2:
        return None
    away_ND = np.stack(points) - history.start_D
    lower_D = np.maximum(away_ND.min(0) - REACH, history.lower_D - history.start_D)
    upper_D = np.minimum(away_ND.max(0) + REACH, history.upper_D - history.start_D)
    model = AdditiveModel(away_ND, bounded(losses_N), numbered(seeds))
    best_D: Point = history.start_D + model.best(lower_D, upper_D)
    return best_D


def numbered(seeds: Sequence[int]) -> list[int]:
    """Seeds are too large for a float, so the model gets the place of each among the distinct ones."""
    places = {seed: i for i, seed in enumerate(dict.fromkeys(seeds))}
    return [places[seed] for seed in seeds]


def bounded(losses_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The losses, with every value far above the others lowered to a limit; `inf` is a diverged trial."""
    finite = losses_N[np.isfinite(losses_N)]
    median = np.median(finite)
    deviation = NORMAL * np.median(np.abs(finite - median))
    limit = max(median + WORST * deviation, np.quantile(finite, 1 - MOST_BOUNDED))
    return np.asarray(np.minimum(losses_N, limit))
