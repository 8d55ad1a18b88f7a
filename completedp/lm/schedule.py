"""Learning-rate schedules: a multiplier on the peak learning rate of each parameter group."""

from __future__ import annotations

import math

from completedp.config import TrainConfig


def warmup_steps(train: TrainConfig) -> int:
    """The number of steps before the peak."""
    return round(train.warmup * train.steps)


def multiplier(train: TrainConfig, step: int) -> float:
    """The multiplier in (0, 1] at `step` in 0 … S−1, for a run of S steps with W steps of warm-up.

    Warm-up is linear and never 0: step t has (t + 1) / (W + 1), so step W is the first at the peak. The
    multiplier reaches `final_lr` at t = S, one step after the last. So no step has a learning rate of 0: with
    `linear` and `final_lr` 0, the last step has 1/(S−W). `wsd` stays at the peak until the last `decay` of
    the steps, then falls linearly (arXiv 2404.06395).
    """
    steps, warmup = train.steps, warmup_steps(train)
    assert 0 <= step < steps, "a step of the run"
    if step < warmup:
        return (step + 1) / (warmup + 1)
    tail = round(train.decay * steps) if train.schedule == "wsd" else steps
    tail = min(tail, steps - warmup)
    left = min(1.0, (steps - step) / tail) if tail else 1.0
    if train.schedule == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return train.final_lr + (1 - train.final_lr) * left
