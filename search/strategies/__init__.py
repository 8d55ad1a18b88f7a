"""The search strategies: each one maps a history of trials to the next point.

To add one, write a class with `propose` and `best` in a new file here and name it in `STRATEGIES`. Then the
command line offers it, `search.strategies.node.StrategyNode` runs it inside Ax, and the tests check it.
"""

from __future__ import annotations

from collections.abc import Mapping

from completedp.errors import named
from search.strategies.base import History, Observation, Strategy
from search.strategies.baselines.ax_default import AxDefault
from search.strategies.baselines.cma_es import SeparableCMAES
from search.strategies.baselines.optuna_samplers import OptunaSampler
from search.strategies.baselines.random_box import RandomBox
from search.strategies.baselines.sobol import Sobol
from search.strategies.trust_region_bo import TrustRegionBO
from search.strategies.trust_region_random import TrustRegionRandom

STRATEGIES: Mapping[str, Strategy] = {
    "trust-region": TrustRegionRandom(),
    "trust-region-bo": TrustRegionBO(),
    "random": RandomBox(),
    "sobol": Sobol(),
    "cma-es": SeparableCMAES(),
    "ax": AxDefault(),
    "optuna-tpe": OptunaSampler("tpe"),
    "optuna-gp": OptunaSampler("gp"),
}

__all__ = ["STRATEGIES", "History", "Observation", "Strategy", "strategy_named"]


def strategy_named(name: str) -> Strategy:
    """The strategy with this name. Raises `UserError` with the nearest known name."""
    return named(STRATEGIES, name, "strategy")
