"""What a strategy sees and returns. Array names: D coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One trial of the phase, in the arena's coordinates. `loss` is None unless completed; `forecast` is the
    loss that the curve of a stopped one lets expect, where it does."""

    point_D: Point
    status: Literal["completed", "diverged", "stopped", "pending", "set_aside"]
    loss: float | None = None
    forecast: float | None = None


@dataclass(frozen=True, kw_only=True)
class History:
    """A box in octaves, the point to start from, and the phase's trials in the journal's order.

    `seed` is the study's, for what must stay the same from one proposal to the next.
    """

    seed: int
    lower_D: Point
    upper_D: Point
    start_D: Point
    observations: Sequence[Observation]

    @property
    def completed(self) -> list[tuple[float, Point]]:
        """(loss, point) of the completed trials, best first; ties keep the journal's order."""
        pairs = [(o.loss, o.point_D) for o in self.observations if o.loss is not None]
        return sorted(pairs, key=lambda pair: pair[0])


class Strategy(Protocol):
    """A pure function of the arena and the generator, which depends on the study's seed and the trial."""

    def propose(self, arena: History, rng: np.random.Generator) -> Point:
        """A point; the caller projects it into the space."""
