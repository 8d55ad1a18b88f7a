"""Baseline: plain random search in the whole box. The paper saw it fail in this space."""

from __future__ import annotations

import numpy as np

from search.strategies.base import HandsOverBestTrial, History, Point


class RandomBox(HandsOverBestTrial):
    """The start, then uniform points of the box."""

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        if not history.observations:
            return history.start_D.copy()
        return rng.uniform(history.lower_D, history.upper_D)
