from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from completedp.errors import UserError
from completedp.runs.divergence import CURVE_POINTS, Monitor
from completedp.runs.job import Diverged, Limits

UNIFORM = math.log(256)
HEALTHY = 0.75 * UNIFORM


def train(monitor: Monitor, losses: list[float]) -> None:
    for step, loss in enumerate(losses, 1):
        monitor(step, loss)


def limits(steps: int, warmup: int = 10) -> Limits:
    return Limits(steps=steps, warmup_steps=warmup, uniform_loss=UNIFORM)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_divergence_at_its_step(bad: float) -> None:
    monitor = Monitor(limits(100))
    with pytest.raises(Diverged, match=r"step 4.*training loss") as caught:
        train(monitor, [2.0, 2.0, 2.0, bad])
    assert caught.value.step == 4
    assert monitor.curve[-1] == (3, 2.0)


def test_a_run_lost_above_a_uniform_guess_ends_soon_after_warm_up() -> None:
    monitor = Monitor(limits(1000))
    with pytest.raises(Diverged, match=r"smoothed training loss is 6.* above 5.545") as caught:
        train(monitor, [5.8] + [6.0] * 999)
    assert 10 < caught.value.step <= 100


def test_an_explosion_in_mid_run_ends_within_a_few_percent() -> None:
    monitor = Monitor(limits(1000))
    with pytest.raises(Diverged) as caught:
        train(monitor, [2.0] * 500 + [1e9] * 500)
    assert 500 < caught.value.step <= 550


def test_a_slow_start_below_where_it_began_has_half_the_steps() -> None:
    falling = [UNIFORM + 0.3 - 0.8 * step / 400 for step in range(400)]
    train(Monitor(limits(400)), falling)
    monitor = Monitor(limits(400))
    with pytest.raises(Diverged) as caught:
        train(monitor, [UNIFORM + 0.3] + [UNIFORM + 0.2] * 399)
    assert caught.value.step == 201


def test_one_report_in_fifty_steps_is_judged_as_those_fifty() -> None:
    """A spike among few reports is no trend; a run that is lost is one."""

    def every_50(at_650: float, then: float) -> None:
        monitor = Monitor(limits(1000, warmup=600))
        for step in range(50, 1001, 50):
            monitor(step, 3.0 if step < 650 else at_650 if step == 650 else then)

    every_50(9.0, 3.0)
    with pytest.raises(Diverged) as caught:
        every_50(9.0, 9.0)
    assert caught.value.step == 850


def test_a_point_between_two_reports_is_not_missed() -> None:
    monitor = Monitor(limits(1000))
    for step in range(30, 430, 30):
        monitor(step, 3.0)
    assert [step for step, _ in monitor.curve] == list(range(30, 421, 30))


def test_a_loss_may_be_a_tensor() -> None:
    monitor = Monitor(limits(10))
    monitor(1, torch.tensor(2.5))  # type: ignore[arg-type]
    assert monitor.curve == ((1, 2.5),)
    assert type(monitor.curve[0][1]) is float


def test_warm_up_itself_is_not_judged() -> None:
    train(Monitor(limits(200, warmup=100)), [50.0] * 100 + [4.0] * 100)


def test_a_loss_without_a_uniform_guess_may_be_anything_finite() -> None:
    train(Monitor(Limits(steps=50)), [1e300] * 50)


@given(
    steps=st.integers(1, 600),
    spike=st.integers(0, 599),
    height=st.floats(0, 1e300),
    warmup=st.integers(0, 60),
)
def test_one_spike_never_ends_a_healthy_run(
    steps: int, spike: int, height: float, warmup: int
) -> None:
    losses = [HEALTHY] * steps
    losses[spike % steps] = height
    monitor = Monitor(limits(steps, warmup))
    train(monitor, losses)
    assert monitor.step == steps


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=900), st.integers(1, 900))
def test_the_curve_is_short_finite_in_order_and_ends_at_the_last_step(
    losses: list[float], announced: int
) -> None:
    monitor = Monitor(Limits(steps=max(announced, len(losses))))
    train(monitor, losses)
    steps = [step for step, _ in monitor.curve]
    assert steps == sorted(set(steps))
    assert steps[-1] == len(losses)
    assert len(steps) <= CURVE_POINTS + 1
    assert all(math.isfinite(loss) for _, loss in monitor.curve)


def test_a_point_is_the_mean_since_the_one_before() -> None:
    monitor = Monitor(Limits(steps=2 * CURVE_POINTS))
    train(monitor, [1.0, 3.0] * CURVE_POINTS)
    assert monitor.curve[0] == (2, 2.0)
    assert len(monitor.curve) == CURVE_POINTS


@pytest.mark.parametrize("at", [1, 30, 70, 199])
@pytest.mark.parametrize("level", [UNIFORM - 0.1, UNIFORM + 0.1])
def test_a_restored_monitor_judges_like_the_one_before(at: int, level: float) -> None:
    losses = [UNIFORM + 0.3] + [level + 0.01 * (i % 7) for i in range(599)]

    def judged(monitor: Monitor, begin: int) -> object:
        try:
            for step in range(begin, 600):
                monitor(step + 1, losses[step])
        except Diverged as error:
            return error.step, error.reason, monitor.curve
        return monitor.curve

    before, whole = Monitor(limits(600)), Monitor(limits(600))
    train(before, losses[:at])
    resumed = Monitor(limits(600))
    resumed.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    assert judged(resumed, at) == judged(whole, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": "9"}, "step is '9'"),
        ({"step": 41}, "step is 41; expected 9 to 40"),
        ({"step": 8}, "step is 8; expected 9 to 40"),
        ({"first": None}, "first is None; expected a finite number"),
        ({"smoothed": [1]}, "smoothed is"),
        ({"weight": 2}, "weight is 2"),
        ({"reports": 1.5}, "reports is 1.5"),
        ({"points": [[1, 2], [0, 2]]}, "points is"),
        ({"points": 3}, "points is 3"),
        ({"pending": [float("inf")]}, "pending is"),
    ],
)
def test_a_state_of_another_form_is_refused_and_changes_nothing(
    changes: dict[str, Any], said: str
) -> None:
    before, monitor = (Monitor(limits(40)) for _ in range(2))
    train(before, [2.0] * 9)
    as_it_was = monitor.state() | {"first": None}
    with pytest.raises(UserError, match=f"what judges the run: {said}"):
        monitor.restore({**before.state(), **changes})
    assert monitor.state() | {"first": None} == as_it_was
    for name in before.state():
        with pytest.raises(UserError, match=f"{name} is missing"):
            monitor.restore({k: v for k, v in before.state().items() if k != name})


def test_a_step_is_a_whole_number_that_does_not_fall() -> None:
    monitor = Monitor(limits(40))
    monitor(3, 1.0)
    monitor(3, 1.0)
    odd: tuple[Any, ...] = (2, 4.0, "5", None)
    for step in odd:
        with pytest.raises(
            UserError, match="after step 3; expected whole numbers that do not fall"
        ):
            monitor(step, 1.0)
