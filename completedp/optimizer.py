"""AdamW, and nothing of it anywhere else: a tensor's values, their folding and bounds, groups, state, audit.

A second optimizer would have the same names in its own file. Everything is keyed by qualified name; nothing
is attached to a tensor. The values need no torch, so the functions that take a model import it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from completedp import reading
from completedp.errors import UserError
from completedp.kinds import BETA, NOT_NEGATIVE, POSITIVE
from completedp.reading import Field

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# The values of a row that a parameter group holds.
VALUES = ("lr", "weight_decay", "beta1", "beta2", "eps")
# The optimizer's whole state of a tensor. `STEP_KEY` counts its steps; the others have the tensor's shape.
STEP_KEY = "step"
STATE_KEYS = (STEP_KEY, "exp_avg", "exp_avg_sq")
# Options of the optimizer that train another way than planned.
_REFUSED = ("amsgrad", "maximize")

# The range of float32, in which the optimizer computes. An ε below it loses its digits, then is 0.
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127
SMALLEST_FLOAT32 = 2.0**-126
FLOAT32 = Field(
    lambda x: reading.is_number(x) and abs(x) <= LARGEST_FLOAT32,
    f"a number of at most {LARGEST_FLOAT32:.8g}",
)
# The values that AdamW takes, and the constants that fill a tensor.
BOUNDS: Mapping[str, Field] = {
    "lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "beta1": BETA,
    "beta2": BETA,
    "eps": NOT_NEGATIVE,
    "init_value": FLOAT32,
}
# The values of a plan: with them a tensor trains.
PLANNED_BOUNDS: Mapping[str, Field] = {
    **{name: BOUNDS[name] for name in VALUES},
    "lr": Field(
        lambda x: POSITIVE.is_right(x) and x <= LARGEST_FLOAT32,
        f"at most {LARGEST_FLOAT32:.8g}, and above 0",
    ),
    "eps": Field(
        lambda x: reading.is_number(x) and x >= SMALLEST_FLOAT32,
        f"at least {SMALLEST_FLOAT32:.8g}",
    ),
}


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor's values. `init_std` None: it starts at exactly `init_value` (gains 1, biases 0)."""

    name: str
    module_type: str
    layer: int | None
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    init_std: float | None
    init_value: float = 0.0

    def folded_by(self, c: float, offset: float = 0.0) -> TensorRow:
        """The same training with a forward multiplier c moved into the tensor: AdamW is invariant under
        W = c·W′ with lr and init times c, and ε and λ over c.

        `offset` is what the model's code adds to the tensor before use. Raises `UserError` if such a tensor
        is decayed: the decay would pull towards another value.
        """
        if offset and self.weight_decay:
            raise UserError(
                f"{self.name}: the code adds {offset:g} to it and it is decayed, so no multiplier can be "
                'folded into it; use residual="hook", or a weight decay of 0 there'
            )
        return dataclasses.replace(
            self,
            lr=self.lr * c,
            eps=self.eps / c,
            weight_decay=self.weight_decay / c,
            init_std=None if self.init_std is None else self.init_std * c,
            init_value=self.init_value * c + offset * (c - 1),
        )

    def check_planned(self) -> None:
        """Raises `UserError`, by the tensor's name, for a value with which it would not train."""
        for name, bound in PLANNED_BOUNDS.items():
            if not bound.is_right(value := getattr(self, name)):
                raise UserError(f"{self.name}: {name} is {value}; expected {bound.expected}")


class Planned(Protocol):
    """A `Resolved`, a `Plan`, or the result of `parametrize`.

    `coefficients` are the coefficients of the forward pass by name, without the residual ones.
    """

    @property
    def tensors(self) -> Sequence[TensorRow]: ...

    @property
    def coefficients(self) -> Mapping[str, Sequence[float]]: ...


def initialize(
    model: nn.Module,
    planned: Planned,
    seed: int,
    write: Callable[[Tensor, Tensor], object] | None = None,
) -> None:
    """Set every trainable parameter to its row's initial value, in place.

    The value is normal with standard deviation `init_std`, or the constant `init_value` if that is None.
    Each tensor is drawn in float32 on the CPU from a generator of its own, so its values depend on the seed
    and its name alone, not on the device, the order, or the other tensors. `write(parameter, values)` takes
    over each whole tensor, for parameters of which a process holds only a part; by default it copies. Raises
    `UserError` when the rows and the trainable parameters have different names.
    """
    import torch

    write = torch.Tensor.copy_ if write is None else write
    with torch.no_grad():
        for row, parameter in _pairs(model, planned):
            if row.init_std is None:
                parameter.fill_(row.init_value)
                continue
            # The dtype is given because a caller may have set another default.
            unit = torch.randn(
                parameter.shape, generator=_generator(seed, row.name), dtype=torch.float32
            )
            # Scaled in float32 or wider, then rounded once to the parameter's dtype.
            wide = torch.promote_types(parameter.dtype, torch.float32)
            write(parameter, unit.to(wide).mul_(row.init_std))


def param_groups(model: nn.Module, planned: Planned) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, rows with equal values merged, in order of first appearance.

    Each has `name`, `param_names`, `params`, `lr`, `weight_decay`, `betas`, `eps`; together they hold
    every trainable parameter exactly once. Raises `UserError` as `initialize` does.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for row, parameter in _pairs(model, planned):
        group = groups.setdefault(
            tuple(getattr(row, name) for name in VALUES),
            {
                "params": [],
                "param_names": [],
                "lr": row.lr,
                "weight_decay": row.weight_decay,
                # torch takes no whole number here.
                "betas": (float(row.beta1), float(row.beta2)),
                "eps": row.eps,
            },
        )
        group["params"].append(parameter)
        group["param_names"].append(row.name)
    named = [{"name": _group_name(g["param_names"]), **g} for g in groups.values()]
    grouped = [id(p) for g in named for p in g["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable), "the groups must partition the parameters"
    return named


def adamw(model: nn.Module, planned: Planned) -> torch.optim.AdamW:
    """AdamW over `param_groups`, fused: on a CPU too it is the fastest for many small groups."""
    import torch

    return torch.optim.AdamW(param_groups(model, planned), fused=True)


def values_of(group: Mapping[str, Any]) -> dict[str, float]:
    """The values in force in a parameter group, under the names of a row's; NaN for one that is absent."""
    beta1, beta2 = group.get("betas", (math.nan, math.nan))
    found = {**group, "beta1": beta1, "beta2": beta2}
    return {name: float(found.get(name, math.nan)) for name in VALUES}


def other_training(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, str, str]]:
    """Why an optimizer would train another way than planned: (part of it, what, planned, in force)."""
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)  # what accelerate wraps
    if not isinstance(inner, torch.optim.AdamW):
        yield "every tensor", "optimizer", "torch.optim.AdamW", type(inner).__name__
        return
    for i, group in enumerate(inner.param_groups):
        for option in _REFUSED:
            if group.get(option):
                yield f"group {i}", option, "False", "True"


def _pairs(model: nn.Module, planned: Planned) -> list[tuple[TensorRow, nn.Parameter]]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = {row.name: row for row in planned.tensors}
    assert len(rows) == len(planned.tensors), "a tensor has two rows"
    if without := parameters.keys() - rows.keys():
        raise UserError(
            f"trainable parameters without a row: {_listed(without)}; give each one a module type, or "
            "set requires_grad to False"
        )
    if absent := rows.keys() - parameters.keys():
        raise UserError(
            f"rows without a trainable parameter in the model: {_listed(absent)}; the values belong to "
            "another model"
        )
    return [(row, parameters[name]) for name, row in rows.items()]


def _generator(seed: int, name: str) -> torch.Generator:
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _group_name(names: list[str]) -> str:
    """Unique, because a tensor is in one group only."""
    return names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1} more"


def _listed(names: Iterable[str], most: int = 6) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
