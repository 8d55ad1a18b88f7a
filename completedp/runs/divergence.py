"""The one definition of divergence, and the curve of a run: the `Report` that a training function is given.

A run has diverged if a loss is not finite, or if after warm-up the smoothed training loss is above the loss
of a uniform guess.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from completedp import reading
from completedp.errors import UserError, shown
from completedp.reading import Field
from completedp.runs.job import CURVE, Diverged, Limits

# The horizon of the smoothing: the steps after which an exponential mean has forgotten a loss to 1/e. At 20
# steps the newest loss has a weight of at most 8 %, so no single spike carries a healthy run over the
# threshold. A long run takes 5 % of its steps: its spikes last longer and yet recover. An explosion still
# ends within about 2 %.
HORIZON_STEPS = 20
HORIZON_FRACTION = 0.05
# The largest value of one loss, in uniform guesses: the smoothed loss then shows how long the run has been
# lost, not how high a spike was.
CLIP_UNIFORM = 2.0
# Until this share of the steps, a run below its first loss is slow, not lost. Initial losses lie above a
# uniform guess, and at 1/64 of a good learning rate a run needs a third of its steps to get below it
# (measured on the `tiny` preset).
SLOW_FRACTION = 0.5
# Fewest losses after warm-up that make a trend, for a loop that does not report every step.
FEWEST_REPORTS = 5
# Points of a curve: enough for a figure, and few for the disk and MLflow.
CURVE_POINTS = 200

_STATE: Mapping[str, Field] = {
    "step": reading.COUNT,
    "first": reading.NUMBER,
    "smoothed": reading.NUMBER,
    "weight": Field(lambda x: reading.is_number(x) and 0 <= x <= 1, "a number in [0, 1]"),
    "reports": reading.COUNT,
    "points": CURVE,
    "pending": Field(
        lambda losses: isinstance(losses, list) and all(map(reading.is_number, losses)),
        "a list of finite losses",
    ),
}


def stride(steps: int) -> int:
    """Steps between two points of a curve."""
    return max(1, math.ceil(steps / CURVE_POINTS))


class Monitor:
    """A `ResumableReport`: collects the curve and judges each step.

    `on_step(step, loss)` hears of every finite loss. Raises `Diverged` with the step and the reason, and
    `UserError` for a step that is before the last one, or is no whole number. A run with fewer steps after
    its warm-up than the smoothing's horizon is judged by non-finite losses alone.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        on_step: Callable[[int, float], None] | None = None,
    ) -> None:
        self.step = 0
        self._limits = limits
        self._on_step = on_step
        self._horizon = max(HORIZON_STEPS, math.ceil(HORIZON_FRACTION * limits.steps))
        self._smoothed = 0.0
        self._weight = 0.0
        self._reports = 0
        self._first = math.nan
        self._stride = stride(limits.steps)
        self._points: list[tuple[int, float]] = []
        self._pending: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        loss, before, given = float(loss), self.step, step
        try:
            step = operator.index(step)  # numpy's and torch's whole numbers as well
        except TypeError:
            step = -1
        if step < before:
            raise UserError(
                f"the training function reported step {shown(given)} after step {before}; expected whole "
                "numbers that do not fall"
            )
        if not math.isfinite(loss):
            raise Diverged(step, f"the training loss is {loss}")
        if self.step == 0:
            self._first = loss
        self.step = step
        self._pending.append(loss)
        if step // self._stride > before // self._stride:
            self._keep_point()
        self._judge(step, loss, before)
        if self._on_step is not None:
            self._on_step(step, loss)

    def state(self) -> dict[str, Any]:
        """All state that the steps have changed so far."""
        return {
            "step": self.step,
            "first": self._first,
            "smoothed": self._smoothed,
            "weight": self._weight,
            "reports": self._reports,
            "points": list(self._points),
            "pending": list(self._pending),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises `UserError`, before any change, if it is not of a run of this length."""
        reading.check_fields(state, _STATE, tuple(_STATE), "what judges the run")
        last = max((step for step, _ in state["points"]), default=0)
        if not last <= state["step"] <= self._limits.steps:
            raise UserError(
                f"what judges the run: step is {state['step']}; expected {last} to {self._limits.steps}"
            )
        self.step, self._first = state["step"], state["first"]
        self._smoothed, self._weight = state["smoothed"], state["weight"]
        self._reports = state["reports"]
        self._points = [(step, loss) for step, loss in state["points"]]
        self._pending = list(state["pending"])

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """Pairs of a step and the mean training loss since the previous pair: about `CURVE_POINTS` of them,
        all finite, the last one at the last reported step."""
        if self._pending:
            self._keep_point()
        return tuple(self._points)

    def _keep_point(self) -> None:
        n = len(self._pending)
        # Divided before summing, so that losses near the largest float have a finite mean.
        self._points.append((self.step, sum(loss / n for loss in self._pending)))
        self._pending.clear()

    def _judge(self, step: int, loss: float, before: int) -> None:
        after_warmup = step - self._limits.warmup_steps
        if after_warmup <= 0:
            return
        uniform = self._limits.uniform_loss
        # A loss counts for all steps since the last report.
        gain = 1 - (1 - 1 / self._horizon) ** (step - before)
        self._reports += 1
        self._smoothed += gain * (min(loss, CLIP_UNIFORM * uniform) - self._smoothed)
        self._weight += gain * (1 - self._weight)
        mean = self._smoothed / self._weight
        early = step <= SLOW_FRACTION * self._limits.steps
        bound = max(uniform, self._first) if early else uniform
        enough = after_warmup >= self._horizon and self._reports >= FEWEST_REPORTS
        if enough and mean > bound:
            raise Diverged(
                step,
                f"the smoothed training loss is {mean:.4g}, above {uniform:.4g} of a uniform guess",
            )
