"""Hyperparameters at the base scale: global values, and multipliers by module type and by depth.

A value is global value × module type × depth, for each kind of `completedp.kinds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from completedp.errors import FieldError, UserError, nearest
from completedp.kinds import KINDS, default, global_kinds


@dataclass(frozen=True, kw_only=True)
class GlobalValues:
    """The global values at the base scale. `weight_decay` is PyTorch's λ (θ −= ηλθ)."""

    lr: float
    weight_decay: float = default("weight_decay")
    beta1: float = default("beta1")
    beta2: float = default("beta2")
    eps: float = default("eps")
    init_scale: float = default("init_scale")
    residual_attention: float = default("residual")
    residual_ffn: float = default("residual")

    def __post_init__(self) -> None:
        for name, kind in global_kinds().items():
            value = getattr(self, name)
            if not kind.range.is_right(value):
                raise FieldError(f"{name} is {value}; expected {kind.range.expected}")


@dataclass(frozen=True, kw_only=True)
class HParams:
    """Global values, multipliers by kind and module type, and multipliers by kind and base layer.

    A type without an entry has multiplier 1; a kind without a depth list is flat. A depth list has one
    number per layer of the base model: the values of a function on [0, 1] at (ℓ + ½) / L.
    """

    global_: GlobalValues
    types: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    depth: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        typed = [name for name, kind in KINDS.items() if kind.types]
        layered = [name for name, kind in KINDS.items() if kind.has_layers]
        for part, known in (("types", typed), ("depth", layered)):
            for kind in getattr(self, part):
                if kind not in known:
                    raise UserError(f"{part}.{kind}: unknown kind{nearest(kind, known)}")
        for kind, by_type in self.types.items():
            types = KINDS[kind].types
            for name, value in by_type.items():
                if name not in types:
                    raise UserError(
                        f"types.{kind}.{name}: unknown module type{nearest(name, types)}"
                    )
                _check_multiplier(f"types.{kind}.{name}", value)
        for kind, by_layer in self.depth.items():
            if not by_layer:
                raise UserError(f"depth.{kind} is empty; expected one number per base layer")
            for i, value in enumerate(by_layer):
                _check_multiplier(f"depth.{kind}[{i}]", value)
        lengths = {kind: len(by_layer) for kind, by_layer in self.depth.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(
                f"depth lists differ in length: {lengths}; expected one number per layer"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HParams:
        """From `{"global": …, "types": …, "depth": …}`. Raises `UserError` beginning with the path."""
        known = {"global", "types", "depth"}
        for key in data:
            if key not in known:
                raise UserError(f"{key}: unknown key{nearest(key, known)}")
        given = data.get("global")
        if not isinstance(given, Mapping):
            raise UserError(f"global is {given!r}; expected a mapping with at least 'lr'")
        names = {f.name for f in fields(GlobalValues)}
        for key, value in given.items():
            if key not in names:
                raise UserError(f"global.{key}: unknown key{nearest(key, names)}")
            _check_number(f"global.{key}", value)
        if "lr" not in given:
            raise UserError("global.lr is missing; expected a learning rate above 0")
        types = {
            kind: dict(_mapping(f"types.{kind}", by_type))
            for kind, by_type in _mapping("types", data.get("types", {})).items()
        }
        depth = {
            kind: tuple(_sequence(f"depth.{kind}", by_layer))
            for kind, by_layer in _mapping("depth", data.get("depth", {})).items()
        }
        try:
            global_ = GlobalValues(**{k: float(v) for k, v in given.items()})
        except FieldError as error:
            raise UserError(f"global.{error}") from None
        return cls(global_=global_, types=types, depth=depth)

    def to_dict(self) -> dict[str, Any]:
        """The form that `from_dict` reads."""
        return {
            "global": asdict(self.global_),
            "types": {kind: dict(by_type) for kind, by_type in self.types.items()},
            "depth": {kind: list(by_layer) for kind, by_layer in self.depth.items()},
        }

    def type_multiplier(self, kind: str, name: str | None) -> float:
        """type(m) of this kind."""
        return 1.0 if name is None else self.types.get(kind, {}).get(name, 1.0)

    def depth_multiplier(
        self, kind: str, layer: int | None, layers: int, base_layers: int
    ) -> float:
        """depth_kind((ℓ + ½) / L): log-linear between base layers, constant beyond the ends."""
        by_layer = self.depth.get(kind)
        if by_layer is None or layer is None:
            return 1.0
        if len(by_layer) != base_layers:
            raise UserError(
                f"depth.{kind} has {len(by_layer)} numbers; expected {base_layers}, one per base layer"
            )
        if layers == base_layers:
            return by_layer[layer]
        position = (layer + 0.5) / layers * base_layers - 0.5
        low = min(max(math.floor(position), 0), base_layers - 1)
        high = min(low + 1, base_layers - 1)
        part = min(max(position - low, 0.0), 1.0)
        return math.exp((1 - part) * math.log(by_layer[low]) + part * math.log(by_layer[high]))


def _check_number(path: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{path} is {value!r}; expected a number")


def _check_multiplier(path: str, value: object) -> None:
    _check_number(path, value)
    if not (math.isfinite(value) and value > 0):  # type: ignore[arg-type, operator]
        raise UserError(f"{path} is {value}; expected a finite multiplier above 0")


def _mapping(path: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{path} is {value!r}; expected a mapping")
    return value


def _sequence(path: str, value: object) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{path} is {value!r}; expected a list of numbers")
    return value
