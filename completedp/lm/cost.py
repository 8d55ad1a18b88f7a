"""How long a training will take here, before it begins."""

from __future__ import annotations

import time

import torch

# Share of the measured matmul rate that training reaches: tiny models on a CPU thread 0.4 to 0.5 of it,
# larger ones on a GPU about 0.4. Only for the estimate printed before the start.
UTILISATION = 0.4


def training_seconds(flops: float, device: str, precision: str) -> float:
    """Seconds for so many FLOPs of training by one worker, from a matmul rate measured now."""
    return flops / (UTILISATION * _matmul_rate(device, precision))


def _matmul_rate(device: str, precision: str) -> float:
    """FLOP/s of a square matmul in the run's precision, on one thread where that is a CPU's."""
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
