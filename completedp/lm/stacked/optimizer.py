"""AdamW of several members at once: a few operations over all numbers, with a clipping norm for each member.

Shapes: S places for members, M members at work, P numbers of a row, R tensors, G blocks of a row, Q numbers
of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from completedp.lm.stacked.model import BLOCK, StackedModel
from completedp.optimizer import VALUES, TensorRow

# Added to the norm by `torch.nn.utils.clip_grad_norm_`.
_CLIP_EPS = 1e-6


class StackedAdamW:
    """AdamW with its own values for each tensor of each member of a `StackedModel`.

    A step is that of `torch.optim.AdamW` for each member, with the bias corrections moved into the step size
    and into ε. Hyperparameters are held in float64.
    """

    def __init__(self, model: StackedModel) -> None:
        self._model = model
        values_SP = model.values_SP
        places, length = values_SP.shape
        self._exp_avg_SP = torch.zeros_like(values_SP)
        self._exp_avg_sq_SP = torch.zeros_like(values_SP)
        self._root_SP, self._move_SP = torch.empty_like(values_SP), torch.empty_like(values_SP)
        rows_SR = self._wide([[0.0] * len(model.slices)] * places)
        self._rows_SR = {name: rows_SR.clone() for name in VALUES}
        # The tensor of each block. The blocks that fill a row up count to the last tensor.
        tensors = [i for i, part in enumerate(model.slices) for _ in range(part.blocks)]
        tensors += [len(model.slices) - 1] * (length // BLOCK - len(tensors))
        self._tensor_G = torch.tensor(tensors, device=values_SP.device)
        blocks = values_SP.new_zeros(3, places, len(tensors), 1)
        self._gain1_SG1, self._beta2_SG1, self._gain2_SG1 = blocks

    def set_values(self, place: int, rows: Sequence[TensorRow]) -> None:
        """Begin anew at a place, with the values of these rows."""
        by_name = {row.name: row for row in rows}
        ordered = [by_name[part.name] for part in self._model.slices]
        for name, values_SR in self._rows_SR.items():
            values_SR[place] = self._wide([getattr(row, name) for row in ordered])
        for moment_SP in (self._exp_avg_SP, self._exp_avg_sq_SP):
            moment_SP[place] = 0.0
        self._tabulate(place)

    def seen_at(self, place: int) -> torch.optim.AdamW:
        """The values in force at a place, as the groups of an optimizer that `completedp.auditing` reads."""
        parameters = dict(self._model.solo[place].named_parameters())
        columns = {name: values_SR[place].tolist() for name, values_SR in self._rows_SR.items()}
        return torch.optim.AdamW(
            [
                {
                    "params": [parameters[part.name]],
                    "lr": columns["lr"][i],
                    "weight_decay": columns["weight_decay"][i],
                    "betas": (columns["beta1"][i], columns["beta2"][i]),
                    "eps": columns["eps"][i],
                }
                for i, part in enumerate(self._model.slices)
            ]
        )

    def move(self, source: int, target: int) -> None:
        """Copy the values and the moments of one place to another."""
        for tensor in (*self._rows_SR.values(), self._exp_avg_SP, self._exp_avg_sq_SP):
            tensor[target] = tensor[source]
        self._tabulate(target)

    def _wide(self, numbers: Sequence[Any]) -> Tensor:
        device = self._model.values_SP.device
        return torch.tensor(numbers, dtype=torch.float64, device=device)

    def _tabulate(self, place: int) -> None:
        beta1_R, beta2_R = self._rows_SR["beta1"][place], self._rows_SR["beta2"][place]
        self._gain1_SG1[place, :, 0] = (1 - beta1_R)[self._tensor_G]
        self._beta2_SG1[place, :, 0] = beta2_R[self._tensor_G]
        self._gain2_SG1[place, :, 0] = (1 - beta2_R)[self._tensor_G]

    def clip(self, threshold: float) -> Tensor:
        """Clip each member's gradient to a norm of at most `threshold`. Returns the norms before, `M`."""
        grad_MP = self._model.gradients_SP[: self._model.members]
        norm_M: Tensor = torch.linalg.vector_norm(grad_MP, dim=1)
        grad_MP *= (threshold / (norm_M + _CLIP_EPS)).clamp(max=1.0)[:, None]
        return norm_M

    @torch.no_grad()
    def step(self, steps: Sequence[int], factors: Sequence[float]) -> None:
        """Make each member's step, counted from 1, with its factor on the peak learning rates. The gradients
        are 0 afterwards."""
        members = len(steps)
        blocks = (members, -1, BLOCK)
        value_MGQ, grad_MGQ, exp_avg_MGQ, exp_avg_sq_MGQ, root_MGQ, move_MGQ = (
            tensor_SP[:members].view(blocks)
            for tensor_SP in (
                self._model.values_SP,
                self._model.gradients_SP,
                self._exp_avg_SP,
                self._exp_avg_sq_SP,
                self._root_SP,
                self._move_SP,
            )
        )
        decay_MG1, size_MG1, eps_MG1 = self._coefficients(steps, factors)
        value_MGQ.addcmul_(value_MGQ, decay_MG1, value=-1)
        exp_avg_MGQ.lerp_(grad_MGQ, self._gain1_SG1[:members])
        exp_avg_sq_MGQ.mul_(self._beta2_SG1[:members])
        torch.mul(grad_MGQ, self._gain2_SG1[:members], out=move_MGQ)
        exp_avg_sq_MGQ.addcmul_(grad_MGQ, move_MGQ)
        torch.sqrt(exp_avg_sq_MGQ, out=root_MGQ).add_(eps_MG1)
        torch.mul(exp_avg_MGQ, size_MG1, out=move_MGQ)
        value_MGQ.addcdiv_(move_MGQ, root_MGQ, value=-1)
        grad_MGQ.zero_()

    def _coefficients(self, steps: Sequence[int], factors: Sequence[float]) -> Tensor:
        """The share of each number that decays, the step size, and ε: `3 x M x G x 1`.

        m̂ / (√v̂ + ε) of step t is √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + ε √(1 - β₂ᵗ)).
        """
        row_MR = {name: values_SR[: len(steps)] for name, values_SR in self._rows_SR.items()}
        step_M1 = self._wide(steps)[:, None]
        lr_MR = row_MR["lr"] * self._wide(factors)[:, None]
        root_MR = (1 - row_MR["beta2"] ** step_M1).sqrt_()
        all_3MR = torch.stack(
            (
                lr_MR * row_MR["weight_decay"],
                lr_MR * root_MR / (1 - row_MR["beta1"] ** step_M1),
                row_MR["eps"] * root_MR,
            )
        )
        return all_3MR[..., self._tensor_G, None].to(self._root_SP.dtype)
