"""What every size should do over scale, what it does, and the verdict.

.. [CompleteP]   Don't be lazy: CompleteP enables compute-efficient deep transformers, arXiv 2505.01618.
.. [CompletedP]  Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and Duration,
                 arXiv 2512.22382.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from completedp.coordcheck.measure import Key, Quantity
from completedp.coordcheck.subject import Part
from completedp.rules import ONE, Monomial, RuleOptions
from completedp.stats import mean_interval

Axis = Literal["width", "depth", "batch"]
AXES: tuple[Axis, ...] = ("width", "depth", "batch")

TOLERANCE = 0.15

# The power of m_N and m_L with which a size goes where training is the same at every scale: derived from the
# rules, for many entries to average over, not from measurements. What is not here is 1. Two powers: the size
# goes over from one to the other while the model learns, and its slope lies between.
EXPECTED: Mapping[tuple[Quantity, Part], tuple[Monomial, ...]] = {
    # A branch carries its coefficient m_L^-α; behind a norm every hidden input is of size 1.
    ("output", "branch"): (Monomial(depth_alpha=-1),),
    # m_N entries of variance m_N^-2, summed with random signs.
    ("output", "unembedding"): (Monomial(width=-0.5),),
    # An AdamW step is as long as the lr, m_L^(α-1) in a block; fan-in · m_N^-1 adds up along the input.
    ("update", "hidden"): (Monomial(depth=-1, depth_alpha=1),),
    ("update", "qk_norm"): (Monomial(depth=-1, depth_alpha=1),),
    # Times its coefficient, so that 2L of them sum to 1 ([CompleteP]'s feature learning in every layer).
    ("update", "branch"): (Monomial(depth=-1),),
    # The multiplier on the logits is in its gain.
    ("output", "tied_norm"): (Monomial(width=-1),),
    ("update", "tied_norm"): (Monomial(width=-1),),
    ("change", "tied_norm"): (Monomial(width=-1),),
    # Every ε goes as its tensor's gradient [CompletedP], with two exceptions. A gain shared by m_N heads sums
    # m_N terms of m_N^-1: with random signs at init, because the heads' outputs are random there, with one
    # sign once they are learned, which is what its ε is for.
    ("gradient", "qk_norm"): (Monomial(width=-0.5), ONE),
    # The final norm's gradient passes through the unembedding, as m_N^-1; the printed ε does not follow it
    # (option `final_norm_eps`: `gradient` does).
    ("gradient", "final_norm"): (Monomial(width=-1),),
    ("gradient", "tied_norm"): (Monomial(width=-1),),
}


FINAL_NORMS: tuple[Part, ...] = ("final_norm", "tied_norm")


def expected_slope(axis: Axis, key: Key, options: RuleOptions) -> tuple[float, float] | None:
    """The least and greatest exponent of the axis' ratio; None where no power is expected, nothing judged.

    The whole gradient over the batch is such a case: it falls as its noise does, m_B^-½, only where that
    dominates, which depends on the phase of training. The noise itself is judged.
    """
    if axis == "batch":
        return (0.0, 0.0) if key.quantity == "noise" else None
    powers = EXPECTED.get((key.quantity, key.part), (ONE,))
    if key.quantity == "gradient" and key.part in FINAL_NORMS and options.final_norm_eps != "table":
        powers = (ONE,)
    slopes = [
        p.width if axis == "width" else p.depth + p.depth_alpha * options.alpha for p in powers
    ]
    return min(slopes), max(slopes)


@dataclass(frozen=True, kw_only=True)
class Slope:
    """d log2 size / d log2 ratio of one size: mean over seeds and Student's 95 % interval.

    All three are infinite where a size was 0 or not finite.
    """

    axis: Axis
    key: Key
    expected: tuple[float, float] | None
    mean: float
    low: float
    high: float

    @property
    def distance(self) -> float:
        """Of the mean from what is expected; 0 where nothing is."""
        if self.expected is None:
            return 0.0
        least, greatest = self.expected
        return max(0.0, least - self.mean, self.mean - greatest)

    @property
    def verdict(self) -> Literal["holds", "open", "fails", "not judged"]:
        """`fails` where the whole interval lies outside the tolerance, `holds` where it lies inside."""
        if self.expected is None:
            return "not judged"
        least, greatest = self.expected[0] - TOLERANCE, self.expected[1] + TOLERANCE
        if self.low > greatest or self.high < least:
            return "fails"
        return "holds" if least <= self.low and self.high <= greatest else "open"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with null for what is not finite."""
        numbers = {name: getattr(self, name) for name in ("mean", "low", "high")}
        return {
            "axis": self.axis,
            "quantity": self.key.quantity,
            "module": self.key.module,
            "place": self.key.place,
            "expected": None if self.expected is None else list(self.expected),
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "distance": self.distance if math.isfinite(self.distance) else None,
            "verdict": self.verdict,
        }


def slope(
    axis: Axis,
    key: Key,
    ratios: Sequence[float],
    sizes: Sequence[Sequence[float]],
    options: RuleOptions,
) -> Slope:
    """From sizes by seed and ratio, the ratios of every seed being `ratios`."""
    expected = expected_slope(axis, key, options)
    if not all(0 < size < math.inf for of_seed in sizes for size in of_seed):
        return Slope(
            axis=axis, key=key, expected=expected, mean=math.inf, low=math.inf, high=math.inf
        )
    x = [math.log2(ratio) for ratio in ratios]
    slopes = [
        statistics.linear_regression(x, [math.log2(size) for size in of_seed]).slope
        for of_seed in sizes
    ]
    mean, low, high = mean_interval(slopes)
    return Slope(axis=axis, key=key, expected=expected, mean=mean, low=low, high=high)


def failures(slopes: Sequence[Slope]) -> list[Slope]:
    """The slopes that fail, the farthest from what is expected first."""
    return sorted((s for s in slopes if s.verdict == "fails"), key=lambda s: -s.distance)


def worst(slopes: Sequence[Slope]) -> Slope:
    """The judged slope that is farthest from what is expected, failing or not."""
    return max(slopes, key=lambda s: s.distance)
