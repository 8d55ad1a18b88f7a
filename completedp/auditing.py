"""The values in force in an optimizer against the planned ones, tensor by tensor.

Schedulers that write one learning rate into every group, wrappers that merge groups, and trainers that make
an optimizer of their own lose per-module values without a word, some of them only late in the training. Call
`audit` after the scheduler's first step, and every so many steps.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from completedp.adapters.folding import idle_hooks
from completedp.errors import UserError
from completedp.resolved import TensorRow

# An optimizer may hold its lr as a float32 tensor.
TOLERANCE = 1e-6
# Of an lr that is such a tensor: a scheduler that makes each from the one before rounds it once a step, which
# had moved groups apart by 5e-6 after 20,000 steps of CosineAnnealingLR.
TENSOR_TOLERANCE = 1e-3
# What wrappers put into the names of parameters: DDP, torch.compile, FSDP1, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_SHOWN = 8


class Planned(Protocol):
    """What `parametrize` returns, a `Plan`, or a `Resolved`."""

    @property
    def tensors(self) -> Sequence[TensorRow]: ...


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One value of one tensor that is not as planned; `planned` and `in_force` as text where no number."""

    tensor: str
    what: str
    planned: float | str
    in_force: float | str

    def __str__(self) -> str:
        return (
            f"{self.tensor}: {self.what} is {_text(self.in_force)}, planned {_text(self.planned)}"
        )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What `audit` found. `schedule` is the multiplier on the planned lr that is in force."""

    tensors: int
    schedule: float
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences

    def check(self) -> None:
        """Raises `UserError` naming the first differences, where there are any."""
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
    groups = _groups_of(optimizer)
    in_force = {name: groups[id(p)] for name, p in parameters.items() if id(p) in groups}
    shared = {name: group for name, group in in_force.items() if name in rows}
    multiplier = _multiplier(shared, rows) if schedule is None else schedule
    differences = [
        *_optimizer(optimizer),
        *(_no_schedule(multiplier) if schedule is None else ()),
        *(
            Difference(
                tensor=name,
                what="multiplier",
                planned="on its output",
                in_force='never used, because the code does not call this module (use residual="fold")',
            )
            for name in idle_hooks(model)
        ),
        *(
            Difference(tensor=n, what="row", planned="none", in_force="trained")
            for n in parameters.keys() - rows.keys()
        ),
        *(
            Difference(tensor=n, what="parameter", planned="trained", in_force="not in the model")
            for n in rows.keys() - parameters.keys()
        ),
        *(
            Difference(tensor=n, what="group", planned="one", in_force="none")
            for n in parameters.keys() - in_force.keys()
        ),
    ]
    for name, group in shared.items():
        differences += _values(rows[name], group, multiplier)
    return Audit(tensors=len(shared), schedule=multiplier, differences=tuple(differences))


def _no_schedule(multiplier: float) -> Iterator[Difference]:
    """What no schedule makes of a peak; at 0 all learning rates look alike."""
    if not 0 < multiplier <= 1 + TOLERANCE:
        yield Difference(
            tensor="every tensor",
            what="lr",
            planned="above 0 and at most the peak",
            in_force=f"{multiplier:g} x the peak (audit after the scheduler's first step, or give schedule=)",
        )


def _groups_of(optimizer: torch.optim.Optimizer) -> dict[int, Mapping[str, Any]]:
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


def _optimizer(optimizer: torch.optim.Optimizer) -> Iterator[Difference]:
    """The rules are AdamW's."""
    inner = getattr(optimizer, "optimizer", optimizer)  # what accelerate wraps
    if not isinstance(inner, torch.optim.AdamW):
        yield Difference(
            tensor="every tensor",
            what="optimizer",
            planned="torch.optim.AdamW",
            in_force=type(inner).__name__,
        )
        return
    for i, group in enumerate(inner.param_groups):
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                yield Difference(tensor=f"group {i}", what=option, planned="False", in_force="True")


def _values(row: TensorRow, group: Mapping[str, Any], multiplier: float) -> Iterator[Difference]:
    beta1, beta2 = group.get("betas", (math.nan, math.nan))
    pairs = {
        "lr": (row.lr * multiplier, float(group["lr"])),
        "weight_decay": (row.weight_decay, group.get("weight_decay", math.nan)),
        "beta1": (row.beta1, float(beta1)),
        "beta2": (row.beta2, float(beta2)),
        "eps": (row.eps, group.get("eps", math.nan)),
    }
    if "initial_lr" in group:
        pairs["initial_lr"] = (row.lr, float(group["initial_lr"]))
    for what, (planned, found) in pairs.items():
        rounded = what == "lr" and isinstance(group["lr"], torch.Tensor)
        if not math.isclose(planned, found, rel_tol=TENSOR_TOLERANCE if rounded else TOLERANCE):
            yield Difference(tensor=row.name, what=what, planned=planned, in_force=found)


def _multiplier(shared: Mapping[str, Mapping[str, Any]], rows: Mapping[str, TensorRow]) -> float:
    """That of most tensors. A group at 0 among others says nothing of the schedule."""
    ratios = [float(group["lr"]) / rows[name].lr for name, group in shared.items()]
    at_work = [ratio for ratio in ratios if ratio]
    return statistics.median_low(at_work or ratios or [1.0])


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
