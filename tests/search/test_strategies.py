"""Strategies are pure functions of history and generator, stay in the box, and begin at the start."""

import numpy as np
import pytest

from completedp.errors import UserError
from search.strategies import STRATEGIES, History, Observation, strategy_named
from search.strategies.trust_region_random import CENTER_EVERY, RADIUS, center

D = 7
WALL = np.full(D, 4.0)


def history(losses: list[float | None], seed: int = 0) -> History:
    rng = np.random.default_rng(seed)
    observations = [
        Observation(
            point_D=rng.uniform(-4, 4, D),
            status="diverged" if loss is None else "completed",
            loss=loss,
        )
        for loss in losses
    ]
    return History(
        seed=3, lower_D=-WALL, upper_D=WALL, start_D=np.zeros(D), observations=observations
    )


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(
    "losses",
    [[], [None], [None] * 9, [2.0, None, 1.0], [1 + i % 7 for i in range(50)]],
    ids=["none", "diverged", "all diverged", "three", "fifty"],
)
def test_contract(name: str, losses: list[float | None]) -> None:
    strategy = STRATEGIES[name]
    first, again = (strategy.propose(history(losses), np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (D,)
    assert np.all(np.abs(first) <= WALL)
    if not losses:
        assert np.array_equal(first, np.zeros(D))


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_coordinate_is_enough(name: str) -> None:
    """As in a search of the learning rate alone."""
    tried = [Observation(point_D=np.array([x]), status="completed", loss=x**2) for x in (0.0, 1.0)]
    alone = History(
        seed=3,
        lower_D=-WALL[:1],
        upper_D=WALL[:1],
        start_D=np.zeros(1),
        observations=tried,
    )
    (x,) = STRATEGIES[name].propose(alone, np.random.default_rng(5))
    assert abs(x) <= WALL[0]


def test_trust_region_stays_near_its_center() -> None:
    here = history([float(i) for i in range(30)])
    for seed in range(50):
        point_D = STRATEGIES["trust-region"].propose(here, np.random.default_rng(seed))
        assert np.abs(point_D - center(here)).max() <= RADIUS


def test_in_more_dimensions_a_step_is_shorter_in_each() -> None:
    """The mean square of a step, summed over its coordinates, stays as it is in 37 dimensions."""
    sums = []
    for d in (37, 148):
        start_D = np.zeros(d)
        seen = [Observation(point_D=start_D, status="completed", loss=1.0)]
        wide = History(
            seed=0, lower_D=start_D - 4, upper_D=start_D + 4, start_D=start_D, observations=seen
        )
        points = [
            STRATEGIES["trust-region"].propose(wide, np.random.default_rng(seed))
            for seed in range(400)
        ]
        sums.append(np.mean([np.sum(point_D**2) for point_D in points]))
    assert sums[0] == pytest.approx(sums[1], rel=0.1)


def test_every_eighth_trial_is_the_center() -> None:
    here = history([float(i) for i in range(CENTER_EVERY - 1)])
    point_D = STRATEGIES["trust-region"].propose(here, np.random.default_rng(0))
    assert np.array_equal(point_D, center(here))


def test_the_center_averages_the_best_third_and_ignores_the_diverged() -> None:
    here = history([3.0, 1.0, None, 2.0, 5.0, 6.0, 4.0])
    points = [o.point_D for o in here.observations]
    low, high = np.minimum(points[1], points[3]), np.maximum(points[1], points[3])
    assert np.all((center(here) >= low) & (center(here) <= high))
    assert np.linalg.norm(center(here) - points[1]) < np.linalg.norm(center(here) - points[3])


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean 'trust-region'"):
        strategy_named("trust-regoin")
