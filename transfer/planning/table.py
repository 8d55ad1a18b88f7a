"""A plan as a table for people: a row per module type, each value as a range over the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from completedp.plan import Plan
from completedp.resolved import TensorRow

_COLUMNS = ("lr", "weight_decay", "beta1", "beta2", "eps", "init_std")
_BETAS = ("beta1", "beta2")
# Four digits of a beta near 1 say nothing; four digits of its distance from 1 do.
_HEADINGS = ["module type", *(f"1 - {c}" if c in _BETAS else c for c in _COLUMNS), "residual"]


def by_module_type(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Column names and rows. The residual branches come last, with their multipliers under `residual`."""
    rows = [(row.module_type, {c: _value(c, row) for c in _COLUMNS}) for row in plan.tensors]
    return _HEADINGS, _ranges(rows, plan.residual)


def _ranges(
    rows: Sequence[tuple[str, Mapping[str, Any]]], residual: Mapping[str, Sequence[float]]
) -> list[list[str]]:
    """A row per module type, then one per residual branch."""
    shown = []
    for module_type in dict.fromkeys(name for name, _ in rows):
        members = [values for name, values in rows if name == module_type]
        shown.append([module_type, *(_range([m[c] for m in members]) for c in _COLUMNS), ""])
    blank = [""] * len(_COLUMNS)
    return shown + [[f"{branch} branch", *blank, _range(c)] for branch, c in residual.items()]


def _value(column: str, row: TensorRow) -> float | None:
    value: float | None = getattr(row, column)
    return 1 - value if column in _BETAS and value is not None else value


def multiples(plan: Plan, baseline: Plan) -> list[dict[str, Any]]:
    """Each tensor's values as multiples of the baseline's (for β the multiple of 1-β); None without a value.

    A part of a fused tensor is compared to the whole tensor if the baseline has no values for the part.
    """
    others = {row.name: row for row in baseline.tensors}
    found = []
    for row in plan.tensors:
        other = others.get(row.name) or others.get(row.name.partition("[")[0])
        values = {c: other and _multiple(c, row, other) for c in _COLUMNS}
        found.append({"name": row.name, "module_type": row.module_type, **values})
    return found


def multiples_by_module_type(plan: Plan, baseline: Plan) -> tuple[list[str], list[list[str]]]:
    """`multiples` in the form of `by_module_type`."""
    rows = [(row["module_type"], row) for row in multiples(plan, baseline)]
    residual = {
        branch: [c / other for c, other in zip(by, baseline.residual[branch], strict=True)]
        for branch, by in plan.residual.items()
    }
    return _HEADINGS, _ranges(rows, residual)


def _multiple(column: str, row: TensorRow, other: TensorRow) -> float | None:
    ours, theirs = _value(column, row), _value(column, other)
    return ours / theirs if ours is not None and theirs else None


def _range(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
