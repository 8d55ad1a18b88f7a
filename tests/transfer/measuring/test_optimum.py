"""The optimum over learning rates: exact on parabolas, silent at the grid's edges, calibrated under noise."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.measuring.optimum import Sweep, Vector, estimate, shares, slope

OCTAVES = np.arange(-2, 2.01, 0.5)
CURVATURE = 0.03


def sweep(loss_SF: Any, seeds: tuple[int, ...] = (1, 2, 3), octave_F: Vector = OCTAVES) -> Sweep:
    return Sweep(octave_F=octave_F, mean_RF=shares(seeds) @ np.asarray(loss_SF))


def noisy(optimum: float, rng: np.random.Generator, seeds: int, noise: float = 0.004) -> Vector:
    """S x F losses: each seed has its difficulty, each run its noise."""
    curve = 2 + CURVATURE * (OCTAVES - optimum) ** 2
    difficulty = rng.normal(0, 0.015, (seeds, 1))
    losses: Vector = curve + difficulty + rng.normal(0, noise, (seeds, len(OCTAVES)))
    return losses


@given(
    optimum=st.floats(-1.7, 1.7),
    curvature=st.floats(0.001, 5),
    loss=st.floats(-3, 9),
    octave=st.floats(-2, 2),
)
def test_a_parabola_is_recovered(
    optimum: float, curvature: float, loss: float, octave: float
) -> None:
    found = sweep([loss + curvature * (OCTAVES - optimum) ** 2] * 3)
    assert found.place == "inside"
    assert found.optimum_R == pytest.approx(optimum, abs=1e-6)
    there = np.full(len(found.optimum_R), octave)
    expected = loss + curvature * (octave - optimum) ** 2
    assert found.loss_R(there) == pytest.approx(expected, abs=1e-6)
    a, b, c = found.parabola["coefficients"]
    assert a + b * octave + c * octave**2 == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("curve", "place"),
    [
        (OCTAVES, "low edge"),
        (-OCTAVES, "high edge"),
        ((OCTAVES + 2) ** 2, "low edge"),
        ([9, 1, 0, 1, 1, 1, 0.1, 1, 9], "inside"),
        ([0.4, 2, 0.4, 0.4, 0.3, 0.4, 0.4, 2, 0.4], "inside"),
        ([1, 1, 0, 1, -0.1, 1, 0, 1, 1], "unclear"),
    ],
)
def test_no_optimum_is_made_up(curve: Any, place: str) -> None:
    found = sweep([curve] * 3)
    assert found.place == place
    assert (estimate(found.optimum_R, 3) is not None) == (place == "inside")


def test_far_from_the_optimum_the_curve_is_what_was_measured_there() -> None:
    """In a valley with straight walls, the parabola around the minimum would lie far above the walls."""
    found = sweep([0.1 * abs(OCTAVES - 0.1)] * 3)
    far = np.full(len(found.optimum_R), 1.9)
    assert found.loss_R(far) == pytest.approx(0.18)
    assert np.isnan(found.loss_R(far + 0.2)).all()


def test_three_factors_are_enough() -> None:
    found = sweep([(np.arange(3) - 1.2) ** 2] * 3, octave_F=np.array([-2.0, 0.0, 2.0]))
    assert found.optimum_R == pytest.approx(0.4)


def test_rounded_factors_belong_to_an_octave_as_exact_ones_do() -> None:
    typed = np.log2([0.35, 0.5, 0.71, 1, 1.41, 2, 2.83])
    found = sweep([(typed - 0.5) ** 2] * 3, octave_F=typed)
    assert (found.parabola["first"], found.parabola["last"]) == (typed[2], typed[6])


def test_of_a_mean_the_interval_is_students() -> None:
    from scipy.stats import t as student

    seeds = (5, 6, 7, 8)
    values = np.array([0.1, -0.4, 0.3, 1.2])
    found = estimate(shares(seeds) @ values, len(seeds))
    assert found is not None
    assert found.high is not None
    assert found.value == pytest.approx(values.mean())
    reach = student.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert found.high - found.value == pytest.approx(reach, rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    """Checked for the optimum, for its move between two scales, and for the loss lost by carrying it."""
    rng = np.random.default_rng(seeds)
    held = []
    for _ in range(150):
        names = tuple(int(x) for x in rng.integers(0, 2**31, seeds))
        base, here = (sweep(noisy(x, rng, seeds), names) for x in (0.3, 0.8))
        lost_R = here.loss_R(base.optimum_R) - here.loss_R(here.optimum_R)
        truths = (
            (base.optimum_R, 0.3),
            (here.optimum_R - base.optimum_R, 0.5),
            (lost_R, CURVATURE * 0.5**2),
        )
        for value_R, truth in truths:
            found = estimate(value_R, seeds)
            assert found is not None
            above = found.low is None or found.low < truth
            held.append(above and (found.high is None or truth < found.high))
    by_truth = np.reshape(held, (-1, 3)).mean(0)
    assert by_truth == pytest.approx([0.95] * 3, abs=0.045)


@given(shift=st.floats(-1, 1), seed=st.integers(0, 2))
def test_one_seed_more_difficult_changes_nothing(shift: float, seed: int) -> None:
    """Pairing: a loss that a seed adds at every factor moves no optimum and costs nothing."""
    losses = noisy(0.2, np.random.default_rng(0), 3)
    before = sweep(losses)
    losses[seed] += shift
    after = sweep(losses)
    finite = np.isfinite(before.optimum_R)
    assert after.optimum_R[finite] == pytest.approx(before.optimum_R[finite], abs=1e-6)
    lost = [s.loss_R(np.zeros(len(finite))) - s.loss_R(s.optimum_R) for s in (before, after)]
    assert lost[1][finite] == pytest.approx(lost[0][finite], abs=1e-6)


def test_where_seeds_may_lie_beyond_the_grid_the_interval_is_open() -> None:
    inside = 0.1 * (OCTAVES - 1) ** 2
    found = sweep([inside, inside, -0.02 * OCTAVES])
    optimum = estimate(found.optimum_R, 3)
    assert optimum is not None
    assert optimum.low is not None
    assert optimum.high is None


@given(exponent=st.floats(-1, 1), start=st.floats(-1, 1))
def test_a_known_exponent_is_found(exponent: float, start: float) -> None:
    ratios = (0.5, 1, 4)
    optima = [np.full(3, start + exponent * np.log2(ratio)) for ratio in ratios]
    assert slope(ratios, optima) == pytest.approx(exponent, abs=1e-9)
    optima[2][1] = np.inf
    assert np.isfinite(slope(ratios, optima)).tolist() == [True, False, True]
