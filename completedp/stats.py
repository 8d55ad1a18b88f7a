"""Paired comparisons and 95 % intervals (Student's t) from a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean of paired differences tuned - baseline, in nats per token. A negative one is a gain.

    `low` and `high` are the ends of the 95 % interval. `pairs` is the number of seeds.
    """

    pairs: int
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def compare(baseline: Mapping[int, float], tuned: Mapping[int, float]) -> Comparison | None:
    """Compare losses by seed over the seeds that both have. None with fewer than two such seeds."""
    differences = [tuned[seed] - loss for seed, loss in baseline.items() if seed in tuned]
    if len(differences) < 2:
        return None
    mean, low, high = mean_interval(differences)
    return Comparison(pairs=len(differences), mean=mean, low=low, high=high)


def mean_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """The mean of two or more samples, and the ends of its 95 % interval."""
    n, mean = len(samples), statistics.fmean(samples)
    reach = t_reach(n) * (statistics.stdev(samples) / math.sqrt(n))
    return mean, mean - reach, mean + reach


def jackknife_error(left_out: Sequence[float]) -> float:
    """The standard error of an estimate from n samples.

    `left_out` holds n estimates, each made without one of the samples.
    """
    n, mean = len(left_out), statistics.fmean(left_out)
    return math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in left_out))


def t_reach(samples: int) -> float:
    """Half the width of a 95 % interval, in standard errors, for two or more samples."""
    from scipy.stats import t as student

    return float(student.ppf(0.975, samples - 1))
