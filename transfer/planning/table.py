"""A plan as a table for people: a row per module type, each value as a range over the layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from completedp.kinds import KINDS, default, global_kinds
from completedp.optimizer import VALUES, TensorRow
from completedp.plan import Plan

_COLUMNS = (*VALUES, "init_std")
_HEADINGS = ("module type", *(KINDS[v].label for v in VALUES), "init_std")


def by_module_type(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Column names and rows. The coefficients of the forward pass come last: those of the residual branches,
    then any others."""
    values = [
        {"module_type": row.module_type, **{c: _value(c, row) for c in _COLUMNS}}
        for row in plan.tensors
    ]
    return _ranges(values, plan.residual, plan.coefficients)


def _ranges(
    values: Sequence[Mapping[str, Any]],
    residual: Mapping[str, Sequence[float]],
    others: Mapping[str, Sequence[float]],
) -> tuple[list[str], list[list[str]]]:
    rows = []
    for module_type in dict.fromkeys(row["module_type"] for row in values):
        members = [row for row in values if row["module_type"] == module_type]
        rows.append([module_type, *(_range([row[c] for row in members]) for c in _COLUMNS), ""])
    named = {**{f"{branch} branch": c for branch, c in residual.items()}, **others}
    rows += [[name, *("" for _ in _COLUMNS), _range(c)] for name, c in named.items()]
    return [*_HEADINGS, "coefficient" if others else "residual"], rows


def _value(column: str, row: TensorRow) -> float | None:
    value: float | None = getattr(row, column)
    return KINDS[column].shown(value) if column in KINDS and value is not None else value


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
    residual = {
        branch: [c / other for c, other in zip(by, baseline.residual[branch], strict=True)]
        for branch, by in plan.residual.items()
    }
    others = {}
    for name in {**plan.coefficients, **baseline.coefficients}:
        # A plan that leaves a coefficient out has the default everywhere.
        unchanged = itertools.repeat(default(global_kinds()[name].name))
        both = [p.coefficients.get(name, unchanged) for p in (plan, baseline)]
        others[name] = [c / other for c, other in zip(*both, strict=False)]
    return _ranges(multiples(plan, baseline), residual, others)


def _multiple(column: str, row: TensorRow, other: TensorRow) -> float | None:
    ours, theirs = _value(column, row), _value(column, other)
    return ours / theirs if ours is not None and theirs else None


def _range(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "–"
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
