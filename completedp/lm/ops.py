"""RMSNorm and rotary embedding, with explicit gradients on a CPU.

On a CPU, the elementwise passes of a small model cost as much as its matrix products. These two functions
save a tenth of a training step against autograd's composites. Compiled code uses the composites, because the
compiler fuses them itself. Also, torch 2.11 silently loses the gradient of a custom autograd function whose
forward changes its output in place (pytorch issue 180642): the run would train without its attention.

Shapes: B sequences, T positions, H heads, E features of a head, D any last dimension.

.. [RMSNorm]  arXiv 1910.07467.  .. [RoFormer] arXiv 2104.09864, in the split-half layout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# RMSNorm's ε does not scale with the model: it is small beside the mean square of any live activation.
NORM_EPS = 1e-6


def rms_norm(x_D: Tensor, gain_D: Tensor) -> Tensor:
    """x / √(mean x² + ε) · gain over the last dimension. Computed and returned in float32 or wider."""
    x_D = x_D.to(torch.promote_types(x_D.dtype, torch.float32))
    if x_D.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x_D, gain_D.shape, gain_D, NORM_EPS)
    normed_D: Tensor = _RMSNorm.apply(x_D, gain_D)  # type: ignore[no-untyped-call]
    return normed_D


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_D: Tensor, gain_D: Tensor) -> Tensor:
        scale_1 = torch.rsqrt_(x_D.square().mean(-1, keepdim=True).add_(NORM_EPS))
        unit_D = x_D * scale_1
        ctx.save_for_backward(unit_D, scale_1, gain_D)
        return unit_D * gain_D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        unit_D, scale_1, gain_D = ctx.saved_tensors
        grad_D = grads[0]
        product_D = grad_D * unit_D
        along_1 = product_D @ gain_D[:, None] / len(gain_D)
        grad_x_D = (grad_D * gain_D).addcmul_(unit_D, along_1, value=-1).mul_(scale_1)
        return grad_x_D, product_D.flatten(0, -2).sum(0)


def rotary_tables(positions: int, heads: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and signed sin of every position's angles, each `T x H x E`, in float32.

    Feature i turns with feature i + E/2. The sine holds the minus sign of the rotation, so `rotate` needs no
    negation. The tables repeat for every head, because broadcasting over a middle dimension is three times
    slower on a CPU.
    """
    half = head_dim // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle_T1E = torch.arange(positions, dtype=torch.float64)[:, None, None] * frequency
    cos, sin = angle_T1E.cos().float(), angle_T1E.sin().float()
    shape = (positions, heads, head_dim)
    return (
        torch.cat((cos, cos), dim=-1).expand(shape).contiguous(),
        torch.cat((-sin, sin), dim=-1).expand(shape).contiguous(),
    )


def rotate(x_BTHE: Tensor, cos_THE: Tensor, sin_THE: Tensor) -> Tensor:
    """Rotary position embedding of every head. The tables are `rotary_tables` of the same T and H."""
    if torch.compiler.is_compiling():
        return x_BTHE * cos_THE + _halves_swapped(x_BTHE) * sin_THE
    rotated_BTHE: Tensor = _Rotate.apply(x_BTHE, cos_THE, sin_THE)  # type: ignore[no-untyped-call]
    return rotated_BTHE


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHE: Tensor, cos_THE: Tensor, sin_THE: Tensor) -> Tensor:
        ctx.save_for_backward(cos_THE, sin_THE)
        return (x_BTHE * cos_THE).addcmul_(_halves_swapped(x_BTHE), sin_THE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_THE, sin_THE = ctx.saved_tensors
        back_BTHE = (grads[0] * cos_THE).addcmul_(_halves_swapped(grads[0]), sin_THE, value=-1)
        return back_BTHE, None, None


def _halves_swapped(x_BTHE: Tensor) -> Tensor:
    low, high = x_BTHE.chunk(2, dim=-1)
    return torch.cat((high, low), dim=-1)
