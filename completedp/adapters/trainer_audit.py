"""The audit inside Hugging Face's Trainer. Needs transformers (extra `hf`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from completedp.adapters.plans import audit
from completedp.errors import UserError
from completedp.optimizer import Planned

# An audit of the 291 tensors of 32 layers takes 5 ms on a CPU, so every 50 steps it costs 0.1 ms a step.
AUDIT_STEPS = 50


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """Audits a Trainer's optimizer, and ends the training on a difference.

    It audits after the scheduler's first step, after every `every` steps, before the last step, and at the
    end. Raises `UserError` for an `every` below 1.
    """

    def __init__(self, plan: Planned, every: int = AUDIT_STEPS) -> None:
        if every < 1:
            raise UserError(f"every is {every}; expected a number of steps, 1 or more")
        self.plan = plan
        self.every = every
        self.done = False  # whether this training was audited

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.done = False

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        # The scheduler has stepped, so the learning rates are the next step's. The last step's learning rates
        # are in force one step earlier.
        if (
            not self.done
            or state.global_step % self.every == 0
            or state.global_step == state.max_steps - 1
        ):
            self._audit(**others)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._audit(**others)  # training may have been stopped early

    def _audit(
        self,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **others: Any,
    ) -> None:
        assert model is not None, "the Trainer gives its model"
        assert optimizer is not None, "the Trainer gives its optimizer"
        # A schedule at 0 shows no learning rate. It is at 0 at its end, and may be after a first step that
        # fp16 skipped.
        if any(group["lr"] for group in optimizer.param_groups):
            audit(model, optimizer, self.plan).check()
            self.done = True
