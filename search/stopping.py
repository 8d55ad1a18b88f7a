"""When a per-module trial is not worth its whole run.

A rule gives a trial its bounds before it begins, from the curves of the trials before it: so a study's
decisions stay a function of its journal and curves, wherever the trial runs and whatever is late.

Global trials are never stopped: under a decaying schedule high learning rates look bad until the end
(docs/log.md: rank agreement at half of the run .53 to .68, of per-module trials .84 to .87).

.. [Rungs] Egele et al., arXiv 2307.15422: discarding at a constant rung does as well as successive halving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from completedp.errors import named
from completedp.runs.divergence import loss_at
from completedp.runs.job import Rung

Curve = Sequence[tuple[int, float]]

# benchmarks/early_stopping.py, three studies: 40 % of the tokens saved, no study's best lost, a fifth of the
# best third stopped. Keeping fewer saves up to 54 % and stops up to half of the best third, which the
# centre of trust-region random search averages. Live, Bayesian optimisation learns less from what is
# stopped: 28 % saved for a sixth of the gain (docs/log.md), so it is off unless asked for.
FRACTIONS = (0.2, 0.4, 0.6)
KEPT = 0.5
# Below so many trials a quantile is chance.
FEWEST = 10


class Stopping(Protocol):
    """When to stop the next trial."""

    def rungs(self, curves: Sequence[Curve]) -> tuple[Rung, ...]:
        """The next trial's bounds. `curves`: of the per-module trials that ended, in the journal's order,
        the stopped ones cut where they were stopped."""


class NoStopping:
    """Every trial runs to its end."""

    def rungs(self, curves: Sequence[Curve]) -> tuple[Rung, ...]:
        return ()


class KeepShare:
    """At each fraction of a run, stop what is not among the best share of those that came so far."""

    def __init__(self, fractions: Sequence[float], kept: float) -> None:
        self._fractions = tuple(fractions)
        self._kept = kept

    def rungs(self, curves: Sequence[Curve]) -> tuple[Rung, ...]:
        steps = max((curve[-1][0] for curve in curves if curve), default=0)
        found: list[Rung] = []
        for fraction in self._fractions:
            losses = [loss_at(curve, fraction, steps) for curve in curves]
            reached = [loss for loss in losses if loss is not None]
            if len(reached) >= FEWEST:
                found.append(Rung(fraction=fraction, bound=float(np.quantile(reached, self._kept))))
        return tuple(found)


STOPPING: Mapping[str, Stopping] = {
    "none": NoStopping(),
    "rungs": KeepShare(FRACTIONS, KEPT),
}


def forecast(stopped: Curve, finished: Sequence[tuple[Curve, float]]) -> float | None:
    """The final loss to expect of a run that was stopped, from runs that finished.

    `finished`: (curve, final loss) pairs. A straight line through their training losses at the place where it
    was stopped and their final losses; None where there are fewer than `FEWEST`.
    """
    steps = max((curve[-1][0] for curve, _ in finished if curve), default=0)
    if not stopped or not steps:
        return None
    fraction = (stopped[-1][0] + 0.5) / steps  # half a step on: rounding must not lose the last one
    here = loss_at(stopped, fraction, steps)
    pairs = [
        (there, final)
        for curve, final in finished
        if (there := loss_at(curve, fraction, steps)) is not None
    ]
    if here is None or len(pairs) < FEWEST:
        return None
    there_N, final_N = np.array(pairs).T
    away_N = there_N - there_N.mean()
    spread = float(away_N @ away_N)
    slope = float(away_N @ final_N) / spread if spread > 0 else 0.0
    return float(final_N.mean()) + max(slope, 0.0) * (here - float(there_N.mean()))


def stopping_named(name: str) -> Stopping:
    """The rule, or a `UserError` with the nearest name."""
    return named(STOPPING, name, "search.stopping")
