# Text to be copied: `transfer.exports.python_file` puts this docstring, these imports and everything after
# the tables' place into the exported file. This note stays behind.
"""Per-module hyperparameters of one model at one scale, as `completedp export --format torch` writes them.

Needs torch alone. In the training loop:

    initialize(model, seed=0)
    optimizer = adamw(model)  # clips the gradients itself, before each step
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

In the forward pass, x + residual_multipliers()["attention"][layer] · attention(x), the same with "ffn",
and the logits times OUTPUT_MULTIPLIER. A model whose code nobody may touch takes `folded=True` in these
calls instead of both: that is the same training. The loss is the mean over all tokens of the batch, plus
TRAIN["z_loss"] times the mean of (log Z)².
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch

# --- tables ---
TRAIN: dict[str, Any] = {}
TENSORS: dict[str, dict[str, Any]] = {}
RESIDUAL: dict[str, list[float]] = {}
OUTPUT_MULTIPLIER: float = 1.0
FOLDED: dict[str, float] = {}
FOLD: bool = False
# --- end of tables ---


def initialize(model: torch.nn.Module, seed: int, folded: bool = FOLD) -> None:
    """Set every trainable parameter to its initial value, in place.

    A tensor is drawn in float32 on the CPU from a generator of its own, seeded by `seed` and its name.
    """
    with torch.no_grad():
        for name, parameter in _parameters(model).items():
            row = _row(name, folded)
            if row["init_std"] is None:
                parameter.fill_(row["init_value"])
                continue
            digest = hashlib.sha256(f"{seed}/{row['name']}".encode()).digest()
            generator = torch.Generator()
            generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            unit = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            wide = torch.promote_types(parameter.dtype, torch.float32)
            parameter.copy_(unit.to(wide).mul_(row["init_std"]))


def param_groups(model: torch.nn.Module, folded: bool = FOLD) -> list[dict[str, Any]]:
    """Groups for torch.optim.AdamW; tensors of equal values share one."""
    parameters = _parameters(model)
    return [
        {"params": [parameters[name] for name in names], "param_names": names, **values}
        for values, names in _groups(folded)
    ]


def adamw(model: torch.nn.Module, folded: bool = FOLD, **options: Any) -> torch.optim.AdamW:
    """AdamW over `param_groups` that clips before each step; a trainer's own clipping must be off.

    `options` are AdamW's own, such as fused.
    """
    optimizer = torch.optim.AdamW(param_groups(model, folded), **options)
    optimizer.register_step_pre_hook(lambda *_: clip_gradients(model, folded))
    return optimizer


def clip_gradients(model: torch.nn.Module, folded: bool = FOLD) -> None:
    """Scale all gradients down to a global norm of TRAIN["clip"], where that is above 0.

    A tensor with a multiplier c folded into it counts with c times its gradient: that is the gradient
    which the model with multipliers has, so folding changes nothing here either.
    """
    _clip(_parameters(model), folded)


def schedule(step: int) -> float:
    """The multiplier of every group's peak lr at `step`, counted from 0."""
    steps = TRAIN["steps"]
    warmup = round(TRAIN["warmup"] * steps)
    if step < warmup:
        return float((step + 1) / (warmup + 1))
    tail = round(TRAIN["decay"] * steps) if TRAIN["schedule"] == "wsd" else steps
    tail = min(tail, steps - warmup)
    left = min(1.0, max(0, steps - step) / tail) if tail else 1.0
    if TRAIN["schedule"] == "cosine":
        left = 0.5 - 0.5 * math.cos(math.pi * left)
    return float(TRAIN["final_lr"] + (1 - TRAIN["final_lr"]) * left)


def residual_multipliers() -> dict[str, list[float]]:
    """Coefficient of each residual branch, by branch and layer."""
    return {branch: list(by_layer) for branch, by_layer in RESIDUAL.items()}


def _clip(parameters: dict[str, torch.nn.Parameter], folded: bool) -> None:
    if not TRAIN["clip"]:
        return
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    scales = FOLDED if folded else {}
    norm = torch.nn.utils.get_total_norm(
        [g * scales[name] if name in scales else g for name, g in gradients.items()]
    )
    torch.nn.utils.clip_grads_with_norm_(parameters.values(), TRAIN["clip"], norm)


def _groups(folded: bool) -> list[tuple[dict[str, Any], list[str]]]:
    groups: dict[tuple[Any, ...], tuple[dict[str, Any], list[str]]] = {}
    for name in TENSORS:
        row = _row(name, folded)
        values = {key: row[key] for key in ("lr", "weight_decay", "eps")}
        values["betas"] = (row["beta1"], row["beta2"])
        groups.setdefault(tuple(values.items()), (values, []))[1].append(name)
    return list(groups.values())


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


def _padded(name: str, planned: list[int], found: list[int]) -> bool:
    """Whether a trainer has only given the vocabulary more rows, which take the same values."""
    is_vocabulary = name in ("embedding.weight", "unembedding.weight")
    return is_vocabulary and found[1:] == planned[1:] and found[0] > planned[0]


def _parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unknown = sorted(parameters.keys() - TENSORS.keys())
    absent = sorted(TENSORS.keys() - parameters.keys())
    if unknown or absent:
        raise ValueError(
            f"the model's trainable parameters are not those of this file; "
            f"only in the model: {unknown}; only in the file: {absent}"
        )
    for name, parameter in parameters.items():
        planned, found = list(TENSORS[name]["shape"]), list(parameter.shape)
        if found != planned and not _padded(TENSORS[name]["name"], planned, found):
            raise ValueError(
                f"{name} has the shape {found}; expected {planned}: its values are those of one model"
            )
    return {name: parameters[name] for name in TENSORS}
