"""The values in force in an optimizer against the planned ones, tensor by tensor.

Three things lose per-module values without a word, some of them late in the training: schedulers that write
one learning rate into every group, wrappers that merge groups, and trainers that make their own optimizer.
Call `audit` after the scheduler's first step, and again every so many steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from completedp.errors import UserError
from completedp.hooks import idle_hooks
from completedp.kinds import buffer_name
from completedp.modules import plain_name
from completedp.optimizer import Planned, TensorRow, other_training, values_of

# An optimizer may hold its lr as a float32 tensor.
TOLERANCE = 1e-6
# For an lr that is such a tensor. A scheduler that computes each from the one before rounds it once a step;
# after 20,000 steps of CosineAnnealingLR this had moved groups apart by 5e-6.
TENSOR_TOLERANCE = 1e-3
_SHOWN = 8
# The fields of a `Difference`.
_Found = tuple[str, str, float | str, float | str]


@dataclass(frozen=True)
class Difference:
    """One value of one tensor that is not as planned; `planned` and `in_force` are text if they are no
    numbers."""

    tensor: str
    what: str
    planned: float | str
    in_force: float | str

    def __str__(self) -> str:
        in_force, planned = (
            value if isinstance(value, str) else f"{value:.6g}"
            for value in (self.in_force, self.planned)
        )
        return f"{self.tensor}: {self.what} is {in_force}, planned {planned}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of `audit`. `schedule` is the multiplier on the planned lr that is in force."""

    tensors: int
    schedule: float
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences

    def check(self) -> None:
        """Raises `UserError` naming the first differences, if there are any."""
        if self.differences:
            shown = "; ".join(str(d) for d in self.differences[:_SHOWN])
            more = len(self.differences) - _SHOWN
            raise UserError(
                f"the optimizer does not train as planned: {shown}"
                + (f"; and {more} more" if more > 0 else "")
            )


def audit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plan: Planned,
    *,
    schedule: float | None = None,
) -> Audit:
    """As `completedp.audit`, for plans of the reference model and for values that are folded already."""
    rows = {plain_name(row.name): row for row in plan.tensors}
    parameters = {plain_name(n): p for n, p in model.named_parameters() if p.requires_grad}
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    in_force = {name: groups[id(p)] for name, p in parameters.items() if id(p) in groups}
    shared = {name: group for name, group in in_force.items() if name in rows}
    multiplier = _multiplier(shared, rows) if schedule is None else schedule
    differences: list[_Found] = [*other_training(optimizer)]
    # No schedule has such a multiplier; at 0 all learning rates look alike.
    if schedule is None and not 0 < multiplier <= 1 + TOLERANCE:
        at = (
            f"{multiplier:g} x the peak (audit after the scheduler's first step, or give schedule=)"
        )
        differences.append(("every tensor", "lr", "above 0 and at most the peak", at))
    never = 'never used, because the code does not call this module (use residual="fold")'
    differences += [
        *((name, "multiplier", "on its output", never) for name in idle_hooks(model)),
        *((n, "row", "none", "trained") for n in parameters.keys() - rows.keys()),
        *((n, "parameter", "trained", "not in the model") for n in rows.keys() - parameters.keys()),
        *((n, "group", "one", "none") for n in parameters.keys() - in_force.keys()),
        *_coefficients(model, plan),
    ]
    for name, group in shared.items():
        differences += _values(rows[name], group, multiplier)
    return Audit(
        tensors=len(shared),
        schedule=multiplier,
        differences=tuple(Difference(*found) for found in differences),
    )


def _coefficients(model: nn.Module, plan: Planned) -> Iterator[_Found]:
    """The planned coefficients against the buffers that hold them in the model."""
    buffers = {plain_name(name): buffer for name, buffer in model.named_buffers()}
    for name, planned in plan.coefficients.items():
        buffer = buffers.get(buffer_name(name))
        found = [] if buffer is None else buffer.flatten().tolist()
        if len(found) != len(planned):
            yield name, "buffer", f"{len(planned)} numbers", f"{len(found)} numbers"
            continue
        for i, (c, in_force) in enumerate(zip(planned, found, strict=True)):
            if not math.isclose(c, in_force, rel_tol=TOLERANCE):
                yield name, f"number {i}", c, in_force


def _values(row: TensorRow, group: Mapping[str, Any], multiplier: float) -> Iterator[_Found]:
    pairs = {name: (getattr(row, name), found) for name, found in values_of(group).items()}
    pairs["lr"] = (row.lr * multiplier, float(group["lr"]))
    if "initial_lr" in group:
        pairs["initial_lr"] = (row.lr, float(group["initial_lr"]))
    for what, (planned, found) in pairs.items():
        rounded = what == "lr" and isinstance(group["lr"], torch.Tensor)
        if not math.isclose(planned, found, rel_tol=TENSOR_TOLERANCE if rounded else TOLERANCE):
            yield row.name, what, planned, found


def _multiplier(shared: Mapping[str, Mapping[str, Any]], rows: Mapping[str, TensorRow]) -> float:
    """The multiplier of most tensors. A group at 0 among others says nothing about the schedule."""
    ratios = [float(group["lr"]) / rows[name].lr for name, group in shared.items()]
    at_work = [ratio for ratio in ratios if ratio]
    return statistics.median_low(at_work or ratios or [1.0])
