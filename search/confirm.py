"""The confirmation: the best per-module configuration against the best global one.

Both are trained on fresh, paired seeds and judged on the report split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from completedp.runs.journal import TrialRecord
from completedp.stats import Comparison

ARMS = ("global", "module")
FEWEST_PAIRS = 6  # below this a t interval says more about luck than about the recipe


def losses_by_arm(confirmations: Sequence[TrialRecord]) -> dict[str, dict[int, float]]:
    """Arm → seed → report loss of the completed confirmation runs."""
    return {
        arm: {
            t.seed: t.loss
            for t in confirmations
            if t.extra.get("arm") == arm and t.loss is not None
        }
        for arm in ARMS
    }


def values_by_arm(confirmations: Sequence[TrialRecord]) -> dict[str, Mapping[str, float]]:
    """Arm → its values in octaves, for the arms that were trained."""
    return {t.extra["arm"]: t.values for t in confirmations}


def diverged_by_arm(confirmations: Sequence[TrialRecord]) -> dict[str, int]:
    """Arm → fresh seeds on which it diverged."""
    return {
        arm: sum(t.extra.get("arm") == arm and t.status == "diverged" for t in confirmations)
        for arm in ARMS
    }


def confirmed_arm(comparison: Comparison | None, diverged: dict[str, int]) -> str:
    """The arm to hand over: the one that diverged on fewer fresh seeds.

    If both diverged on equally many, the per-module arm wins if there are pairs and it is no worse on
    average.
    """
    if diverged["module"] != diverged["global"]:
        return min(ARMS, key=lambda arm: diverged[arm])
    return "module" if comparison is not None and comparison.mean <= 0 else "global"


def verdict(comparison: Comparison | None, diverged: dict[str, int]) -> str:
    """The result of the confirmation for the per-module configuration, in words."""
    if diverged["module"] > diverged["global"]:
        return f"no gain: the per-module configuration diverged on {diverged['module']} fresh seeds"
    beside = ""
    if diverged["global"] > diverged["module"]:
        beside = (
            f"; the global configuration diverged on {diverged['global']} fresh seeds, the per-module one on "
            f"{diverged['module']}, and losses are compared on the others"
        )
        if diverged["global"] - diverged["module"] >= FEWEST_PAIRS:
            return f"gain: the per-module configuration trains{beside}"
    return _of_losses(comparison) + beside


def _of_losses(comparison: Comparison | None) -> str:
    if comparison is None or comparison.pairs < FEWEST_PAIRS:
        pairs = comparison.pairs if comparison else 0
        return f"too few seeds to conclude ({pairs} pairs; {FEWEST_PAIRS} are needed)"
    if comparison.high < 0:
        return "gain: the per-module configuration is better"
    if comparison.low > 0:
        return "no gain: the per-module configuration is worse"
    return "no gain shown: the interval includes zero"
