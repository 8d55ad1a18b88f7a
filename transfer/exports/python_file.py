"""A self-contained Python file: a trainer's docstring, the plan as data tables, and functions over them.

The functions are real code in the `template.py` files, formatted and checked like the rest of the project,
and copied as text. Every file has those of `torch/template.py`; a trainer's own follow. Only numbers, our
own constants, and names of letters, digits, `_`, `.` and `-` reach the tables: a stranger's plan cannot put
code in.
"""

from __future__ import annotations

import ast
import math
import re
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from completedp.errors import UserError, named
from completedp.flops import shapes
from completedp.modules import BRANCH_ENDS
from completedp.optimizer import VALUES, TensorRow
from completedp.plan import Plan
from transfer.exports.canonical.render import train_settings

_HERE = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TABLES, _END_OF_TABLES = "# --- tables ---\n", "# --- end of tables ---\n"
_DOCSTRING_WIDTH = 100
_VALUES = ("name", *VALUES, "init_std", "init_value")


def render(
    plan: Plan,
    trainer: str,
    *,
    names: Mapping[str, str] | None = None,
    tables: Mapping[str, object] | None = None,
    limitations: Iterable[str] = (),
) -> str:
    """The file's text.

    `trainer` is the folder beside this file whose `template.py` has the trainer's functions. `names` maps
    each module type to its name in the trainer's model, with `{layer}`; without it tensors keep their own
    names. `tables` are the trainer's own. `limitations` are sentences that end the docstring.

    Raises `UserError` for a tensor whose name is not a plain name, and for a plan of an external model: the
    functions do not know its names and multipliers.
    """
    if plan.coefficients:
        raise UserError(
            f"the plan has {', '.join(plan.coefficients)}, for which these functions have no place: use json"
        )
    templates = [_read(folder) for folder in dict.fromkeys(["torch", trainer])]
    docstring = templates[-1][0].removesuffix('"""\n') + _said(limitations) + '"""\n'
    imports = _imports({statement for _, statements, _ in templates for statement in statements})
    values = {**(tables or {}), **_tables(plan, names)}
    data = "".join(f"{name} = {literal(value)}\n" for name, value in values.items())
    return f"{docstring}\n{imports}\n{data}\n\n" + "\n\n".join(body for _, _, body in templates)


def _tables(plan: Plan, names: Mapping[str, str] | None) -> dict[str, Any]:
    shape_of = shapes(plan.reference)
    theirs = {row.name: _their_name(row, names) for row in plan.tensors}
    return {
        # The trainer's own loop replaces the one that found the recipe.
        "TRAIN: dict[str, Any]": {k: v for k, v in train_settings(plan).items() if k != "loop"},
        "TENSORS: dict[str, dict[str, Any]]": {
            theirs[row.name]: {value: getattr(row, value) for value in _VALUES}
            | {"shape": list(shape_of.get(row.name, ()))}
            for row in plan.tensors
        },
        "RESIDUAL: dict[str, list[float]]": {b: list(c) for b, c in plan.residual.items()},
        "OUTPUT_MULTIPLIER: float": plan.output_multiplier,
        "FOLDED: dict[str, float]": {theirs[name]: c for name, c in _folded(plan).items()},
        # A model of the trainer's own has no place for multipliers.
        "FOLD: bool": names is not None,
    }


def _folded(plan: Plan) -> dict[str, float]:
    """By tensor name, the multiplier that folding moves into the tensor.

    A residual branch's multiplier goes into its last matrix, the logits' into the unembedding.
    """
    coefficients = {
        row.name: plan.residual[branch][row.layer]
        for branch, module_type in BRANCH_ENDS.items()
        for row in plan.tensors
        if row.module_type == module_type and row.layer is not None
    }
    if plan.output_multiplier != 1.0:
        logits = [row.name for row in plan.tensors if row.module_type == "unembedding"]
        coefficients |= dict.fromkeys(logits, plan.output_multiplier)
    return coefficients


def _their_name(row: TensorRow, names: Mapping[str, str] | None) -> str:
    if names is None:
        return row.name
    module = named(names, row.module_type, "module type").format(layer=row.layer)
    return f"{module}.{row.name.rpartition('.')[2]}"


def _read(trainer: str) -> tuple[str, list[str], str]:
    """A template's docstring with the quotes, its imports, and the code after the tables' place."""
    template = _HERE / trainer / "template.py"
    head, _, rest = template.read_text(encoding="utf-8").partition(_TABLES)
    _, mark, body = rest.partition(_END_OF_TABLES)
    assert mark, f"{template} has one place for the tables"
    docstring, quotes, imports = head[head.index('"""') :].rpartition('"""\n')
    statements = [ast.get_source_segment(imports, node) or "" for node in ast.parse(imports).body]
    return docstring + quotes, statements, body.strip("\n") + "\n"


def _imports(statements: Collection[str]) -> str:
    """The statements in the groups and order of isort."""
    groups: list[list[str]] = [[], [], []]
    for statement in sorted(statements, key=lambda s: (s.startswith("from"), s)):
        package = statement.split()[1].partition(".")[0]
        is_known = package in sys.stdlib_module_names
        groups[0 if package == "__future__" else 1 if is_known else 2].append(statement + "\n")
    return "\n".join("".join(group) for group in groups if group)


def _said(limitations: Iterable[str]) -> str:
    bullets = textwrap.TextWrapper(
        _DOCSTRING_WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False
    )
    text = ""
    for sentence in limitations:
        assert not {'"', "\\"} & set(sentence), "the sentence goes into a docstring"
        text += bullets.fill(sentence) + "\n"
    title = "\nWhat this trainer cannot express, and what the file does about it:\n\n"
    return text and title + text


def literal(value: object, indent: int = 0) -> str:
    """Python source of plain data in ruff's format, one entry per line.

    Raises `UserError` for text that is not a plain name, and for a number that is not finite.
    """
    match value:
        case dict():
            items = [f"{_name(k)}: {literal(v, indent + 4)}" for k, v in value.items()]
            return _lines("{", items, "}", indent)
        case list():
            return _lines("[", [literal(item, indent + 4) for item in value], "]", indent)
        case str():
            return _name(value)
        case float() if not math.isfinite(value):
            raise UserError(f"a value of the plan is {value}; expected finite numbers")
        case None | bool() | int() | float():
            return repr(value)
    raise AssertionError(f"no plain data: {type(value).__name__}")


def _lines(opening: str, items: list[str], closing: str, indent: int) -> str:
    if not items:
        return opening + closing
    space = " " * indent
    return "\n".join([opening, *(f"{space}    {item}," for item in items), f"{space}{closing}"])


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be written into a Python file; expected a name of letters, digits, "
            "'_', '.' and '-'"
        )
    return f'"{name}"'
