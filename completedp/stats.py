"""Two configurations on the same seeds: the mean of their paired differences, with Student's t interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired differences tuned - baseline in nats a token; negative is a gain. `low`, `high`: 95 %."""

    pairs: int
    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def compare(baseline: Mapping[int, float], tuned: Mapping[int, float]) -> Comparison | None:
    """The paired comparison over the seeds both have, or None with fewer than two."""
    seeds = [seed for seed in baseline if seed in tuned]
    if len(seeds) < 2:
        return None
    from scipy.stats import t as student

    differences = [tuned[seed] - baseline[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(seeds))
    reach = float(student.ppf(0.975, len(seeds) - 1)) * error
    return Comparison(pairs=len(seeds), mean=mean, low=mean - reach, high=mean + reach)
