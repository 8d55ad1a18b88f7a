"""A self-contained Python file that initialises a model and makes its AdamW groups, torch alone needed.

The file is data tables and three functions. Only names of letters, digits, `_`, `.` and `-`, numbers and
constants of ours reach it, so that a plan from a stranger cannot put code into it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from completedp.errors import UserError
from completedp.modules import BRANCH_ENDS
from completedp.plan import Plan
from completedp.resolved import TensorRow
from transfer.export.canonical import train_settings

# The functions are real code, formatted and checked with the rest of the project, and copied as text.
_FUNCTIONS = Path(__file__).with_name("torch_functions.py")
_TABLES = re.compile(r"^# --- tables ---\n.*^# --- end of tables ---\n", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_VALUES = ("lr", "weight_decay", "beta1", "beta2", "eps", "init_std", "init_value")


def render(plan: Plan) -> str:
    """The file's text. Raises `UserError` for a tensor's name that is no plain name."""
    text, replaced = _TABLES.subn(lambda _: _tables(plan), _FUNCTIONS.read_text(encoding="utf-8"))
    assert replaced == 1, "the functions' file has one place for the tables"
    return text


def _tables(plan: Plan) -> str:
    coefficients = {
        row.name: plan.residual[branch][row.layer]
        for branch, module_type in BRANCH_ENDS.items()
        for row in plan.tensors
        if row.module_type == module_type and row.layer is not None
    }
    tables: dict[str, Any] = {
        "TRAIN: dict[str, Any]": train_settings(plan),
        "TENSORS: dict[str, dict[str, Any]]": {row.name: _values(row) for row in plan.tensors},
        "RESIDUAL: dict[str, list[float]]": {b: list(c) for b, c in plan.residual.items()},
        "FOLDED: dict[str, float]": coefficients,
        "OUTPUT_MULTIPLIER: float": plan.output_multiplier,
    }
    return "".join(f"{name} = {_literal(value)}\n" for name, value in tables.items())


def _values(row: TensorRow) -> dict[str, float | None]:
    return {name: getattr(row, name) for name in _VALUES}


def _literal(value: object, indent: int = 0) -> str:
    """Python source of plain data, one entry a line, as ruff formats it."""
    match value:
        case dict():
            items = [f"{_name(k)}: {_literal(v, indent + 4)}" for k, v in value.items()]
            return _lines("{", items, "}", indent)
        case list():
            return _lines("[", [_literal(item, indent + 4) for item in value], "]", indent)
        case str():
            return _name(value)
        case float() if not math.isfinite(value):
            raise UserError(f"a value of the plan is {value}; expected finite numbers")
        case None | bool() | int() | float():
            return repr(value)
    raise AssertionError(f"no plain data: {type(value).__name__}")


def _lines(opening: str, items: list[str], closing: str, indent: int) -> str:
    space = " " * indent
    return "\n".join([opening, *(f"{space}    {item}," for item in items), f"{space}{closing}"])


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be written into a Python file; expected a name of letters, digits, "
            "'_', '.' and '-'"
        )
    return f'"{name}"'
