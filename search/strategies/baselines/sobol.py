"""Sobol points of the whole box: random search without its clumps. A baseline."""

from __future__ import annotations

import numpy as np

from search.strategies.base import History, Point


class Sobol:
    """The study's own scrambled sequence, after the start itself."""

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        from scipy.stats import qmc

        number = len(arena.observations)
        if number == 0:
            return arena.start_D.copy()
        sequence = qmc.Sobol(len(arena.start_D), scramble=True, rng=arena.seed)
        if number > 1:
            sequence.fast_forward(number - 1)
        unit_D = sequence.random(1)[0]
        return np.asarray(arena.lower_D + unit_D * (arena.upper_D - arena.lower_D))
