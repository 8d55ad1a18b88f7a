"""The chunked cross-entropy of `completedp.lm.loss`, for several members at once.

Shapes: M members, N tokens of a member, D width, V vocabulary, C tokens of a member in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from completedp.lm import loss


def cross_entropy(
    hidden_MND: Tensor, weight_MVD: Tensor, target_MN: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`completedp.lm.loss.cross_entropy` of each member: two tensors `M`, the second one detached."""
    if torch.is_autocast_enabled(hidden_MND.device.type):
        dtype = torch.get_autocast_dtype(hidden_MND.device.type)
        hidden_MND, weight_MVD = hidden_MND.to(dtype), weight_MVD.to(dtype)
    loss_M, ce_M = _ChunkedCrossEntropy.apply(hidden_MND, weight_MVD, target_MN, z_loss)  # type: ignore[no-untyped-call]
    return loss_M, ce_M


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_MND: Tensor, weight_MVD: Tensor, target_MN: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        members, tokens, _ = hidden_MND.shape
        vocab = weight_MVD.shape[1]
        wide = torch.promote_types(hidden_MND.dtype, torch.float32)
        most = loss.CPU_LOGITS if hidden_MND.device.type == "cpu" else loss.GPU_LOGITS
        chunk = max(1, most // (members * vocab))
        differentiate = any(ctx.needs_input_grad[:2])
        ce_M = torch.zeros(members, dtype=wide, device=hidden_MND.device)
        penalty_M = torch.zeros_like(ce_M)
        grad_hidden_MND = torch.empty_like(hidden_MND) if differentiate else None
        grad_weight_MVD = (
            torch.zeros(weight_MVD.shape, dtype=wide, device=weight_MVD.device)
            if differentiate
            else None
        )
        for start in range(0, tokens, chunk):
            part = slice(start, start + chunk)
            h_MCD, target_MC1 = hidden_MND[:, part], target_MN[:, part, None]
            logits_MCV = torch.bmm(h_MCD, weight_MVD.transpose(1, 2)).to(wide)
            # In place from here: the logits become probabilities, then their gradient.
            top_MC1 = logits_MCV.amax(2, keepdim=True)
            logits_MCV -= top_MC1
            picked_MC1 = logits_MCV.gather(2, target_MC1)
            total_MC1 = logits_MCV.exp_().sum(2, keepdim=True)
            log_total_MC1 = total_MC1.log()
            ce_M += (log_total_MC1 - picked_MC1).sum((1, 2))
            log_z_MC1 = log_total_MC1 + top_MC1
            penalty_M += log_z_MC1.square().sum((1, 2))
            if grad_hidden_MND is None or grad_weight_MVD is None:
                continue
            logits_MCV *= (1 + 2 * z_loss * log_z_MC1) / (total_MC1 * tokens)
            logits_MCV.scatter_add_(2, target_MC1, torch.full_like(picked_MC1, -1 / tokens))
            grad_MCV = logits_MCV.to(h_MCD.dtype)
            grad_hidden_MND[:, part] = torch.bmm(grad_MCV, weight_MVD)
            grad_weight_MVD += torch.bmm(grad_MCV.transpose(1, 2), h_MCD)
        if grad_hidden_MND is not None and grad_weight_MVD is not None:
            ctx.save_for_backward(grad_hidden_MND, grad_weight_MVD.to(weight_MVD.dtype))
        # A new tensor, because a function's output must not be changed in place (`completedp.lm.ops`).
        mean_ce_M = ce_M / tokens
        ctx.mark_non_differentiable(mean_ce_M)
        return mean_ce_M + z_loss / tokens * penalty_M, mean_ce_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_MND, grad_weight_MVD = ctx.saved_tensors
        scale_M11 = grads[0][:, None, None]
        return grad_hidden_MND * scale_M11, grad_weight_MVD * scale_M11, None, None
