"""Plain torch: tables under the plan's own tensor names, and the functions that every Python file has."""

from __future__ import annotations

from completedp.plan import Plan
from transfer.exports import python_file


def render(plan: Plan) -> str:
    """The file's text. Raises `UserError` for a tensor whose name is not a plain name."""
    return python_file.render(plan, "torch")


def limitations(plan: Plan) -> tuple[str, ...]:
    """None: the file's own functions do everything."""
    return ()
