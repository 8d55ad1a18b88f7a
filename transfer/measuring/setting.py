"""The common part of the measurements `speedup` and `transfer-check`: a setting, its runs, their training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from completedp.errors import UserError
from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.runs.job import Outcome


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


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """One training."""

    seed: int
    plan: Plan

    @property
    @abstractmethod
    def name(self) -> str:
        """The run for people, without its seed."""


def train(
    recipe: Recipe, wanted: Sequence[Run], folder: Path, **how: Any
) -> dict[int, Outcome] | None:
    """The outcomes by the run's place in `wanted`, as `completedp.training.sweeps.train_all` gives them.

    `how` are its keywords.
    """
    from completedp.training.sweeps import Training, train_all

    trainings = [Training(plan=run.plan, seed=run.seed, name=run.name) for run in wanted]
    return train_all(trainings, recipe, folder, **how)


def runs_folder(root: Path, measurement: str, recipe: Recipe | Path | str) -> Path:
    """The folder of a recipe's runs, named after its file's study; after its digest if there is no file."""
    if isinstance(recipe, Recipe):
        return root / measurement / recipe.digest.partition(":")[2][:12]
    return root / measurement / Path(recipe).resolve().parent.name
