"""Cross-entropy with z-loss over a large vocabulary, without holding all logits at once.

The gradient is computed chunk by chunk, together with the loss. So no logits are kept for backward, and none
are computed twice [CCE].

.. [CCE]  Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009.
.. [PaLM] z-loss: PaLM, arXiv 2204.02311, section 5.

Shapes: N tokens, D width, V vocabulary, C tokens in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits held at a time, in elements. On a CPU 2^20 (4 MiB of float32) stay in the last-level cache; 2^18 was
# measured to be slower. On a GPU 2^27 (0.5 GiB) are enough to fill it.
CPU_LOGITS = 1 << 20
GPU_LOGITS = 1 << 27


def cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Mean over tokens of CE + `z_loss` · (log Z)², and the mean CE alone (detached), in nats.

    Differentiable once, with respect to `hidden_ND` and `weight_VD`. Under autocast the matrix products run
    in its dtype. Softmax and sums run in float32 or wider.
    """
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
    loss, ce = _ChunkedCrossEntropy.apply(hidden_ND, weight_VD, target_N, z_loss)  # type: ignore[no-untyped-call]
    return loss, ce


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        tokens, vocab = len(hidden_ND), len(weight_VD)
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        most = CPU_LOGITS if hidden_ND.device.type == "cpu" else GPU_LOGITS
        chunk = max(1, most // vocab)
        differentiate = any(ctx.needs_input_grad[:2])
        ce = torch.zeros((), dtype=wide, device=hidden_ND.device)
        penalty = torch.zeros_like(ce)
        grad_hidden_ND = torch.empty_like(hidden_ND) if differentiate else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if differentiate else None
        for start in range(0, tokens, chunk):
            part = slice(start, start + chunk)
            h_CD, target_C1 = hidden_ND[part], target_N[part, None]
            logits_CV = (h_CD @ weight_VD.T).to(wide)
            # In place from here: the logits become probabilities, then their gradient.
            top_C1 = logits_CV.amax(1, keepdim=True)
            logits_CV -= top_C1
            picked_C1 = logits_CV.gather(1, target_C1)
            total_C1 = logits_CV.exp_().sum(1, keepdim=True)
            log_total_C1 = total_C1.log()
            ce += (log_total_C1 - picked_C1).sum()
            log_z_C1 = log_total_C1 + top_C1
            penalty += log_z_C1.square().sum()
            if grad_hidden_ND is None or grad_weight_VD is None:
                continue
            logits_CV *= (1 + 2 * z_loss * log_z_C1) / (total_C1 * tokens)
            logits_CV.scatter_add_(1, target_C1, torch.full_like(picked_C1, -1 / tokens))
            grad_CV = logits_CV.to(h_CD.dtype)
            torch.mm(grad_CV, weight_VD, out=grad_hidden_ND[part])
            grad_weight_VD += grad_CV.T @ h_CD
        if grad_hidden_ND is not None and grad_weight_VD is not None:
            ctx.save_for_backward(grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype))
        # A new tensor, because a function's output must not be changed in place (`completedp.lm.ops`).
        mean_ce = ce / tokens
        ctx.mark_non_differentiable(mean_ce)
        return mean_ce + z_loss / tokens * penalty, mean_ce

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden_ND * scale, grad_weight_VD * scale, None, None
