"""How every size should move with scale, how it does, and the verdict.

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

# The powers of m_N and m_L that a size follows if training is the same at every scale. They are derived from
# the rules, for averages over many entries, not from measurements. A size that is not listed stays constant.
# With two powers, the size moves from one to the other while the model learns, and its slope lies between.
EXPECTED: Mapping[tuple[Quantity, Part], tuple[Monomial, ...]] = {
    # A branch carries its coefficient m_L^-α. Behind a norm every hidden input has size 1.
    ("output", "branch"): (Monomial(depth_alpha=-1),),
    # m_N entries of variance m_N^-2, summed with random signs.
    ("output", "unembedding"): (Monomial(width=-0.5),),
    # An AdamW step has the length of the lr, m_L^(α-1) in a block. Along the input, fan-in · m_N^-1 adds up.
    ("update", "hidden"): (Monomial(depth=-1, depth_alpha=1),),
    ("update", "qk_norm"): (Monomial(depth=-1, depth_alpha=1),),
    # The step times the coefficient, so that 2L of them sum to 1 ([CompleteP]: every layer learns features).
    ("update", "branch"): (Monomial(depth=-1),),
    # The gain holds the multiplier on the logits.
    ("output", "tied_norm"): (Monomial(width=-1),),
    ("update", "tied_norm"): (Monomial(width=-1),),
    ("change", "tied_norm"): (Monomial(width=-1),),
    # Every ε scales as its tensor's gradient [CompletedP], with two exceptions. A gain shared by m_N heads
    # sums m_N terms of m_N^-1. At init their signs are random, because the heads' outputs are. Once the heads
    # have learned, the terms have one sign, and the ε is made for that.
    ("gradient", "qk_norm"): (Monomial(width=-0.5), ONE),
    # The final norm's gradient passes through the unembedding and scales as m_N^-1. The published ε does not
    # follow it (`final_norm_eps: gradient` does).
    ("gradient", "final_norm"): (Monomial(width=-1),),
    ("gradient", "tied_norm"): (Monomial(width=-1),),
}


def expected_slope(axis: Axis, key: Key, options: RuleOptions) -> tuple[float, float] | None:
    """The least and greatest exponent of the axis' ratio, None if no power is expected.

    The gradient over the batch is such a case. It falls like its noise, as m_B^-½, only while the noise
    dominates, and that depends on the phase of training. The noise itself is judged.
    """
    if axis == "batch":
        return (0.0, 0.0) if key.quantity == "noise" else None
    powers = EXPECTED.get((key.quantity, key.part), (ONE,))
    is_final_norm = key.part in ("final_norm", "tied_norm")
    if is_final_norm and key.quantity == "gradient" and options.final_norm_eps != "table":
        powers = (ONE,)
    slopes = [
        p.width if axis == "width" else p.depth + p.depth_alpha * options.alpha for p in powers
    ]
    return min(slopes), max(slopes)


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The slope d log2 size / d log2 ratio of one size: mean over seeds and Student's 95 % interval.

    All three numbers are infinite if a size was 0 or not finite.
    """

    axis: Axis
    key: Key
    expected: tuple[float, float] | None
    mean: float
    low: float
    high: float

    @property
    def distance(self) -> float:
        """The mean's distance from the expected range, 0 if nothing is expected."""
        if self.expected is None:
            return 0.0
        least, greatest = self.expected
        return max(0.0, least - self.mean, self.mean - greatest)

    @property
    def verdict(self) -> Literal["holds", "open", "fails", "not judged"]:
        """`fails` if the whole interval lies outside the tolerance, `holds` if it lies inside."""
        if self.expected is None:
            return "not judged"
        least, greatest = self.expected[0] - TOLERANCE, self.expected[1] + TOLERANCE
        if self.low > greatest or self.high < least:
            return "fails"
        return "holds" if least <= self.low and self.high <= greatest else "open"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with null for a number that is not finite."""
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
    """The slope of `sizes`, given by seed and then by ratio."""
    mean = low = high = math.inf
    if all(0 < size < math.inf for of_seed in sizes for size in of_seed):
        x = [math.log2(ratio) for ratio in ratios]
        slopes = [
            statistics.linear_regression(x, [math.log2(size) for size in of_seed]).slope
            for of_seed in sizes
        ]
        mean, low, high = mean_interval(slopes)
    expected = expected_slope(axis, key, options)
    return Slope(axis=axis, key=key, expected=expected, mean=mean, low=low, high=high)


def failures(slopes: Sequence[Slope]) -> list[Slope]:
    """The slopes that fail, the farthest from the expected range first."""
    return sorted((s for s in slopes if s.verdict == "fails"), key=lambda s: -s.distance)


def worst(slopes: Sequence[Slope]) -> Slope:
    """The judged slope farthest from the expected range, failing or not."""
    return max(slopes, key=lambda s: s.distance)
