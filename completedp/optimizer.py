"""A model's parameters as `resolved` wants them: initial values and AdamW's parameter groups.

Everything is keyed by qualified name; nothing is attached to a tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from completedp.errors import UserError
from completedp.resolved import Resolved, TensorRow


def initialize(
    model: nn.Module,
    resolved: Resolved,
    seed: int,
    write: Callable[[Tensor, Tensor], object] = Tensor.copy_,
) -> None:
    """Set every trainable parameter to its row's initial value, in place.

    Normal with standard deviation `init_std`, or the constant `init_value` where that is None. Each
    tensor is drawn in float32 on the CPU from a generator of its own, so its values depend on the seed
    and its name alone, not on the device, the order, or the other tensors. `write(parameter, values)` takes
    over each whole tensor, for parameters of which a process holds only a part. Raises `UserError` when
    the rows and the trainable parameters are not the same names.
    """
    with torch.no_grad():
        for row, parameter in _pairs(model, resolved):
            if row.init_std is None:
                parameter.fill_(row.init_value)
                continue
            # Said, because a caller may have set another default dtype.
            unit = torch.randn(
                parameter.shape, generator=_generator(seed, row.name), dtype=torch.float32
            )
            # Scaled in float32 or wider, then rounded once to the parameter's dtype.
            wide = torch.promote_types(parameter.dtype, torch.float32)
            write(parameter, unit.to(wide).mul_(row.init_std))


def param_groups(model: nn.Module, resolved: Resolved) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`, rows with equal values merged, in order of first appearance.

    Each has `name`, `param_names`, `params`, `lr`, `weight_decay`, `betas`, `eps`; together they hold
    every trainable parameter exactly once. Raises `UserError` as `initialize` does.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for row, parameter in _pairs(model, resolved):
        key = (row.lr, row.weight_decay, row.beta1, row.beta2, row.eps)
        group = groups.setdefault(
            key,
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


def adamw(model: nn.Module, resolved: Resolved) -> torch.optim.AdamW:
    """AdamW over `param_groups`, fused: on a CPU too it is the fastest for many small groups."""
    return torch.optim.AdamW(param_groups(model, resolved), fused=True)


def _pairs(model: nn.Module, resolved: Resolved) -> list[tuple[TensorRow, nn.Parameter]]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = {row.name: row for row in resolved.tensors}
    assert len(rows) == len(resolved.tensors), "a tensor has two rows"
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
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _group_name(names: list[str]) -> str:
    """Unique, because a tensor is in one group only."""
    return names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1} more"


def _listed(names: Iterable[str], most: int = 6) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
