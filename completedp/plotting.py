"""Matplotlib, which draws the figures and nothing else. Without it only figures are missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from completedp import files
from completedp.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "Matplotlib is not installed (pip install matplotlib)"


def available() -> bool:
    """Whether Matplotlib is installed. It is imported here, so call this before threads begin."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def check(figure: Path | None) -> None:
    """Raises `UserError` if a figure is asked for and cannot be drawn or written."""
    if figure is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"--figure {figure}: {MISSING}; install it, or leave the option out")
    files.check_place(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches. It belongs to no window, and nothing has to close it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def colormap(name: str) -> Any:
    """A color map of Matplotlib's by its name."""
    import matplotlib

    return matplotlib.colormaps[name]
