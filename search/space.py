"""The search space: one coordinate per number that the search may move.

A coordinate is the log2 of a multiplier of the preset's value (for β, of 1-β). Its meaning stays the same for
the whole study. `global.<name>` moves a global value; `type.<kind>.<module type>` and `depth.<kind>.<layer>`
move the multipliers. The kinds and their bounds come from `completedp.kinds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.hparams import GlobalValues, HParams
from completedp.kinds import KINDS, global_kinds
from completedp.models import own_inventory

Part = Literal["global", "type", "depth"]
Values = Mapping[str, float]

# A larger 1-β leaves β so near 0 that the average is of a single gradient.
LARGEST_ONE_MINUS_BETA = 0.99
# People read the journal's values. A millionth of an octave is far below any effect on a run.
DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One axis: `key` is the name of a global value, a module type (or branch), or the number of a layer."""

    part: Part
    kind: str
    key: str
    octaves: float

    @property
    def name(self) -> str:
        if self.part == "global":
            return f"global.{self.key}"
        return f"{self.part}.{self.kind}.{self.key}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """All coordinates of a study and their meaning, in octaves.

    A coordinate without a value is at 0 (multiplier 1). `stacked_types` are the module types in the stack of
    layers: only these take depth multipliers.
    """

    base: GlobalValues
    layers: int
    coordinates: tuple[Coordinate, ...]
    stacked_types: frozenset[str]

    @classmethod
    def from_config(cls, config: StudyConfig) -> Space:
        """The space of the study's model without the frozen kinds. Raises `UserError` if that is empty."""
        inventory = own_inventory(config.model)
        present = inventory.module_types
        search = config.search
        coordinates: list[Coordinate] = []

        def add(part: Part, kind: str, key: str) -> None:
            if octaves := search.octaves("global" if part == "global" else "module", kind):
                coordinates.append(Coordinate(part=part, kind=kind, key=key, octaves=octaves))

        for name, kind in global_kinds().items():
            # No multiplier moves a value of 0, as a weight decay may be.
            movable = kind.shown(getattr(config.values, name)) != 0
            if kind.name not in search.frozen and movable:
                add("global", kind.name, name)
        for kind in KINDS.values():
            if not any(c.kind == kind.name for c in coordinates):
                continue
            for place in kind.types:
                if place in present or kind.scope == "branch":
                    add("type", kind.name, place)
            for layer in range(config.model.depth if kind.has_layers else 0):
                add("depth", kind.name, str(layer))
        if not coordinates:
            raise UserError("search.frozen leaves nothing to search; free at least one kind")
        return cls(
            base=config.values,
            layers=config.model.depth,
            coordinates=tuple(coordinates),
            stacked_types=frozenset(t.module_type for t in inventory if t.layer is not None),
        )

    def part(self, *parts: Part) -> tuple[Coordinate, ...]:
        """The coordinates of the given parts, in order."""
        return tuple(c for c in self.coordinates if c.part in parts)

    def check(self, values: Values, where: str) -> None:
        """Raises `UserError` if a journal's values name a coordinate that this space does not have."""
        known = {c.name for c in self.coordinates}
        for name, octaves in values.items():
            if isinstance(octaves, bool) or not isinstance(octaves, int | float):
                raise UserError(f"{where}: {name} is {octaves!r}; expected octaves, a number")
            if name not in known:
                raise UserError(
                    f"{where}: the coordinate {name!r} is not in this study's space; the journal "
                    "belongs to another space or version"
                )

    def project(self, values: Values) -> dict[str, float]:
        """The nearest point inside the box with each 1-β at most `LARGEST_ONE_MINUS_BETA`.

        The octaves are rounded for the journal.
        """
        inside = {
            c.name: min(max(round(values[c.name], DECIMALS), -limit), limit)
            for c in self.coordinates
            if c.name in values and (limit := _floor(c.octaves)) > 0
        }
        for kind in KINDS.values():
            if kind.transform == "log of 1-x":
                self._project_beta(kind.name, inside)
        return inside

    def _project_beta(self, kind: str, inside: dict[str, float]) -> None:
        """Lower the global value, the depths and the types of one β, in this order."""
        room = _floor(math.log2(LARGEST_ONE_MINUS_BETA / (1 - getattr(self.base, kind))))
        name = f"global.{kind}"
        if name in inside:
            inside[name] = min(inside[name], room)
        room -= inside.get(name, 0.0)
        depths = [c.name for c in self.part("depth") if c.kind == kind]
        types = [c for c in self.part("type") if c.kind == kind]
        # A type's coordinate ends at -octaves. If a depth takes more than that, no type can make up for it.
        give = min((c.octaves for c in types), default=0.0)
        for depth in depths:
            if depth in inside:
                inside[depth] = min(inside[depth], _floor(room + give))
        highest_depth = max((inside.get(d, 0.0) for d in depths), default=0.0)
        for c in types:
            limit = _floor(room - (highest_depth if c.key in self.stacked_types else 0.0))
            if inside.get(c.name, 0.0) > limit:
                inside[c.name] = limit

    def to_hparams(self, values: Values) -> HParams:
        """The hyperparameters of a point."""
        kinds = global_kinds()
        base: dict[str, float] = {}
        types: dict[str, dict[str, float]] = {}
        depth: dict[str, list[float]] = {}
        for c in self.coordinates:
            octaves = values.get(c.name)
            if octaves is None:
                continue
            multiplier = math.exp2(octaves)
            if c.part == "global":
                base[c.key] = kinds[c.key].times(getattr(self.base, c.key), multiplier)
            elif c.part == "type":
                types.setdefault(c.kind, {})[c.key] = multiplier
            else:
                depth.setdefault(c.kind, [1.0] * self.layers)[int(c.key)] = multiplier
        return HParams(global_=replace(self.base, **base), types=types, depth=depth)


def _floor(octaves: float) -> float:
    """Round down to the journal's decimals, so that no rounding passes a limit."""
    grains = 10.0**DECIMALS
    return math.floor(octaves * grains) / grains
