"""The operations of `completedp.lm.ops` and the embedding, for several members at once.

Nothing here sums over members, so a member that is not finite changes no bit of another one.

Shapes: M members, N tokens of a member, D any last dimension, V vocabulary, R rows of a table.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from completedp.lm.ops import NORM_EPS


def linear(x_MND: Tensor, weight_MFD: Tensor) -> Tensor:
    """Each member's rows times its own matrix, `M x N x F`."""
    return torch.bmm(x_MND, weight_MFD.transpose(1, 2))


def rms_norm(x_MND: Tensor, gain_MD: Tensor) -> Tensor:
    """`completedp.lm.ops.rms_norm` with a gain for each member."""
    x_MND = x_MND.to(torch.promote_types(x_MND.dtype, torch.float32))
    if x_MND.device.type != "cpu" or torch.compiler.is_compiling():
        return F.rms_norm(x_MND, x_MND.shape[-1:], eps=NORM_EPS) * gain_MD[:, None]
    normed_MND: Tensor = _RMSNorm.apply(x_MND, gain_MD)  # type: ignore[no-untyped-call]
    return normed_MND


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_MND: Tensor, gain_MD: Tensor) -> Tensor:
        scale_MN1 = torch.rsqrt_(x_MND.square().mean(-1, keepdim=True).add_(NORM_EPS))
        unit_MND = x_MND * scale_MN1
        ctx.save_for_backward(unit_MND, scale_MN1, gain_MD)
        return unit_MND * gain_MD[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        unit_MND, scale_MN1, gain_MD = ctx.saved_tensors
        product_MND = grads[0] * unit_MND
        grad_gain_MD = product_MND.sum(1)
        along_MN1 = product_MND.mul_(gain_MD[:, None]).mean(-1, keepdim=True)
        grad_x_MND = (grads[0] * gain_MD[:, None]).addcmul_(unit_MND, along_MN1, value=-1)
        return grad_x_MND.mul_(scale_MN1), grad_gain_MD


def embedding(tokens_MN: Tensor, weight_MVD: Tensor) -> Tensor:
    """Each member's rows of its own table, `M x N x D`. A member's table may begin at any multiple of D."""
    rows_MND: Tensor = _Embedding.apply(tokens_MN, weight_MVD)  # type: ignore[no-untyped-call]
    return rows_MND


class _Embedding(torch.autograd.Function):
    """All members' tables are read as one, because an index with a member axis has a slow gradient."""

    @staticmethod
    def forward(ctx: Any, tokens_MN: Tensor, weight_MVD: Tensor) -> Tensor:
        members, vocab, width = weight_MVD.shape
        apart, left = divmod(weight_MVD.stride(0), width)
        assert not left, "a table that begins between two rows"
        table_RD = weight_MVD.as_strided(((members - 1) * apart + vocab, width), (width, 1))
        ctx.shape = weight_MVD.shape
        ctx.save_for_backward(tokens_MN)
        return F.embedding(_moved(tokens_MN, apart), table_RD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (tokens_MN,) = ctx.saved_tensors
        members, vocab, _ = ctx.shape
        grad_RD = torch.ops.aten.embedding_dense_backward(
            grads[0], _moved(tokens_MN, vocab), members * vocab, -1, False
        )
        return None, grad_RD.view(ctx.shape)


def _moved(tokens_MN: Tensor, apart: int) -> Tensor:
    """The tokens as rows of one table, in which members' tables begin `apart` rows from each other."""
    return tokens_MN + apart * torch.arange(len(tokens_MN), device=tokens_MN.device)[:, None]
