"""The multiplier of the learning rate."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from completedp.config import TrainConfig
from completedp.lm.schedule import multiplier, warmup_steps


def config(steps: int, **values: object) -> TrainConfig:
    return TrainConfig(tokens=steps * 10, batch=10, **values)  # type: ignore[arg-type]


@given(
    st.integers(1, 300),
    st.sampled_from(["cosine", "wsd", "linear"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rises_to_one_then_never_rises(
    steps: int, schedule: str, warmup: float, decay: float, final: float
) -> None:
    train = config(steps, schedule=schedule, warmup=warmup, decay=decay, final_lr=final)
    values = [multiplier(train, step) for step in range(steps)]
    peak = warmup_steps(train)
    assert all(0 < v <= 1 + 1e-12 for v in values)
    assert all(a < b for a, b in pairwise(values[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(values[peak:]))
    assert min(values[peak:], default=1) >= final - 1e-12
    if peak < steps:
        assert values[peak] == pytest.approx(1)


def test_worked_values() -> None:
    linear = config(10, schedule="linear", warmup=0.2, final_lr=0.2)
    assert [round(multiplier(linear, t), 4) for t in range(10)] == [
        0.3333, 0.6667, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3,
    ]  # fmt: skip
    wsd = config(10, schedule="wsd", warmup=0.0, decay=0.4)
    assert [multiplier(wsd, t) for t in range(10)] == [1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    cosine = config(8, warmup=0.0)
    assert multiplier(cosine, 4) == pytest.approx(0.5)
    assert multiplier(cosine, 7) == pytest.approx(0.0380602)
