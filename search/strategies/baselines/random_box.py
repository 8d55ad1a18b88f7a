"""Plain random search: uniform in the whole box. The paper saw it fail in this space; a baseline."""

from __future__ import annotations

import numpy as np

from search.strategies.base import History, Point


class RandomBox:
    """Uniform in the box, after the start itself."""

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        if not arena.observations:
            return arena.start_D.copy()
        return rng.uniform(arena.lower_D, arena.upper_D)
