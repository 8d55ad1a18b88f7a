"""The kinds of hyperparameters, as one table; the code that treats kinds differently reads it here.

A kind has one or more global values at the base scale. Multipliers by place (a module type or a residual
branch) and by base layer are relative to them. A kind of scope `tensor` is a value of each tensor. A kind of
another scope is a coefficient of the forward pass: `branch` has one per layer, `model` has a single one.

A new coefficient (a scale of the attention logits, say) touches five files:

1. `completedp/kinds.py`: its row in the table.
2. `completedp/hparams.py`: a field of `GlobalValues` for each of its global values.
3. `completedp/rules.py`: how it scales with the ratios, unless it does not.
4. `completedp/lm/model.py`: the buffer that holds it (named by `buffer_name`) and its use.
5. The test of the model's forward pass.

A new value of each tensor touches the first three, then `completedp/resolved.py` (its value in a row) and
`completedp/optimizer.py` (its place in the optimizer). Search space, recipe, plan, JSON export and audit
follow from the table: `tests/completedp/test_new_kind.py` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from completedp import reading
from completedp.modules import BRANCHES, MODULE_TYPES, WEIGHT_ROLES
from completedp.reading import Field

POSITIVE = Field(lambda x: reading.is_number(x) and x > 0, "a finite number above 0")
NOT_NEGATIVE = Field(lambda x: reading.is_number(x) and x >= 0, "a finite number, 0 or more")
BETA = Field(lambda x: reading.is_number(x) and 0 <= x < 1, "a number in [0, 1)")

_ALL = tuple(MODULE_TYPES)
# Gains and biases start at a constant and are not decayed.
_WEIGHTS = tuple(t for t, role in MODULE_TYPES.items() if role in WEIGHT_ROLES)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of the table.

    `places` are the module types or branches that have the kind. `default` is the global value of a file that
    gives none; a kind with None must be given. `range` holds the admissible global values, and bounds a
    coefficient at any scale. `transform` is the scale on which a multiplier is a shift; with `log of 1-x` the
    multiplier acts on 1-x. `octaves` are the bounds of the search to either side: one for a global value, one
    for a multiplier. With 0 the multipliers stay 1.
    """

    name: str
    scope: Literal["tensor", "branch", "model"] = "tensor"
    places: tuple[str, ...] = ()
    default: float | None
    range: Field = POSITIVE
    transform: Literal["log", "log of 1-x"] = "log"
    octaves: tuple[float, float]

    @property
    def global_names(self) -> tuple[str, ...]:
        """Its fields of `GlobalValues`: one per branch if it has several, otherwise one."""
        if self.scope == "branch" and len(self.places) > 1:
            return tuple(f"{self.name}_{branch}" for branch in self.places)
        return (self.name,)

    def place_of(self, global_name: str) -> str | None:
        """The branch of a coefficient's global value; None if the kind has no branch."""
        return self.places[self.global_names.index(global_name)] if self.places else None

    @property
    def types(self) -> tuple[str, ...]:
        """The places that have a multiplier. A coefficient with one place has none: it would do the same as
        the global value."""
        return self.places if self.scope == "tensor" or len(self.places) > 1 else ()

    @property
    def has_layers(self) -> bool:
        """Whether there is a multiplier per base layer."""
        return self.scope != "model"

    @property
    def label(self) -> str:
        """The quantity that multipliers act on."""
        return self.name if self.transform == "log" else f"1 - {self.name}"

    def shown(self, value: float) -> float:
        """The number that `label` names: 1 - x has digits where x near 1 has none."""
        return value if self.transform == "log" else 1 - value

    def times(self, value: float, multiplier: float) -> float:
        """A global value with the multiplier applied."""
        return value * multiplier if self.transform == "log" else 1.0 - (1.0 - value) * multiplier


# Learning rates and ε live on wide log scales. In the prototype, 1-β beyond 8 x and init beyond 16 x were
# never useful, but the lr and init of q did reach 1/16. Multipliers of β₂ and ε told nothing about trials of
# eleven searches, and each coordinate blurs the others (docs/log.md, 2026-11-28); 4 and 6 octaves would do.
# fmt: off
_TABLE = (
    Kind(name="lr", places=_ALL, default=None, octaves=(4, 5)),
    Kind(name="weight_decay", places=_WEIGHTS, default=0.1, range=NOT_NEGATIVE, octaves=(4, 5)),
    Kind(name="beta1", places=_ALL, default=0.9, range=BETA, transform="log of 1-x", octaves=(2, 3)),
    Kind(name="beta2", places=_ALL, default=0.95, range=BETA, transform="log of 1-x", octaves=(3, 0)),
    Kind(name="eps", places=_ALL, default=1e-8, octaves=(6, 0)),
    Kind(name="init_scale", places=_WEIGHTS, default=1.0, octaves=(2, 5)),
    Kind(name="residual", scope="branch", places=BRANCHES, default=1.0, octaves=(2, 3)),
)
# fmt: on
KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}


def default(name: str) -> float:
    """The global value of a kind that need not be given."""
    value = KINDS[name].default
    assert value is not None, f"{name} must be given"
    return value


def global_kinds() -> dict[str, Kind]:
    """The kind of each global value, by its name and in the order of files."""
    return {name: kind for kind in KINDS.values() for name in kind.global_names}


def coefficient_kinds() -> dict[str, Kind]:
    """As `global_kinds`, for the coefficients of the forward pass only."""
    return {name: kind for name, kind in global_kinds().items() if kind.scope != "tensor"}


def buffer_name(coefficient: str) -> str:
    """The buffer of the reference model that holds a coefficient; `_L` says one number per layer."""
    return f"{coefficient}_L" if global_kinds()[coefficient].has_layers else coefficient
