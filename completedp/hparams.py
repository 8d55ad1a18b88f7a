"""Per-module hyperparameters: global value × module type × depth, for seven kinds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from completedp.errors import FieldError, UserError, nearest
from completedp.modules import BRANCHES, MODULE_TYPES

# The kinds that carry a multiplier per module type and per depth. `residual` has branches for types.
KINDS = ("lr", "weight_decay", "beta1", "beta2", "eps", "init_scale", "residual")
# Kinds that exist only where a tensor is decayed and randomly initialised.
WEIGHT_KINDS = frozenset({"weight_decay", "init_scale"})
WEIGHT_TYPES = frozenset(t for t, role in MODULE_TYPES.items() if not role.endswith("norm"))


@dataclass(frozen=True, kw_only=True)
class GlobalValues:
    """The global value of each kind, at the base scale. `weight_decay` is PyTorch's λ (θ −= ηλθ)."""

    lr: float
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    init_scale: float = 1.0
    residual_attention: float = 1.0
    residual_ffn: float = 1.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not math.isfinite(value):
                raise FieldError(f"{f.name} is {value}; expected a finite number")
            if f.name in ("beta1", "beta2"):
                if not 0 <= value < 1:
                    raise FieldError(f"{f.name} is {value}; expected a number in [0, 1)")
            elif f.name == "weight_decay":
                if value < 0:
                    raise FieldError(f"weight_decay is {value}; expected 0 or more")
            elif value <= 0:
                raise FieldError(f"{f.name} is {value}; expected a number above 0")


def types_of(kind: str) -> tuple[str, ...]:
    """The module types (for `residual`: branches) that have a multiplier of this kind."""
    if kind == "residual":
        return BRANCHES
    return tuple(t for t in MODULE_TYPES if kind not in WEIGHT_KINDS or t in WEIGHT_TYPES)


@dataclass(frozen=True, kw_only=True)
class HParams:
    """Global values, multipliers by kind and module type, multipliers by kind and base layer.

    A type without an entry has multiplier 1; a kind without a depth list is flat. Depth lists have one
    number a layer of the base model, standing at (ℓ + ½) / L of a function on [0, 1].
    """

    global_: GlobalValues
    types: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    depth: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("types", "depth"):
            for kind in getattr(self, part):
                if kind not in KINDS:
                    raise UserError(f"{part}.{kind}: unknown kind{nearest(kind, KINDS)}")
        for kind, by_type in self.types.items():
            for name, value in by_type.items():
                if name not in types_of(kind):
                    raise UserError(
                        f"types.{kind}.{name}: unknown module type{nearest(name, types_of(kind))}"
                    )
                _check_multiplier(f"types.{kind}.{name}", value)
        for kind, by_layer in self.depth.items():
            if not by_layer:
                raise UserError(f"depth.{kind} is empty; expected one number a base layer")
            for i, value in enumerate(by_layer):
                _check_multiplier(f"depth.{kind}[{i}]", value)
        lengths = {kind: len(by_layer) for kind, by_layer in self.depth.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"depth lists differ in length: {lengths}; expected one number a layer")

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
        """The shape `from_dict` reads."""
        return {
            "global": asdict(self.global_),
            "types": {kind: dict(by_type) for kind, by_type in self.types.items()},
            "depth": {kind: list(by_layer) for kind, by_layer in self.depth.items()},
        }

    def type_multiplier(self, kind: str, name: str) -> float:
        """type(m) of this kind."""
        return self.types.get(kind, {}).get(name, 1.0)

    def depth_multiplier(
        self, kind: str, layer: int | None, layers: int, base_layers: int
    ) -> float:
        """depth_kind((ℓ + ½) / L), log-linear between base layers, constant beyond the ends."""
        by_layer = self.depth.get(kind)
        if by_layer is None or layer is None:
            return 1.0
        if len(by_layer) != base_layers:
            raise UserError(
                f"depth.{kind} has {len(by_layer)} numbers; expected {base_layers}, one a base layer"
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
