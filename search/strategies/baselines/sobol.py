"""Baseline: Sobol points of the whole box, which is random search without clumps."""

from __future__ import annotations

import numpy as np

from search.strategies.base import HandsOverBestTrial, History, Point


class Sobol(HandsOverBestTrial):
    """The start, then one scrambled sequence per search seed."""

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        from scipy.stats import qmc

        number = len(history.observations)
        if number == 0:
            return history.start_D.copy()
        sequence = qmc.Sobol(len(history.start_D), scramble=True, rng=history.seed)
        if number > 1:
            sequence.fast_forward(number - 1)
        unit_D = sequence.random(1)[0]
        return np.asarray(history.lower_D + unit_D * (history.upper_D - history.lower_D))
