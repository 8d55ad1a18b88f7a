"""The additive model finds what moves the loss; the strategy steps around what it finds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.strategies import STRATEGIES, History, Observation, trust_region_bo
from search.strategies.additive import AdditiveKernel, AdditiveModel, effects
from search.strategies.trust_region_bo import (
    BEST_EVERY,
    FIRST,
    REACH,
    STEP,
    STEP_DIMENSIONS,
    bounded,
    expected_best,
    steps,
)

NOISE = 0.01


def history(points_ND: np.ndarray, losses: list[float | None], wall: float = 4.0) -> History:
    wall_D = np.full(points_ND.shape[1], wall)
    observations = [
        Observation(point_D=point_D, status="diverged" if loss is None else "completed", loss=loss)
        for point_D, loss in zip(points_ND, losses, strict=True)
    ]
    return History(
        seed=0,
        lower_D=-wall_D,
        upper_D=wall_D,
        start_D=np.zeros_like(wall_D),
        observations=observations,
    )


def test_nothing_is_thrown_over_the_box_while_nothing_has_ended() -> None:
    """With many workers, more than `FIRST` trials run before the first one has ended."""
    points_ND = np.vstack([np.zeros(90), signs(FIRST + 5, 90)])
    running = [Observation(point_D=p, status="pending", loss=None) for p in points_ND]
    here = dataclasses.replace(history(points_ND[:1], [1.0]), observations=running)
    strategy = STRATEGIES["trust-region-bo"]
    assert np.abs(strategy.propose(here, np.random.default_rng(0))).max() < 1
    lost = [dataclasses.replace(o, status="diverged") for o in running]
    here = dataclasses.replace(here, observations=lost)
    assert np.abs(strategy.propose(here, np.random.default_rng(0))).max() > 3


def test_the_best_point_is_not_tried_twice_though_it_was_rounded() -> None:
    points_ND = signs(4 * FIRST - 1, 40)
    losses: list[float | None] = list(points_ND[:, 0])
    here = history(points_ND, losses)
    strategy = STRATEGIES["trust-region-bo"]
    best_D = expected_best(here)
    assert best_D is not None
    np.testing.assert_array_equal(strategy.propose(here, np.random.default_rng(0)), best_D)
    rounded = Observation(point_D=best_D.round(6), status="pending", loss=None)
    again = dataclasses.replace(here, observations=[rounded, *here.observations[1:]])
    best_D = expected_best(again)
    assert best_D is not None
    rounded = dataclasses.replace(rounded, point_D=best_D.round(6))
    again = dataclasses.replace(here, observations=[rounded, *here.observations[1:]])
    assert not np.allclose(strategy.propose(again, np.random.default_rng(0)), best_D, atol=1e-3)


def signs(number: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-0.5, 0.5], size=(number, dimensions))


@given(st.integers(1, 6), st.integers(0, 99))
def test_a_covariance_that_is_zero_at_the_start(dimensions: int, seed: int) -> None:
    points_ND = torch.tensor(np.random.default_rng(seed).uniform(-4, 4, (7, dimensions)))
    kernel = AdditiveKernel(dimensions)
    covariance = kernel.forward(points_ND, points_ND)
    assert torch.linalg.eigvalsh(covariance).min() > -1e-9
    start_1D = torch.zeros(1, dimensions, dtype=torch.float64)
    assert torch.all(kernel.forward(start_1D, points_ND) == 0)
    assert torch.allclose(kernel.forward(points_ND, points_ND, diag=True), covariance.diagonal())
    seeds_N1 = torch.tensor([[0.0], [1.0], [0.0], [1.0], [2.0], [2.0], [2.0]], dtype=torch.float64)
    seeded = AdditiveKernel(dimensions, seeds=True)
    inputs = torch.cat((points_ND, seeds_N1), dim=1)
    offsets = seeded.forward(inputs, inputs) - covariance
    assert torch.allclose(offsets, (seeds_N1 == seeds_N1.T) * (2 * seeded.log_seed).exp())


def test_near_the_start_an_effect_is_a_slope() -> None:
    x_ND = torch.tensor([[1e-3], [-1e-3], [2e-3]], dtype=torch.float64)
    assert torch.allclose(effects(x_ND, x_ND)[0], x_ND @ x_ND.T, rtol=1e-3, atol=0)


def test_a_few_large_effects_are_found_among_many_coordinates() -> None:
    """Fewer trials than coordinates; two of them matter, as much as the noise."""
    points_ND = signs(50, 80)
    slope_D = np.zeros(80)
    slope_D[[3, 70]] = [-0.04, 0.03]
    noise_N = np.random.default_rng(1).normal(0, NOISE, len(points_ND))
    losses_N = 1.8 + points_ND @ slope_D + noise_N
    best_D = AdditiveModel(points_ND, losses_N).best(np.full(80, -2.0), np.full(80, 2.0))
    assert best_D[3] > 0.5
    assert best_D[70] < -0.5
    others_D = np.delete(best_D, [3, 70])
    assert np.abs(others_D).mean() < 0.25 * min(best_D[3], -best_D[70])


def test_a_seed_that_moves_all_its_trials_hides_no_effect() -> None:
    """The seeds' offsets are ten times an effect."""
    points_ND, seeds_N = signs(60, 20), [i % 4 for i in range(60)]
    rng = np.random.default_rng(1)
    offset_4 = rng.normal(0, 0.2, 4)
    losses_N = 1.8 - 0.04 * points_ND[:, 3] + offset_4[seeds_N] + rng.normal(0, 0.004, 60)
    box = np.full(20, -2.0), np.full(20, 2.0)
    knows, blind = (AdditiveModel(points_ND, losses_N, s).best(*box) for s in (seeds_N, [0] * 60))
    assert knows[3] > 0.5
    assert np.abs(np.delete(knows, 3)).mean() < 0.2 * knows[3]
    assert np.abs(np.delete(blind, 3)).mean() > 2 * np.abs(np.delete(knows, 3)).mean()


def test_the_best_point_is_that_of_the_process() -> None:
    """Against BoTorch's own posterior over random points of the box."""
    rng = np.random.default_rng(2)
    points_ND = rng.uniform(-2, 2, (40, 3))
    losses_N = 0.02 * ((points_ND - [0.7, -1.0, 0.0]) ** 2).sum(1) + rng.normal(0, 0.002, 40)
    model = AdditiveModel(points_ND, losses_N)
    best_D = model.best(np.full(3, -2.0), np.full(3, 2.0))
    others = torch.tensor(rng.uniform(-2, 2, (2000, 3)))
    with torch.no_grad():
        least = model.gp.posterior(others).mean.min()
        assert model.gp.posterior(torch.tensor(best_D[None])).mean <= least + 1e-6
    assert best_D == pytest.approx([0.7, -1.0, 0.0], abs=0.2)


def test_where_nothing_is_known_nothing_moves() -> None:
    points_ND = signs(20, 5)
    assert np.all(
        AdditiveModel(points_ND, np.ones(20)).best(np.full(5, -2.0), np.full(5, 2.0)) == 0
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(FIRST, FIRST + 2 * BEST_EVERY), st.floats(0.3, 2.0), st.sampled_from([4, 40]))
def test_steps_around_the_expected_best(number: int, wall: float, dimensions: int) -> None:
    points_ND = np.clip(signs(number, dimensions, seed=number), -wall, wall)
    here = history(points_ND, list(1.8 + 0.05 * points_ND[:, 0]), wall)
    best_D = best_of(here)
    assert np.all(np.abs(best_D) <= min(wall, 0.5 + REACH))
    point_D = STRATEGIES["trust-region-bo"].propose(here, np.random.default_rng(0))
    if number % BEST_EVERY == BEST_EVERY - 1:
        assert np.array_equal(point_D, best_D)
    else:
        expected_D = best_D + steps(dimensions, np.random.default_rng(0))
        assert np.array_equal(point_D, np.clip(expected_D, -wall, wall))


def best_of(here: History) -> np.ndarray:
    best_D = expected_best(here)
    assert best_D is not None
    return best_D


def test_diverged_trials_keep_it_away() -> None:
    """The loss falls towards a cliff: without the diverged trials the best point lies beyond it."""
    rng = np.random.default_rng(3)
    points_ND = rng.uniform(-1, 2, (60, 4))
    losses: list[float | None] = [
        None if x > 1 else 1.8 - 0.05 * float(x) + float(rng.normal(0, 0.003))
        for x in points_ND[:, 0]
    ]
    assert best_of(history(points_ND, losses))[0] < 1
    finite = [i for i, loss in enumerate(losses) if loss is not None]
    careless = history(points_ND[finite], [losses[i] for i in finite])
    assert best_of(careless)[0] > 1


@pytest.mark.parametrize(("dimensions", "first"), [(6, 6), (20, FIRST)])
def test_the_first_steps_are_around_the_start_whatever_came_of_them(
    dimensions: int, first: int
) -> None:
    propose = STRATEGIES["trust-region-bo"].propose
    for number, around in ((first - 1, True), (first, False)):
        here = history(signs(number, dimensions), [1.0 + i for i in range(number)])
        point_D = propose(here, np.random.default_rng(0))
        assert np.array_equal(point_D, steps(dimensions, np.random.default_rng(0))) is around


def test_the_model_forgets_the_first_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_region_bo, "MODELED", 30)
    points_ND = signs(50, 4)
    losses = list(1.8 - 0.05 * points_ND[:, 0])
    other = [*(9.0 - loss for loss in losses[:20]), *losses[20:]]
    assert np.array_equal(
        best_of(history(points_ND, losses)), best_of(history(points_ND, list(other)))
    )


def test_what_is_far_above_says_only_that_it_is_bad() -> None:
    losses_N = np.array([1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.3, 1.35, 1.4, 1.4, 9.0, np.inf])
    drawn_N = bounded(losses_N)
    assert np.array_equal(drawn_N[:-2], losses_N[:-2])
    assert 1.4 < drawn_N[-2] == drawn_N[-1] < 3


def test_where_most_are_alike_the_rest_still_counts() -> None:
    losses_N = np.array([1.0] * 8 + [1.2, 1.3, 1.4])
    assert np.array_equal(bounded(losses_N)[:-1], losses_N[:-1])
    assert np.array_equal(bounded(np.array([1.0, 1.0, np.inf])), [1.0, 1.0, 1.0])


def test_steps_shorten_with_dimension() -> None:
    rng = np.random.default_rng(0)
    for dimensions, length in ((3, 1.0), (37, STEP), (4 * STEP_DIMENSIONS, STEP / 2)):
        found = np.array([steps(dimensions, rng) for _ in range(2000)])
        assert np.sqrt(np.mean(found**2)) == pytest.approx(length, rel=0.03)


def test_where_nothing_trains_it_looks_everywhere() -> None:
    points_ND = signs(FIRST, 3)
    here = history(points_ND, [None] * FIRST)
    proposed = [
        STRATEGIES["trust-region-bo"].propose(here, np.random.default_rng(s)) for s in range(40)
    ]
    assert np.abs(proposed).max() > 3


@pytest.mark.parametrize("dimensions", [1, 2, 8])
def test_without_noise_it_converges_and_never_repeats_itself(dimensions: int) -> None:
    """Smooth losses bring the covariance nearest to one without a root."""
    lowest_D = np.random.default_rng(dimensions).uniform(-2, 2, dimensions)
    points: list[np.ndarray] = []
    losses: list[float | None] = []
    for trial in range(40):
        here = history(np.array(points).reshape(-1, dimensions), losses)
        points.append(STRATEGIES["trust-region-bo"].propose(here, np.random.default_rng(trial)))
        losses.append(1 + 0.05 * float(((points[-1] - lowest_D) ** 2).sum()))
    assert len({tuple(point_D) for point_D in points}) == len(points)
    start = 1 + 0.05 * float((lowest_D**2).sum())
    assert min(x for x in losses if x is not None) - 1 < 0.1 * (start - 1)
