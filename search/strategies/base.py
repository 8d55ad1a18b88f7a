"""The interface of a strategy. Shape suffix: D coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
Status = Literal["completed", "diverged", "pending", "set_aside"]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial: its point in octaves and its outcome. Only a completed trial has a `loss`."""

    point_D: Point
    status: Status
    loss: float | None = None


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
        """(loss, point) of the completed trials, best first. Equal losses stay in order of age."""
        pairs = [(o.loss, o.point_D) for o in self.observations if o.loss is not None]
        return sorted(pairs, key=lambda pair: pair[0])


class Strategy(Protocol):
    """A pure function of the history and of a generator seeded with the search's seed and the trial's
    number."""

    def propose(self, history: History, rng: np.random.Generator) -> Point:
        """The next trial's point, shape (D,), inside the box. The start if there are no trials yet."""
