"""A self-contained Python file: a trainer's docstring, the plan as data tables, and functions over them.

The functions are real code in the `template.py` files, formatted and checked like the rest of the project,
and copied as text. Every file has those of `torch/template.py`; a trainer's own follow. Only numbers, our
own constants, and names of letters, digits, `_`, `.` and `-` reach the tables: a stranger's plan cannot put
code in.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp.errors import UserError, named
from completedp.flops import shapes
from completedp.modules import BRANCH_ENDS
from completedp.optimizer import VALUES, TensorRow
from completedp.plan import Plan
from transfer.exports.canonical.render import train_settings
from transfer.exports.literals import assignments

_HERE = Path(__file__).parent
_TABLES, _END_OF_TABLES = "# --- tables ---\n", "# --- end of tables ---\n"
_DOCSTRING_WIDTH = 100
_VALUES = ("name", *VALUES, "init_std", "init_value")


def render(
    plan: Plan,
    trainer: str,
    *,
    names: Mapping[str, str] | None = None,
    tables: Mapping[str, object] | None = None,
    fold: bool = False,
    limitations: tuple[str, ...] = (),
) -> str:
    """The file's text.

    `trainer` is the folder beside this file whose `template.py` has the trainer's functions. `names` maps
    each module type to its name in the trainer's model, with `{layer}`; without it tensors keep their own
    names. `tables` are the trainer's own. `fold` is the file's default for folding multipliers.
    `limitations` are sentences that end the docstring.

    Raises `UserError` for a tensor whose name is not a plain name, and for a plan of an external model: the
    functions do not know its names and multipliers.
    """
    if plan.coefficients:
        raise UserError(
            f"the plan has {', '.join(plan.coefficients)}, for which these functions have no place: use json"
        )
    common, own = _read("torch"), _read(trainer)
    bodies = [common.body] if own == common else [common.body, own.body]
    data = assignments({**(tables or {}), **_tables(plan, names, fold)})
    head = own.docstring.removesuffix('"""\n') + _said(limitations) + '"""\n'
    imports = _imports(*common.imports, *own.imports)
    return f"{head}\n{imports}\n{data}\n\n" + "\n\n".join(bodies)


def _tables(plan: Plan, names: Mapping[str, str] | None, fold: bool) -> dict[str, Any]:
    shape_of = shapes(plan.reference)
    theirs = {row.name: _name(row, names) for row in plan.tensors}
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
        "FOLD: bool": fold,
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
        for row in plan.tensors:
            if row.module_type == "unembedding":
                coefficients[row.name] = plan.output_multiplier
    return coefficients


def _name(row: TensorRow, names: Mapping[str, str] | None) -> str:
    if names is None:
        return row.name
    module = named(names, row.module_type, "module type").format(layer=row.layer)
    return f"{module}.{row.name.rpartition('.')[2]}"


@dataclass(frozen=True)
class _Parts:
    """A template: its docstring with the quotes, its imports, and the code after the tables' place."""

    docstring: str
    imports: tuple[str, ...]
    body: str


def _read(trainer: str) -> _Parts:
    template = _HERE / trainer / "template.py"
    head, _, rest = template.read_text(encoding="utf-8").partition(_TABLES)
    _, mark, body = rest.partition(_END_OF_TABLES)
    assert mark, f"{template} has one place for the tables"
    docstring, quotes, imports = head[head.index('"""') :].rpartition('"""\n')
    statements = tuple(
        ast.get_source_segment(imports, node) or "" for node in ast.parse(imports).body
    )
    return _Parts(docstring + quotes, statements, body.strip("\n") + "\n")


def _imports(*statements: str) -> str:
    """The statements without repetition, in the groups and order of isort."""

    def group(statement: str) -> int:
        package = statement.split()[1].partition(".")[0]
        return 0 if package == "__future__" else 1 if package in sys.stdlib_module_names else 2

    ordered = sorted(set(statements), key=lambda s: (s.startswith("from"), s))
    groups = [[s for s in ordered if group(s) == i] for i in range(3)]
    return "\n".join("".join(f"{s}\n" for s in part) for part in groups if part)


def _said(limitations: tuple[str, ...]) -> str:
    if not limitations:
        return ""
    text = "\nWhat this trainer cannot express, and what the file does about it:\n\n"
    for sentence in limitations:
        assert not {'"', "\\"} & set(sentence), "the sentence goes into a docstring"
        text += textwrap.fill(
            sentence,
            _DOCSTRING_WIDTH,
            initial_indent="* ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        text += "\n"
    return text
