"""The plans of external models: their values as an optimizer takes them, and the public audit."""

from __future__ import annotations

import torch
from torch import nn

from completedp import auditing
from completedp.adapters.external import build_model
from completedp.adapters.parametrized import Parametrized, values_at
from completedp.auditing import Audit
from completedp.models import external_model
from completedp.optimizer import Planned
from completedp.plan import Plan


def planned(plan: Plan) -> Parametrized:
    """The values of an external model's plan with folded coefficients, on the meta device."""
    model, base = external_model(plan.model), external_model(plan.base)
    assert model is not None, "the reference model's plan needs no folding"
    assert base is not None, "a model and its base are of one family"
    return values_at(build_model(model), model, base, plan.resolved, plan.parameterization)


def audit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Planned,
    *,
    schedule: float | None = None,
) -> Audit:
    """Compare every tensor's values in force, and the coefficients of the forward pass, with `plan`.

    `plan` is a `Plan`, a `Resolved`, or the result of `parametrize`. Any wrapper may be on the model. Hooked
    multipliers must have run. The coefficients of an external model's plan are expected to be folded, as in
    `completedp train`. If they are hooked, give the result of `parametrize`.

    The planned lr is a peak, so the lr in force is compared with the peak times `schedule`, the scheduler's
    multiplier at this step. Without `schedule` the multiplier is taken to be the same for all tensors, above
    0 and at most 1. Each group's `initial_lr`, if a scheduler left one, must then be the planned peak itself.
    A schedule at 0 is a difference, because all learning rates look alike there. So is a schedule at 0 for
    some groups only.
    """
    if isinstance(plan, Plan) and external_model(plan.model) is not None:
        plan = planned(plan)
    return auditing.audit(model, optimizer, plan, schedule=schedule)
