"""The paired comparison against a textbook example, and its verdicts."""

import pytest

from completedp.stats import compare
from search.confirm import confirmed_arm, verdict

NONE_DIVERGED = {"global": 0, "module": 0}


def test_interval_against_a_known_case() -> None:
    """Differences 1..6: mean 3.5, s = 1.8708, t(5, .975) = 2.5706, half-width 1.9633."""
    base = dict.fromkeys(range(6), 0.0)
    tuned = {i: i + 1.0 for i in range(6)}
    got = compare(base, tuned)
    assert got is not None
    assert (got.pairs, got.mean) == (6, 3.5)
    assert (got.low, got.high) == (pytest.approx(1.5367, abs=1e-4), pytest.approx(5.4633, abs=1e-4))
    assert verdict(got, NONE_DIVERGED).startswith("no gain: ")


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([-0.03, -0.031, -0.029, -0.03, -0.028, -0.032], "gain"),
        ([-0.03, 0.03, -0.01, 0.02, 0.0, -0.01], "no gain shown"),
        ([-0.03, -0.031, -0.029, -0.03, -0.028], "too few seeds"),
    ],
)
def test_verdicts(differences: list[float], says: str) -> None:
    base = dict.fromkeys(range(len(differences)), 2.0)
    got = compare(base, {i: 2.0 + d for i, d in enumerate(differences)})
    assert verdict(got, NONE_DIVERGED).startswith(says)
    # Luckier seeds cannot outweigh a divergence that the baseline did not have.
    assert "diverged on 2" in verdict(got, {"global": 1, "module": 2})
    assert verdict(got, {"global": 2, "module": 2}).startswith(says)
    # One divergence of the baseline is no gain, and no evidence is not made one by it.
    unlucky = verdict(got, {"global": 2, "module": 1})
    assert unlucky.startswith(says)
    assert "the global configuration diverged on 2 fresh seeds" in unlucky


def test_a_baseline_that_never_trains_is_a_gain() -> None:
    assert verdict(None, {"global": 1, "module": 0}).startswith("too few seeds")
    assert verdict(None, {"global": 8, "module": 0}).startswith("gain: the per-module")


def test_the_arm_that_is_handed_over() -> None:
    better = compare(dict.fromkeys(range(6), 2.0), dict.fromkeys(range(6), 1.9))
    worse = compare(dict.fromkeys(range(6), 2.0), dict.fromkeys(range(6), 2.1))
    assert confirmed_arm(better, NONE_DIVERGED) == "module"
    assert confirmed_arm(worse, NONE_DIVERGED) == "global"
    assert confirmed_arm(None, NONE_DIVERGED) == "global"
    assert confirmed_arm(better, {"global": 0, "module": 1}) == "global"
    # What cannot be trained is no baseline, whatever is left to compare.
    assert confirmed_arm(None, {"global": 8, "module": 0}) == "module"
    assert confirmed_arm(worse, {"global": 6, "module": 0}) == "module"


def test_nothing_to_compare() -> None:
    assert verdict(None, NONE_DIVERGED).startswith("too few seeds to conclude (0 pairs")


def test_only_shared_seeds_count() -> None:
    got = compare({1: 2.0, 2: 2.0, 3: 2.0}, {2: 1.9, 3: 1.8, 4: 0.0})
    assert got is not None
    assert got.pairs == 2
    assert compare({1: 2.0}, {1: 1.0}) is None
