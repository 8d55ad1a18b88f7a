"""The audit inside of Hugging Face's Trainer. Needs transformers (extra `hf`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from completedp.adapters.plans import audit
from completedp.errors import UserError
from completedp.optimizer import Planned

# An audit takes 5 ms for the 291 tensors of 32 layers (a CPU): 0.1 ms a step.
AUDIT_STEPS = 50


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """Audits a Trainer's optimizer after its scheduler's first step, after every `every` of its steps, before
    its last step, and at its end; ends the training on a difference.

    Raises `UserError` for an `every` below 1.
    """

    def __init__(self, plan: Planned, every: int = AUDIT_STEPS) -> None:
        if every < 1:
            raise UserError(f"every is {every}; expected a number of steps, 1 or more")
        self.plan = plan
        self.every = every
        self.done = False  # an audit of this training

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.done = False

    def on_step_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **others: Any,
    ) -> None:
        # The scheduler has stepped: the learning rates are those of the next step, so the last step's are
        # seen one before it.
        if (
            not self.done
            or state.global_step % self.every == 0
            or state.global_step == state.max_steps - 1
        ):
            self._audit(model, optimizer)

    def on_train_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **others: Any,
    ) -> None:
        self._audit(model, optimizer)  # training may have been stopped early

    def _audit(self, model: nn.Module | None, optimizer: torch.optim.Optimizer | None) -> None:
        assert model is not None, "the Trainer gives its model"
        assert optimizer is not None, "the Trainer gives its optimizer"
        # A schedule at 0 shows no learning rate: after a first step that fp16 skipped, or at its own end.
        if any(group["lr"] for group in optimizer.param_groups):
            audit(model, optimizer, self.plan).check()
            self.done = True
