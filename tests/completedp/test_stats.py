"""Intervals against textbook numbers and each other."""

import math
import statistics

import pytest

from completedp.stats import compare, jackknife_error, mean_interval, t_reach


def test_a_mean_has_students_interval() -> None:
    """1 to 6: mean 3.5, s = 1.8708, t(5, .975) = 2.5706, half-width 1.9633."""
    assert t_reach(6) == pytest.approx(2.5706, abs=1e-4)
    assert mean_interval(range(1, 7)) == pytest.approx((3.5, 1.5367, 5.4633), abs=1e-4)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    samples = [0.1, -0.4, 0.3, 1.2]
    left_out = [statistics.fmean(samples[:i] + samples[i + 1 :]) for i in range(len(samples))]
    assert jackknife_error(left_out) == pytest.approx(statistics.stdev(samples) / math.sqrt(4))


def test_only_common_seeds_are_compared() -> None:
    found = compare({0: 2.0, 1: 2.5, 2: 9.0}, {1: 2.0, 0: 1.75})
    assert found is not None
    assert (found.pairs, found.mean) == (2, -0.375)
    assert compare({0: 2.0, 1: 2.5}, {1: 2.0}) is None
