"""From hyperparameters and ratios to the values of every tensor and the coefficients of the forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from completedp import reading
from completedp.errors import UserError, shown
from completedp.hparams import HParams
from completedp.kinds import KINDS, coefficient_kinds
from completedp.modules import BRANCH_ENDS, BRANCHES, Inventory, TensorSpec
from completedp.optimizer import BOUNDS, FLOAT32, TensorRow
from completedp.reading import Field
from completedp.records import build, check_record
from completedp.rules import ScalingRules, rule_options
from completedp.scale import Ratios

_LISTS = Field(
    lambda lists: (
        isinstance(lists, dict)
        and all(isinstance(c, list) and all(map(reading.is_number, c)) for c in lists.values())
    ),
    "an object of lists of finite numbers",
)
_RESOLVED: Mapping[str, Field] = {
    "residual": _LISTS,
    "coefficients": _LISTS,
    "output_multiplier": FLOAT32,
}


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Every tensor's values at one scale, and the multipliers of the forward pass.

    `residual` has one coefficient per layer for each branch, `output_multiplier` is that of the logits.
    `coefficients` has those of every other kind by the name of the global value: one number per layer, or a
    single one. A coefficient that has its default everywhere is left out.
    """

    tensors: tuple[TensorRow, ...]
    residual: Mapping[str, tuple[float, ...]]
    output_multiplier: float = 1.0
    coefficients: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def all_coefficients(self) -> dict[str, tuple[float, ...]]:
        """The residual coefficients and the others, by the names of their global values."""
        residual = {f"residual_{branch}": tuple(c) for branch, c in self.residual.items()}
        return {**residual, **self.coefficients}

    def check_coefficients(self, layers: int) -> None:
        """Raises `UserError` for coefficients of another model, and for one that is out of range."""
        if set(self.residual) != set(BRANCHES):
            raise UserError(
                f"residual has {shown(sorted(self.residual))}; expected {sorted(BRANCHES)}"
            )
        others = {n: k for n, k in coefficient_kinds().items() if k.name != "residual"}
        for name in self.coefficients.keys() - others.keys():
            known = (
                f"one of {', '.join(sorted(others))}"
                if others
                else "none: this version has no such kind"
            )
            raise UserError(f"coefficients.{name}: unknown name; expected {known}")
        given = {f"residual.{b}": (KINDS["residual"], c) for b, c in self.residual.items()}
        given |= {f"coefficients.{n}": (others[n], c) for n, c in self.coefficients.items()}
        for path, (kind, values) in given.items():
            expected, each = (layers, ", one per layer") if kind.has_layers else (1, "")
            if len(values) != expected:
                raise UserError(f"{path} has {len(values)} numbers; expected {expected}{each}")
            for i, c in enumerate(values):
                if not kind.range.is_right(c):
                    raise UserError(f"{path}.{i} is {c}; expected {kind.range.expected}")

    def folded(self) -> Resolved:
        """The same with each residual coefficient moved into its branch's last linear map."""
        ends = {module_type: branch for branch, module_type in BRANCH_ENDS.items()}

        def fold(row: TensorRow) -> TensorRow:
            branch = ends.get(row.module_type)
            if branch is None or row.layer is None:
                return row
            return row.folded_by(self.residual[branch][row.layer])

        return dataclasses.replace(
            self, tensors=tuple(fold(row) for row in self.tensors), residual=self.unit_residual
        )

    @property
    def unit_residual(self) -> dict[str, tuple[float, ...]]:
        """The residual coefficients of a model in whose tensors they are folded: 1."""
        return {branch: (1.0,) * len(c) for branch, c in self.residual.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: the form in which a job carries it."""
        lists = {name: list(c) for name, c in self.coefficients.items()}
        return {
            "tensors": [dataclasses.asdict(row) for row in self.tensors],
            "residual": {branch: list(c) for branch, c in self.residual.items()},
            "output_multiplier": self.output_multiplier,
            **({"coefficients": lists} if lists else {}),
        }

    @classmethod
    def from_dict(cls, data: object, where: str = "resolved") -> Resolved:
        """The inverse of `to_dict`. Raises `UserError` that begins with `where` for anything else, for two
        rows of one tensor, and for values that the optimizer refuses."""
        record = check_record(cls, data, where, _RESOLVED)
        rows: dict[str, TensorRow] = {}
        for i, given in enumerate(record["tensors"]):
            row = build(TensorRow, given, f"{where}.tensors.{i}", BOUNDS)
            if row.name in rows:
                raise UserError(f"{where}.tensors.{i}: a second row of {shown(row.name)}; keep one")
            rows[row.name] = row
        lists = {
            part: {name: tuple(map(float, c)) for name, c in record.get(part, {}).items()}
            for part in ("residual", "coefficients")
        }
        return cls(**{**record, "tensors": tuple(rows.values()), **lists})


def resolve(
    hparams: HParams,
    inventory: Inventory,
    ratios: Ratios,
    *,
    parameterization: str = "completed-p",
    **options: Any,
) -> Resolved:
    """Every tensor's lr, weight_decay, betas, eps and init, and every coefficient, at the target scale.

    log ζ = log global + log type(m) + log depth((ℓ + ½) / L) + log rule(role). `options` are those of
    `RuleOptions`. Raises `UserError` for a multiplier that drives β below 0, a β rule that leaves
    (0, 1), and everything `RuleOptions` refuses.
    """
    rules = ScalingRules(name=parameterization, ratios=ratios, options=rule_options(options))
    rows = tuple(_row(hparams, spec, inventory, rules) for spec in inventory)
    found = _coefficients(hparams, inventory, rules)
    residual = {branch: found.pop(f"residual_{branch}") for branch in BRANCHES}
    kinds = coefficient_kinds()
    return Resolved(
        tensors=rows,
        residual=residual,
        output_multiplier=rules.output_multiplier(inventory.tied),
        coefficients={
            name: values for name, values in found.items() if {*values} != {kinds[name].default}
        },
    )


def _coefficients(
    hparams: HParams, inventory: Inventory, rules: ScalingRules
) -> dict[str, tuple[float, ...]]:
    """The coefficients of every kind by the name of their global value."""
    return {
        name: tuple(
            getattr(hparams.global_, name)
            * hparams.type_multiplier(kind.name, kind.place_of(name))
            * hparams.depth_multiplier(kind.name, layer, inventory.layers, inventory.base_layers)
            * rules.coefficient(kind.name)
            for layer in (range(inventory.layers) if kind.has_layers else (None,))
        )
        for name, kind in coefficient_kinds().items()
    }


def _row(
    hparams: HParams, spec: TensorSpec, inventory: Inventory, rules: ScalingRules
) -> TensorRow:
    def multiplier(kind: str) -> float:
        return hparams.type_multiplier(kind, spec.module_type) * hparams.depth_multiplier(
            kind, spec.layer, inventory.layers, inventory.base_layers
        )

    base = hparams.global_
    factor = rules.factors(spec.role, spec.fan_ratio)
    base_lr = base.lr * multiplier("lr")
    base_decay = base.weight_decay * multiplier("weight_decay") if spec.is_weight else 0.0
    lr = base_lr * factor["lr"]
    if rules.options.decay == "coupled":
        weight_decay = base_decay * factor["weight_decay"]
    else:
        weight_decay = base_lr * base_decay * factor["weight_decay"] / lr
    init_std = spec.base_init_std
    if init_std is not None:
        init_std *= base.init_scale * multiplier("init_scale") * factor["init_std"]
    return TensorRow(
        name=spec.name,
        module_type=spec.module_type,
        layer=spec.layer,
        lr=lr,
        weight_decay=weight_decay,
        beta1=_beta(spec.name, "beta1", base.beta1, multiplier("beta1"), rules),
        beta2=_beta(spec.name, "beta2", base.beta2, multiplier("beta2"), rules),
        eps=base.eps * multiplier("eps") * factor["eps"],
        init_std=init_std,
        init_value=spec.init_value,
    )


def _beta(tensor: str, kind: str, base: float, multiplier: float, rules: ScalingRules) -> float:
    """The multiplier on 1-β is applied first, then the rule."""
    one_minus = (1.0 - base) * multiplier
    if one_minus > 1.0:
        raise UserError(
            f"{tensor}: {kind} {base:g} with multiplier {multiplier:.4g} on 1 - {kind} gives "
            f"{kind} = {1.0 - one_minus:.4g} < 0; the multiplier must be at most {1 / (1 - base):.4g}"
        )
    return rules.beta(1.0 - one_minus, tensor)
