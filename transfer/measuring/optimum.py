"""The optimum over learning rates, and the loss at another learning rate, from a few noisy runs.

Near its minimum the mean loss is a parabola in log2 of the learning rate: least squares through the factors
within `WINDOW` octaves of the lowest mean. Elsewhere the parabola goes through the factors around the place
in question. If the lowest mean is at an end of the grid, there is no optimum. Loss rises faster above the
optimum than below, which a parabola leaves out. If the third order is a fifth of the second, the parabola's
optimum is low by about a tenth of an octave, at every scale alike.

Intervals are bootstrapped. Whole seeds are drawn, the same draw at every scale and factor, and the estimate
is made again from the lowest mean on. The quantiles of such draws say too little for so few seeds: the
truth lies between the lowest and the highest of n seeds at most 1 - 2^(1-n) of the time (75 % for n = 3).
So the draws give the standard error, without its narrowness factor √((n-1)/n), and Student's t with n - 1
degrees of freedom gives the interval [Hesterberg]. For a mean this is Student's interval.

.. [Hesterberg] What Teachers Should Know About the Bootstrap, arXiv 1411.5279, on narrowness bias.

Shapes: F factors, S seeds, C coefficients, K scales, R sets of means. The first set is the seeds' own, the
others are the draws'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from completedp.stats import t_reach

# Octaves to either side: one, and a little for factors such as 0.71 in place of 2^-½. Half the window has
# 1.5 x the error at the noise of a small proxy; 1.5 x the window has twice the bias (both simulated).
WINDOW = 1.05
FEWEST_FACTORS = 3  # a parabola has three coefficients
DRAWS = 2000
# An interval is open on a side if more than this share of the draws had no optimum there.
OPEN = 0.025

Vector = NDArray[np.float64]
Numbers = NDArray[np.intp]
Place = Literal["inside", "low edge", "high edge", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and the ends of its 95 % interval; an end is None if the draws leave that side open."""

    value: float
    low: float | None
    high: float | None


def shares(seeds: Sequence[int]) -> Vector:
    """R x S: each seed's share of a mean, first among the seeds themselves, then in draws seeded by them."""
    n = len(seeds)
    counts = np.random.default_rng(list(seeds)).multinomial(n, [1 / n] * n, size=DRAWS)
    return np.vstack([np.ones((1, n)), counts]) / n


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """Mean losses in nats per token at ascending factors, `FEWEST_FACTORS` or more.

    `octave_F` is log2 of the factor on the carried learning rate.
    """

    octave_F: Vector
    mean_RF: Vector

    @cached_property
    def optimum_R(self) -> Vector:
        """The optimum in octaves.

        It is -inf or inf if the lowest mean is at that end of the grid, and NaN if the losses in the window
        do not curve upwards or have their minimum outside of it.
        """
        i_R = self._lowest_R
        _, b_R, c_R = self._coefficients(i_R)
        with np.errstate(divide="ignore", invalid="ignore"):
            octave_R = self.octave_F[i_R] - b_R / (2 * c_R)
        first_R, last_R = self._ends(i_R)
        found_R = (c_R > 0) & (first_R <= octave_R) & (octave_R <= last_R)
        octave_R = np.where(found_R, octave_R, np.nan)
        octave_R[i_R == 0] = -np.inf
        octave_R[i_R == len(self.octave_F) - 1] = np.inf
        return octave_R

    @property
    def place(self) -> Place:
        """The place of the seeds' own optimum."""
        octave = self.optimum_R[0]
        if math.isnan(octave):
            return "unclear"
        return "inside" if math.isfinite(octave) else "low edge" if octave < 0 else "high edge"

    @property
    def parabola(self) -> dict[str, Any]:
        """The parabola around the seeds' own lowest mean, as plain JSON.

        It is `a + b x + c x²` in nats per token for x in octaves, fitted between `first` and `last`.
        """
        i = self._lowest_R[:1]
        a, b, c = (float(part[0]) for part in self._coefficients(i))
        x = float(self.octave_F[i[0]])
        first, last = (float(end[0]) for end in self._ends(i))
        return {
            "first": first,
            "last": last,
            "coefficients": (a - b * x + c * x * x, b - 2 * c * x, c),
        }

    @property
    def lowest(self) -> float:
        """The seeds' own lowest mean. It is the luckiest, so it lies below the truth."""
        return float(self.mean_RF[0].min())

    def loss_R(self, octave_R: Vector) -> Vector:
        """The fitted loss of each set of means at its own place in `octave_R`; NaN beyond the grid."""
        i_R = self._lowest_R
        first_R, last_R = self._ends(i_R)
        with np.errstate(invalid="ignore"):
            near_R = (first_R <= octave_R) & (octave_R <= last_R)
            beyond_R = ~((self.octave_F[0] <= octave_R) & (octave_R <= self.octave_F[-1]))
        octave_R = np.where(beyond_R, np.nan, octave_R)
        i_R = np.where(near_R, i_R, self.nearest(octave_R))
        a_R, b_R, c_R = self._coefficients(i_R)
        x_R = octave_R - self.octave_F[i_R]
        return a_R + b_R * x_R + c_R * x_R**2

    def nearest(self, octave_R: Vector) -> Numbers:
        """The index of the nearest factor."""
        number_R: Numbers = np.abs(octave_R[:, None] - self.octave_F).argmin(1)
        return number_R

    @cached_property
    def _lowest_R(self) -> Numbers:
        number_R: Numbers = self.mean_RF.argmin(1)
        return number_R

    @cached_property
    def _near_FF(self) -> NDArray[np.bool_]:
        """Row i: which factors belong to the parabola around factor i."""
        near_FF = np.abs(self.octave_F[:, None] - self.octave_F) <= WINDOW
        for i, near_F in enumerate(near_FF):
            first = min(max(i - 1, 0), len(near_F) - FEWEST_FACTORS)
            near_F[first : first + FEWEST_FACTORS] = True
        return near_FF

    @cached_property
    def _solver_FCF(self) -> Vector:
        """Entry i: the matrix from the means to the coefficients of the parabola around factor i."""
        F = len(self.octave_F)
        solver_FCF = np.zeros((F, 3, F))
        for i, near_F in enumerate(self._near_FF):
            powers = np.vander(self.octave_F[near_F] - self.octave_F[i], 3, increasing=True)
            solver_FCF[i][:, near_F] = np.linalg.pinv(powers)
        return solver_FCF

    def _coefficients(self, i_R: Numbers) -> tuple[Vector, Vector, Vector]:
        """The coefficients of the first R sets of means, around the factors with the indices `i_R`."""
        mean_RF = self.mean_RF[: len(i_R)]
        a_R, b_R, c_R = np.einsum("rcf,rf->cr", self._solver_FCF[i_R], mean_RF)
        return a_R, b_R, c_R

    def _ends(self, i_R: Numbers) -> tuple[Vector, Vector]:
        """The ends of the parabolas around the factors with the indices `i_R`, in octaves."""
        first_F = self._near_FF.argmax(1)
        last_F = len(self.octave_F) - 1 - self._near_FF[:, ::-1].argmax(1)
        return self.octave_F[first_F[i_R]], self.octave_F[last_F[i_R]]


def estimate(value_R: Vector, seeds: int) -> Estimate | None:
    """The first value with an interval from the others, the draws; None if the first is not finite.

    `seeds` is the number of seeds.
    """
    if not math.isfinite(value_R[0]):
        return None
    value, drawn = float(value_R[0]), value_R[1:]
    finite = drawn[np.isfinite(drawn)]
    spread = float(finite.std()) if len(finite) else 0.0
    reach = t_reach(seeds) * math.sqrt(seeds / (seeds - 1)) * spread
    return Estimate(
        value=value,
        low=value - reach if np.mean(~(drawn > -np.inf)) <= OPEN else None,
        high=value + reach if np.mean(~(drawn < np.inf)) <= OPEN else None,
    )


def slope(ratios: Sequence[float], optimum_KR: Sequence[Vector]) -> Vector:
    """Octaves of the optimum per octave of the ratio, by least squares over two or more scales."""
    octave_K = np.log2(ratios)
    away_K = octave_K - octave_K.mean()
    with np.errstate(invalid="ignore"):
        found_R: Vector = away_K @ np.stack(optimum_KR) / (away_K @ away_K)
    return found_R
