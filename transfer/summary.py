"""A plan for people: one row a module type, each value as a range over the layers."""

from __future__ import annotations

from collections.abc import Sequence

from completedp.plan import Plan

_COLUMNS = ("lr", "weight_decay", "beta1", "beta2", "eps", "init_std")


def by_module_type(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Column names and rows; residual branches last, their coefficient under `residual`."""
    types = dict.fromkeys(row.module_type for row in plan.tensors)
    rows = []
    for module_type in types:
        members = [row for row in plan.tensors if row.module_type == module_type]
        values = [[getattr(row, column) for row in members] for column in _COLUMNS]
        rows.append([module_type, *map(_range, values), ""])
    for branch, coefficients in plan.residual.items():
        rows.append([f"{branch} branch", *("" for _ in _COLUMNS), _range(coefficients)])
    return ["module type", *_COLUMNS, "residual"], rows


def _range(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
