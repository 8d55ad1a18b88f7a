"""Plain data as Python source. Names are validated, so that a stranger's plan cannot put code in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from completedp.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def assignments(tables: Mapping[str, object]) -> str:
    """A line `name = value` per table; a name may have an annotation.

    Raises `UserError` as `literal` does.
    """
    return "".join(f"{name} = {literal(value)}\n" for name, value in tables.items())


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
