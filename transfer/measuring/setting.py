"""The common part of the measurements `speedup` and `transfer-check`: a setting and its folder of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from completedp.errors import UserError
from completedp.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A measurement's seeds and rule options."""

    seeds: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check("seeds", "two or more (one has no interval)", lambda seed: True, fewest=2)

    def check(
        self, name: str, expected: str, allowed: Callable[[Any], bool], fewest: int = 1
    ) -> None:
        """Raises `UserError` unless the values of a field are distinct, allowed, and `fewest` or more."""
        values = getattr(self, name)
        if len(set(values)) < max(fewest, len(values)) or not all(map(allowed, values)):
            said = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values) or "none"
            raise UserError(f"{name} are {said}; expected {expected}, each once")


def runs_folder(root: Path, measurement: str, recipe: Recipe | Path | str) -> Path:
    """The folder of a recipe's runs, named after its file's study; after its digest if there is no file."""
    if isinstance(recipe, Recipe):
        return root / measurement / recipe.digest.partition(":")[2][:12]
    return root / measurement / Path(recipe).resolve().parent.name
