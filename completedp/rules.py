"""The scaling rules, as one table of exponents.

Every factor is a monomial in the ratios target / base.
[T] = printed in a table, [D] = derived, [C] = our choice.

.. [CompletedP]  Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and Duration,
                 arXiv 2512.22382, Table 1.
.. [CompleteP]   Don't be lazy: CompleteP enables compute-efficient deep transformers,
                 arXiv 2505.01618, Table 1.
.. [Malladi2022] On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, arXiv 2205.10287.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from completedp.errors import UserError, named
from completedp.scale import Ratios


@dataclass(frozen=True, kw_only=True)
class Monomial:
    """fan^`fan` · m_N^`width` · m_L^(`depth` + `depth_alpha`·α) · q^`q`.

    `fan` is the tensor's own fan-in ratio; it is m_N unless a rounding made it differ. q = m_B / m_D^(2p).
    """

    fan: float = 0.0
    width: float = 0.0
    depth: float = 0.0
    depth_alpha: float = 0.0
    q: float = 0.0

    def __mul__(self, other: Monomial) -> Monomial:
        fields = (f.name for f in dataclasses.fields(self))
        return Monomial(**{name: getattr(self, name) + getattr(other, name) for name in fields})


ONE = Monomial()


@dataclass(frozen=True, kw_only=True)
class RoleRule:
    """The factors of one role. `decay` is AdamW's coupled λ, `independent` Loshchilov–Hutter's s_t·λ."""

    variance: Monomial = ONE
    lr: Monomial = ONE
    eps: Monomial = ONE
    decay: Monomial = ONE
    independent: Monomial = ONE


@dataclass(frozen=True, kw_only=True)
class Parameterization:
    """A row per role and the multipliers of the forward pass.

    `axes` are the ratios it reacts to; the others count as 1 (but S = m_D / m_B always gives the steps).
    `options` are the rule options it accepts beside `decay` and, if depth is an axis, α. `coefficients` has
    the factor of each kind of coefficient that scales. `output` multiplies the logits; `tied_output` does so
    if the unembedding is the embedding, which takes the embedding's row. `standard`: factors in a model's
    code that grow with its width stay there.
    """

    rows: Mapping[str, RoleRule]
    source: str
    axes: frozenset[str] = frozenset()
    coefficients: Mapping[str, Monomial] = field(default_factory=dict)
    output: Monomial = ONE
    tied_output: Monomial = ONE
    standard: bool = False
    options: frozenset[str] = frozenset()


_ROOT_Q = Monomial(q=0.5)
_ROOT_Q_INVERSE = Monomial(q=-0.5)
# A hidden gradient carries m_L^-α. With an lr of m_L^(α-1) their product is that of α = 1.
_HIDDEN_LR = Monomial(depth=-1, depth_alpha=1, q=0.5)
_HIDDEN_EPS = Monomial(width=-1, depth_alpha=-1, q=-0.5)
_HIDDEN_INDEPENDENT = Monomial(depth=-1, depth_alpha=1, q=1)
_HIDDEN_VECTOR = RoleRule(
    lr=_HIDDEN_LR, eps=_HIDDEN_EPS, decay=_ROOT_Q, independent=_HIDDEN_INDEPENDENT
)
_EMBEDDING = RoleRule(
    lr=_ROOT_Q, eps=Monomial(width=-1, q=-0.5), decay=_ROOT_Q, independent=Monomial(q=1)
)
_OUTPUT_VECTOR = RoleRule(lr=_ROOT_Q, eps=_ROOT_Q_INVERSE, decay=_ROOT_Q, independent=Monomial(q=1))

# [CompletedP], Table 1.
COMPLETED_P: Mapping[str, RoleRule] = {
    "embedding": _EMBEDDING,
    "position_embedding": _EMBEDDING,  # [D]
    "hidden_weight": RoleRule(
        variance=Monomial(fan=-1),
        lr=Monomial(fan=-1) * _HIDDEN_LR,
        eps=_HIDDEN_EPS,
        decay=Monomial(fan=1, q=0.5),
        independent=_HIDDEN_INDEPENDENT,
    ),
    "hidden_bias": _HIDDEN_VECTOR,
    "hidden_norm": _HIDDEN_VECTOR,
    # The heads share this gain. Its gradient sums over m_N times as many heads, so the width cancels.
    "qk_norm": dataclasses.replace(_HIDDEN_VECTOR, eps=Monomial(depth_alpha=-1, q=-0.5)),  # lr [D]
    "final_norm": _OUTPUT_VECTOR,
    "unembedding": RoleRule(
        variance=Monomial(fan=-2),
        lr=Monomial(fan=-1, q=0.5),
        eps=_ROOT_Q_INVERSE,
        decay=Monomial(fan=1, q=0.5),
        independent=Monomial(q=1),
    ),
    "unembedding_bias": _OUTPUT_VECTOR,  # variance, lr [D]
}
ROLES: tuple[str, ...] = tuple(COMPLETED_P)

# The measured gradient of the final norm falls as m_N^-1, because it passes through the unembedding [D].
_FINAL_NORM_EPS = Monomial(width=-1, q=-0.5)


def _coupled_product(rows: Mapping[str, RoleRule]) -> dict[str, RoleRule]:
    """Independent decay for a table that prints none: the product of the lr and λ factors [D]."""
    return {role: dataclasses.replace(r, independent=r.lr * r.decay) for role, r in rows.items()}


_PLAIN = {role: RoleRule() for role in ROLES}
_PER_WIDTH = Monomial(width=-1)

PARAMETERIZATIONS: Mapping[str, Parameterization] = {
    "sp": Parameterization(rows=_PLAIN, source="CompleteP Table 1, SP column", standard=True),
    # Unlike in `sp`, the variance follows 1 / fan_in, as in common practice.
    "sp-fan-in": Parameterization(
        rows={**_PLAIN, "hidden_weight": RoleRule(variance=Monomial(fan=-1))},
        source="SP with hidden variance 1 / fan_in [C]",
        axes=frozenset({"width"}),
        standard=True,
    ),
    # QK-norm ε 1: the table prints NA [C].
    "mup": Parameterization(
        rows=_coupled_product(COMPLETED_P),
        source="Complete(d)P Table 1 at m_L = m_B = m_D = 1",
        axes=frozenset({"width"}),
        tied_output=_PER_WIDTH,
    ),
    "completep": Parameterization(
        rows=_coupled_product(
            {
                **COMPLETED_P,
                "embedding": dataclasses.replace(_EMBEDDING, eps=ONE),
                "position_embedding": dataclasses.replace(_EMBEDDING, eps=ONE),
                "unembedding": RoleRule(),
            }
        ),
        source="CompleteP Table 1",
        axes=frozenset({"width", "depth"}),
        coefficients={"residual": Monomial(depth_alpha=-1)},
        output=_PER_WIDTH,
        tied_output=_PER_WIDTH,
    ),
    "completed-p": Parameterization(
        rows=COMPLETED_P,
        source="Complete(d)P Table 1",
        axes=frozenset({"width", "depth", "batch", "tokens"}),
        coefficients={"residual": Monomial(depth_alpha=-1)},
        tied_output=_PER_WIDTH,
        options=frozenset({"duration_exponent", "beta_rule", "final_norm_eps"}),
    ),
}


@dataclass(frozen=True, kw_only=True)
class RuleOptions:
    """The settings of a parameterization beside the ratios. The defaults are those of the published table.

    `alpha` in [½, 1]: residual exponent [CompleteP]. `duration_exponent` p: lr ∝ m_D^-p at a fixed batch
    (published ½; others fitted 0.22 to 0.7: arXiv 2409.19913, 2603.28743, 2602.21472).
    `beta_rule`: `linear` 1-β' = q(1-β) or `power` β' = β^q. `final_norm_eps`: `table` or `gradient`.
    `decay`: `coupled` (PyTorch's AdamW) or `independent` (Loshchilov–Hutter).
    """

    alpha: float = 1.0
    duration_exponent: float = 0.5
    beta_rule: str = "linear"
    final_norm_eps: str = "table"
    decay: str = "coupled"

    _CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "beta_rule": ("linear", "power"),
        "final_norm_eps": ("table", "gradient"),
        "decay": ("coupled", "independent"),
    }

    def __post_init__(self) -> None:
        for name, choices in self._CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        if not 0.5 <= self.alpha <= 1:
            raise UserError(f"alpha is {self.alpha}; expected a number in [0.5, 1]")
        if not (math.isfinite(self.duration_exponent) and self.duration_exponent >= 0):
            raise UserError(
                f"duration_exponent is {self.duration_exponent}; expected a finite number, 0 or more"
            )

    def check_for(self, name: str) -> Parameterization:
        """The parameterization `name`. Raises `UserError` for an option that has no meaning there."""
        chosen = named(PARAMETERIZATIONS, name, "parameterization")
        for option in ("duration_exponent", "beta_rule", "final_norm_eps"):
            default = getattr(RuleOptions, option)
            if option not in chosen.options and getattr(self, option) != default:
                raise UserError(
                    f"{option}={getattr(self, option)} has no meaning under {name!r}; "
                    f"leave it at {default}, or use 'completed-p'"
                )
        return chosen


@dataclass(frozen=True, kw_only=True)
class ScalingRules:
    """A parameterization at given ratios."""

    name: str
    ratios: Ratios
    options: RuleOptions

    def __post_init__(self) -> None:
        self.options.check_for(self.name)
        if not 0 < self.q < math.inf:
            raise UserError(
                f"q = batch / tokens^(2 x duration_exponent) is {self.q:g} at {self._said}; expected "
                "a finite number above 0: bring the batch and tokens ratios nearer to 1"
            )

    @property
    def parameterization(self) -> Parameterization:
        return PARAMETERIZATIONS[self.name]

    @property
    def _active(self) -> Ratios:
        return Ratios(**{a: getattr(self.ratios, a) for a in self.parameterization.axes})

    @property
    def q(self) -> float:
        """q = m_B / m_D^(2p), the factor of 1-β (linear) or the exponent of β (power)."""
        active = self._active
        try:
            return active.batch / math.pow(active.tokens, 2 * self.options.duration_exponent)
        except OverflowError:
            return 0.0
        except ZeroDivisionError:
            return math.inf

    @property
    def _said(self) -> str:
        """The ratios and options that a factor depends on, as text for a message."""
        ratios = [f"{axis} ratio {value:g}" for axis, value in vars(self._active).items()]
        options = [f"{n} {getattr(self.options, n):g}" for n in ("alpha", "duration_exponent")]
        return ", ".join(ratios + options)

    def value(self, power: Monomial, fan: float | None = None) -> float:
        """The value of a table entry; `fan` defaults to m_N."""
        active = self._active
        if fan is None or "width" not in self.parameterization.axes:
            fan = active.width
        try:
            value = (
                math.pow(fan, power.fan)
                * math.pow(active.width, power.width)
                * math.pow(active.depth, power.depth + power.depth_alpha * self.options.alpha)
                * math.pow(self.q, power.q)
            )
        except OverflowError:
            value = math.inf
        if not 0 < value < math.inf:
            raise UserError(
                f"a factor of {self.name} is {value:g} at {self._said}; expected a finite number above "
                "0: bring the ratios nearer to 1"
            )
        return value

    def row(self, role: str) -> RoleRule:
        """The row of a role with the options applied."""
        row = named(self.parameterization.rows, role, "role")
        if role == "final_norm" and self.options.final_norm_eps == "gradient":
            row = dataclasses.replace(row, eps=_FINAL_NORM_EPS)
        return row

    def factors(self, role: str, fan: float | None = None) -> dict[str, float]:
        """lr, weight_decay, eps, init_std (√ of `variance`) and one_minus_beta, relative to the base."""
        row = self.row(role)
        decay = row.decay if self.options.decay == "coupled" else row.independent
        return {
            "lr": self.value(row.lr, fan),
            "weight_decay": self.value(decay, fan),
            "eps": self.value(row.eps, fan),
            "init_std": math.sqrt(self.value(row.variance, fan)),
            "one_minus_beta": self.q,
        }

    def coefficient(self, kind: str) -> float:
        """The factor of a kind of coefficient (`residual`: m_L^-α if depth is an axis)."""
        return self.value(self.parameterization.coefficients.get(kind, ONE))

    def output_multiplier(self, tied: bool = False) -> float:
        """The multiplier on the logits, also for a model whose unembedding is `tied` to its embedding."""
        chosen = self.parameterization
        return self.value(chosen.tied_output if tied else chosen.output)

    def beta(self, base: float, tensor: str) -> float:
        """β at the target. Raises `UserError` naming `tensor` if β would leave [0, 1), or
        fall to 0 under `linear`."""
        rule = self.options.beta_rule
        scaled = self.q * (1.0 - base)
        beta = math.pow(base, self.q) if rule == "power" else 1.0 - scaled
        if beta >= 1.0:
            raise UserError(
                f"{tensor}: beta {base:g} under beta_rule {rule!r} rounds to 1 (q = {self.q:.4g}), an "
                "average that never moves: give a larger batch or fewer tokens"
            )
        if rule == "linear" and scaled >= 1.0 and self.q != 1.0:
            raise UserError(
                f"{tensor}: beta {base:g} under beta_rule 'linear' gives 1 - beta = {scaled:.4g} "
                f"(q = {self.q:.4g}); it must stay below 1: use beta_rule 'power', valid for every ratio"
            )
        return beta


def factors(
    parameterization: str,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    batch: float = 1.0,
    tokens: float = 1.0,
    **options: Any,
) -> dict[str, Any]:
    """The factors of every role, relative to the base, at the ratios target / base.

    `options` are those of `RuleOptions`. Returns `{"tensors": {role: {"lr", "weight_decay", "eps",
    "init_std", "one_minus_beta"}}, "residual_multiplier", "output_multiplier", "steps"}`.
    Raises `UserError` for an unknown name, for an option without meaning there, and for a ratio that is not
    a finite number above 0.
    """
    ratios = Ratios(width=width, depth=depth, batch=batch, tokens=tokens)
    rules = ScalingRules(name=parameterization, ratios=ratios, options=rule_options(options))
    return {
        "tensors": {role: rules.factors(role) for role in ROLES},
        "residual_multiplier": rules.coefficient("residual"),
        "output_multiplier": rules.output_multiplier(),
        "steps": ratios.steps,
    }


def rule_options(options: Mapping[str, Any]) -> RuleOptions:
    """`RuleOptions` from keywords. Raises `UserError` for an unknown one."""
    known = {f.name: f for f in dataclasses.fields(RuleOptions)}
    for name in options:
        named(known, name, "rule option")
    return RuleOptions(**options)


def carrying_options(parameterization: str) -> dict[str, Any]:
    """The defaults of the rule options when a recipe is carried: the β rule that is valid for every ratio."""
    known = PARAMETERIZATIONS.get(parameterization)
    return {"beta_rule": "power"} if known and "beta_rule" in known.options else {}
