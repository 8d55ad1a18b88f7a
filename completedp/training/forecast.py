"""What trainings will cost here, before they begin, and whether that wants a second thought."""

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
# Share of the measured matmul rate that training reaches: tiny models on a CPU thread 0.4 to 0.5 of it,
# larger ones on a GPU about 0.4. Only for the estimate printed before the start.
UTILIZATION = 0.4
# Of a layer's kernels, forward and backward, by whether they are compiled; what is not in layers counts as
# one more. Measured on an H100 at 2 and 5 layers: 5.9 and 12.1 ms a step, compiled 4.0 and 7.6, the latter
# without the gradients of q and k (benchmarks/results/h100/card.json).
LAUNCH_SECONDS = {False: 2.0e-3, True: 1.3e-3}


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What runs will cost. `epochs` of the longest, where the data is known; `seconds_per_run` on the mean,
    where the device is here; `seconds` for all runs on all workers together, in wall-clock time."""

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
        """Why somebody should say --yes first."""
        doubts = []
        if self.epochs is not None and self.epochs > MOST_EPOCHS:
            doubts.append(
                f"a run reads its training text {self.epochs:.1f} times (more than {MOST_EPOCHS})"
            )
        if self.seconds is not None and self.seconds > LONG_HOURS * 3600:
            doubts.append(f"this will take about {self.seconds / 3600:.1f} hours")
        return doubts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the doubts and the total included."""
        return {**dataclasses.asdict(self), "seconds": self.seconds, "doubts": self.doubts}


def mean_seconds(runs: Sequence[tuple[Model, TrainConfig]], device: str) -> float | None:
    """Seconds of a training of these by one worker, from their FLOPs and a matmul rate measured now, and on a
    GPU at least what its kernels take to be launched; None for a device that is not here, as of a cluster's
    other machines."""
    import torch

    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        return None
    rate = UTILIZATION * _matmul_rate(device, runs[0][1].precision)
    seconds = [
        max(
            training_flops(model, train.tokens) / rate,
            _launches(model, train) if on_gpu else 0.0,
        )
        for model, train in runs
    ]
    return statistics.fmean(seconds)


def _launches(model: Model, train: TrainConfig) -> float:
    """Seconds in which the kernels of all of a training's passes can be launched."""
    passes = math.ceil(train.batch / train.microbatch) if train.microbatch else 1
    return train.steps * passes * (model.depth + 1) * LAUNCH_SECONDS[train.compile]


def _matmul_rate(device: str, precision: str) -> float:
    """FLOP/s of a square matmul in the run's precision, on one thread where that is a CPU's."""
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
