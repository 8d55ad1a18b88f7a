"""An inventory as a table, notes and JSON for `completedp inspect`."""

from __future__ import annotations

from typing import Any

from completedp.adapters.infer import ExternalInventory
from completedp.modules import BRANCH_ENDS, BRANCH_POST_NORMS, TensorSpec

COLUMNS = ("parameter", "module type", "role", "base shape", "shape", "fan-in", "base start")


def rows(found: ExternalInventory) -> list[tuple[str, ...]]:
    """One row per parameter of layer 0 and per parameter outside the stack, in the model's order."""
    parameters = {p.name: p for p in found.observed.parameters}
    table: list[tuple[str, ...]] = []
    for spec in found.whole:
        if spec.layer in (None, 0):
            p = parameters[spec.name]
            name = spec.name if spec.layer is None else f"{found.observed.stack}.*.{p.path}"
            table.append(
                (
                    name,
                    spec.module_type,
                    spec.role,
                    _shape(p.base_shape),
                    _shape(p.shape),
                    str(spec.fan_in) if spec.fan_in else "–",
                    _start(spec),
                )
            )
    return table


def notes(found: ExternalInventory) -> list[str]:
    """The model's peculiarities, and how each one is handled."""
    lines = []
    if found.whole.tied:
        lines.append(
            "the unembedding is the embedding: it takes the embedding's row and begins at 1/√width of the "
            "base, and the logits are multiplied by 1/m_N through the final norm's gain"
        )
    if found.embedding_factor != 1:
        how = "by a hook, because the tensor is tied" if found.whole.tied else "by folding"
        lines.append(
            f"the code multiplies the embedding by a factor that grew {found.embedding_factor:.4g}-fold with "
            f"the width; this factor is divided out {how}"
        )
    if any(spec.offset for spec in found.whole):
        lines.append("the code adds 1 to the gains of its norms: they start at 0")
    for branch, post_norm in BRANCH_POST_NORMS.items():
        ends = post_norm if post_norm in found.whole.module_types else BRANCH_ENDS[branch]
        lines.append(f"the {branch} branch's coefficient is folded into {ends}")
    for fused in {f.module_type: f for f in reversed(found.fused)}.values():
        parts = ", ".join(f"{t} {start}–{stop}" for t, start, stop in fused.parts)
        lines.append(f"{fused.module_type} holds {parts} along dimension {fused.dimension}")
    return lines


def document(found: ExternalInventory) -> dict[str, Any]:
    """The whole inventory as plain JSON."""
    parameters = {p.name: p for p in found.observed.parameters}
    return {
        "width": found.width,
        "base_width": found.base_width,
        "layers": found.whole.layers,
        "base_layers": found.whole.base_layers,
        "tied": found.whole.tied,
        "embedding_factor": found.embedding_factor,
        "notes": notes(found),
        "tensors": [
            {
                "name": s.name,
                "module_type": s.module_type,
                "role": s.role,
                "layer": s.layer,
                "shape": list(parameters[s.name].shape),
                "base_shape": list(parameters[s.name].base_shape),
                "fan_in": s.fan_in or None,
                "init_std": s.base_init_std,
                "init_value": None if s.is_weight else s.init_value,
            }
            for s in found.whole
        ],
    }


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _start(spec: TensorSpec) -> str:
    std = spec.base_init_std
    return f"{spec.init_value:g}" if std is None else f"std {std:.4g}"
