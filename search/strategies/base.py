"""The interface of a strategy. Shape suffix: D coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
Status = Literal["completed", "diverged", "pending", "set_aside"]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial: its point in octaves and its outcome. Only a completed trial has a `loss`.

    `seed` is its training seed, as far as the search knows seeds.
    """

    point_D: Point
    status: Status
    loss: float | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class History:
    """The box in octaves, the point to start from, and the trials so far, oldest first.

    `seed` belongs to the whole search. Use it for what must not change between two proposals.
    """

    seed: int
    lower_D: Point
    upper_D: Point
    start_D: Point
    observations: Sequence[Observation]

    @property
    def completed(self) -> list[tuple[float, Point]]:
        """(loss, point) of the completed trials, best first. Equal losses stay in order of age.

        Each loss is taken relative to the mean loss of its training seed, because a seed moves all its trials
        alike.
        """
        by_seed: dict[int, list[float]] = {}
        for o in self.observations:
            if o.loss is not None:
                by_seed.setdefault(o.seed, []).append(o.loss)
        # With one seed the losses stay as they are.
        offset = {s: fmean(found) if len(by_seed) > 1 else 0.0 for s, found in by_seed.items()}
        pairs = [
            (o.loss - offset[o.seed], o.point_D) for o in self.observations if o.loss is not None
        ]
        return sorted(pairs, key=lambda pair: pair[0])


class Strategy(Protocol):
    """Pure functions of the history, one of them also of a generator.

    The generator is seeded with the search's seed and the trial's number.
    """

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        """The next trial's point, shape (D,), inside the box. The start if there are no trials yet."""

    def best(self, history: History) -> Point:
        """The point to hand over, shape (D,), inside the box. The start if no trial completed."""


class HandsOverBestTrial:
    """For strategies without a model: they hand over the trial with the lowest loss."""

    def best(self, history: History) -> Point:
        return next((point_D for _, point_D in history.completed), history.start_D)
