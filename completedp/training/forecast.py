"""The cost of trainings on this machine before they begin, and reasons to ask first."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from completedp.config import Model, TrainConfig
from completedp.models import training_flops

MOST_EPOCHS = 4  # repeated data is nearly as good as new up to about four times (arXiv 2305.16264)
LONG_HOURS = 1.0
# Share of the measured matmul rate that training reaches. Tiny models on a CPU thread reach 0.4 to 0.5,
# larger ones on a GPU about 0.4. Only the estimate printed before the start uses it.
UTILIZATION = 0.4
# Seconds to launch a layer's kernels, forward and backward, by whether they are compiled. The rest of the
# model counts as one more layer. Measured on an H100 (benchmarks/results/h100/card.json) at 2 and 5 layers:
# 5.9 and 12.1 ms a step, compiled 4.0 and 7.6. The last figure is without the gradients of q and k.
LAUNCH_SECONDS = {False: 2.0e-3, True: 1.3e-3}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The cost of some runs, in wall-clock seconds.

    `epochs` is that of the longest run, None if the data is not known. `seconds_per_run` is the mean, None if
    the device is not here. `seconds` is for all runs on all workers together.
    """

    runs: int
    workers: int
    epochs: float | None
    seconds_per_run: float | None

    @property
    def seconds(self) -> float | None:
        per_run = self.seconds_per_run
        return None if per_run is None else per_run * self.runs / self.workers

    @property
    def doubts(self) -> list[str]:
        """Reasons for which a user should confirm the start by --yes."""
        doubts = []
        if self.epochs is not None and self.epochs > MOST_EPOCHS:
            doubts.append(
                f"a run reads its training text {self.epochs:.1f} times (more than {MOST_EPOCHS})"
            )
        if self.seconds is not None and self.seconds > LONG_HOURS * 3600:
            doubts.append(f"this will take about {self.seconds / 3600:.1f} hours")
        return doubts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the doubts and the total."""
        return {**dataclasses.asdict(self), "seconds": self.seconds, "doubts": self.doubts}


def mean_seconds(runs: Sequence[tuple[Model, TrainConfig]], device: str) -> float | None:
    """Mean seconds that one worker takes for one of these trainings.

    The estimate is the FLOPs over a matmul rate that is measured now. On a GPU it is at least the time to
    launch the kernels. None for a device that this machine does not have, such as a cluster's GPU.
    """
    import torch

    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        return None
    rate = UTILIZATION * _matmul_rate(device, runs[0][1].precision)
    return statistics.fmean(
        max(
            training_flops(model, train.tokens) / rate,
            _launch_seconds(model, train) if on_gpu else 0.0,
        )
        for model, train in runs
    )


def _launch_seconds(model: Model, train: TrainConfig) -> float:
    """Seconds to launch the kernels of all passes of a training."""
    passes = math.ceil(train.batch / train.microbatch) if train.microbatch else 1
    return train.steps * passes * (model.depth + 1) * LAUNCH_SECONDS[train.compile]


def _matmul_rate(device: str, precision: str) -> float:
    """FLOP/s of a square matmul in the run's precision. On a CPU it uses one thread."""
    import torch

    size = 512 if device == "cpu" else 4096
    x = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            (x @ x).sum().item()
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / best
