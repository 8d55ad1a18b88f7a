"""Training speed: tokens a second, model FLOPs a second, and their share of the cards' peak (MFU).

Model FLOPs exclude work that is repeated to save memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A card's peak rates of dense matrix products, in FLOP/s. Data sheets often print twice the rate of the
    tensor cores, with sparsity."""

    bfloat16: float
    tf32: float
    float32: float


# Keyed by the start of the name that CUDA gives the device. Sources: the product pages and data sheets under
# www.nvidia.com/en-us/data-center/ (a100, h100, h200, l4, l40s, hgx, gb200-nvl72), sparsity taken out.
_PEAKS = {
    "NVIDIA A100": Peak(bfloat16=312e12, tf32=156e12, float32=19.5e12),
    "NVIDIA H100": Peak(bfloat16=989.4e12, tf32=494.7e12, float32=66.9e12),
    "NVIDIA H100 NVL": Peak(bfloat16=835e12, tf32=417e12, float32=60e12),
    "NVIDIA H100 PCIe": Peak(bfloat16=756e12, tf32=378e12, float32=51e12),
    "NVIDIA H200": Peak(bfloat16=989.4e12, tf32=494.7e12, float32=66.9e12),
    "NVIDIA H200 NVL": Peak(bfloat16=835e12, tf32=417e12, float32=60e12),
    "NVIDIA B200": Peak(bfloat16=2250e12, tf32=1100e12, float32=75e12),
    "NVIDIA GB200": Peak(bfloat16=2500e12, tf32=1250e12, float32=80e12),
    "NVIDIA L4": Peak(bfloat16=121e12, tf32=60e12, float32=30.3e12),
    "NVIDIA L40S": Peak(bfloat16=362e12, tf32=183e12, float32=91.6e12),
}


def peak_flops(device_name: str, precision: Precision, *, tf32: bool = False) -> float | None:
    """A card's peak in FLOP/s at a precision, or None for an unknown card. `tf32` says that float32 products
    may run as TF32."""
    words = device_name.split()
    known = [name for name in _PEAKS if _begins(words, name.split())]
    if not known or "MIG" in words:  # a slice of a card
        return None
    peak = _PEAKS[max(known, key=len)]
    if precision == "bfloat16":
        return peak.bfloat16
    return peak.tf32 if tf32 else peak.float32


def _begins(words: list[str], start: list[str]) -> bool:
    """Whether the words begin with `start`. The last word may go on after a hyphen: an A100-SXM4-80GB is an
    A100, but an L40S is not an L4."""
    given = words[: len(start)]
    return given[:-1] == start[:-1] and bool(given) and given[-1].split("-")[0] == start[-1]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens and model FLOPs a second, over all processes. `mfu` is their share of the cards' peak, or None
    if the peak is unknown, as on a CPU."""

    tokens_per_second: float
    flops_per_second: float
    mfu: float | None

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Speed:
        """Read from a run's metrics; other metrics are ignored."""
        return cls(
            tokens_per_second=metrics["tokens_per_second"],
            flops_per_second=metrics["flops_per_second"],
            mfu=metrics.get("mfu"),
        )

    def metrics(self) -> dict[str, float]:
        """The known values by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        share = "" if self.mfu is None else f", MFU {self.mfu:.1%}"
        return f"{self.tokens_per_second:,.0f} tokens/s, {self.flops_per_second:.3g} FLOP/s{share}"


@dataclass(frozen=True, kw_only=True)
class Speedometer:
    """Measures runs of one model on `processes` devices of one kind. `flops_per_token` are the model FLOPs of
    training on one token, forward and backward."""

    flops_per_token: float
    precision: Precision
    device: torch.device
    processes: int = 1

    def speed(self, tokens: int, seconds: float) -> Speed:
        """The speed of all processes together, which trained `tokens` in `seconds`."""
        flops = self.flops_per_token * tokens / seconds
        peak = None
        if self.device.type == "cuda":
            tf32 = torch.get_float32_matmul_precision() != "highest"
            name = torch.cuda.get_device_name(self.device)
            peak = peak_flops(name, self.precision, tf32=tf32)
        return Speed(
            tokens_per_second=tokens / seconds,
            flops_per_second=flops,
            mfu=None if peak is None else flops / (peak * self.processes),
        )
