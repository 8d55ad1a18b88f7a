"""What trainings will cost here, before they begin, and whether that wants a second thought."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

MOST_EPOCHS = 4  # repeated data is nearly as good as new up to about four times (arXiv 2305.16264)
LONG_HOURS = 1.0
# Share of the measured matmul rate that training reaches: tiny models on a CPU thread 0.4 to 0.5 of it,
# larger ones on a GPU about 0.4. Only for the estimate printed before the start.
UTILISATION = 0.4


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


def training_seconds(flops: float, device: str, precision: str) -> float | None:
    """Seconds for so many FLOPs of training by one worker, from a matmul rate measured now; None for a device
    that is not here, as of a cluster's other machines."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return None
    return flops / (UTILISATION * _matmul_rate(device, precision))


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
