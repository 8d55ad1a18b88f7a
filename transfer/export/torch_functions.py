"""Per-module hyperparameters of one model at one scale, as `completedp export --format torch` writes them.

Needs torch alone. In the training loop:

    initialize(model, seed=0)
    optimizer = torch.optim.AdamW(param_groups(model))
    peak = [group["lr"] for group in optimizer.param_groups]  # a schedule multiplies each group's own

In the forward pass, x + residual_multipliers()["attention"][layer] · attention(x), the same with "ffn",
and the logits times OUTPUT_MULTIPLIER. A model whose code nobody may touch takes `folded=True` in both
calls instead of the residual multipliers; without gradient clipping that is the same training.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

# --- tables ---
TRAIN: dict[str, Any] = {}
TENSORS: dict[str, dict[str, Any]] = {}
RESIDUAL: dict[str, list[float]] = {}
FOLDED: dict[str, float] = {}
OUTPUT_MULTIPLIER: float = 1.0
# --- end of tables ---


def initialize(model: torch.nn.Module, seed: int, folded: bool = False) -> None:
    """Set every trainable parameter to its initial value, in place.

    A tensor is drawn in float32 on the CPU from a generator of its own, seeded by `seed` and its name.
    """
    with torch.no_grad():
        for name, parameter in _parameters(model).items():
            row = _row(name, folded)
            if row["init_std"] is None:
                parameter.fill_(row["init_value"])
                continue
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator()
            generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            unit = torch.randn(parameter.shape, generator=generator)
            wide = torch.promote_types(parameter.dtype, torch.float32)
            parameter.copy_(unit.to(wide).mul_(row["init_std"]))


def param_groups(model: torch.nn.Module, folded: bool = False) -> list[dict[str, Any]]:
    """Groups for torch.optim.AdamW; tensors of equal values share one."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in _parameters(model).items():
        row = _row(name, folded)
        values = {key: row[key] for key in ("lr", "weight_decay", "eps")}
        values["betas"] = (row["beta1"], row["beta2"])
        group = groups.setdefault(
            tuple(values.items()), {"params": [], "param_names": [], **values}
        )
        group["params"].append(parameter)
        group["param_names"].append(name)
    return list(groups.values())


def residual_multipliers() -> dict[str, list[float]]:
    """Coefficient of each residual branch, by branch and layer."""
    return {branch: list(by_layer) for branch, by_layer in RESIDUAL.items()}


def _row(name: str, folded: bool) -> dict[str, Any]:
    row = TENSORS[name]
    if not folded or name not in FOLDED:
        return row
    c = FOLDED[name]
    return {
        **row,
        "lr": row["lr"] * c,
        "eps": row["eps"] / c,
        "weight_decay": row["weight_decay"] / c,
        "init_std": None if row["init_std"] is None else row["init_std"] * c,
        "init_value": row["init_value"] * c,
    }


def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unknown = sorted(parameters.keys() - TENSORS.keys())
    absent = sorted(TENSORS.keys() - parameters.keys())
    if unknown or absent:
        raise ValueError(
            f"the model's trainable parameters are not those of this file; "
            f"only in the model: {unknown}; only in the file: {absent}"
        )
    return {name: parameters[name] for name in TENSORS}
