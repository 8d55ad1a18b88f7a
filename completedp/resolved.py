"""From hyperparameters and ratios to the values of every tensor, and folding them for fixed models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from completedp import reading
from completedp.errors import UserError, shown
from completedp.hparams import HParams
from completedp.modules import BRANCH_ENDS, BRANCHES, Inventory, TensorSpec
from completedp.reading import Field
from completedp.records import build, check_record
from completedp.rules import ScalingRules, rule_options
from completedp.scale import Ratios

# What tensors of float32 hold.
LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127

_NOT_NEGATIVE = Field(lambda x: reading.is_number(x) and x >= 0, "a finite number, 0 or more")
_BETA = Field(lambda x: reading.is_number(x) and 0 <= x < 1, "a number in [0, 1)")
_FLOAT32 = Field(
    lambda x: reading.is_number(x) and abs(x) <= LARGEST_FLOAT32,
    f"a number of at most {LARGEST_FLOAT32:.8g}",
)
_RESOLVED: Mapping[str, Field] = {
    "residual": Field(
        lambda branches: (
            isinstance(branches, dict)
            and all(
                isinstance(c, list) and all(map(reading.is_number, c)) for c in branches.values()
            )
        ),
        "an object with a list of finite numbers for each branch",
    ),
    "output_multiplier": _FLOAT32,
}
# The bounds of `torch.optim.AdamW`, and of a tensor that is filled with a number.
_ROW: Mapping[str, Field] = {
    "lr": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "beta1": _BETA,
    "beta2": _BETA,
    "eps": _NOT_NEGATIVE,
    "init_value": _FLOAT32,
}


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One tensor's values. `init_std` None: starts at exactly `init_value` (gains 1, biases 0)."""

    name: str
    module_type: str
    layer: int | None
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    init_std: float | None
    init_value: float = 0.0

    def folded_by(self, c: float, offset: float = 0.0) -> TensorRow:
        """The same training with a forward multiplier c moved into the tensor (AdamW: W = c·W′).

        `offset` is what the model's code adds to the tensor before use. Raises `UserError` where such a
        tensor is decayed: the decay would pull towards another value.
        """
        if offset and self.weight_decay:
            raise UserError(
                f"{self.name}: the code adds {offset:g} to it and it is decayed, so no multiplier can be "
                'folded into it; use residual="hook", or a weight decay of 0 there'
            )
        return dataclasses.replace(
            self,
            lr=self.lr * c,
            eps=self.eps / c,
            weight_decay=self.weight_decay / c,
            init_std=None if self.init_std is None else self.init_std * c,
            init_value=self.init_value * c + offset * (c - 1),
        )


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Every tensor's values at one scale, the residual coefficients and the multiplier on the logits."""

    tensors: tuple[TensorRow, ...]
    residual: Mapping[str, tuple[float, ...]]
    output_multiplier: float = 1.0

    def folded(self) -> Resolved:
        """The same with each residual coefficient moved into its branch's last linear map."""
        ends = {module_type: branch for branch, module_type in BRANCH_ENDS.items()}

        def fold(row: TensorRow) -> TensorRow:
            branch = ends.get(row.module_type)
            if branch is None or row.layer is None:
                return row
            return row.folded_by(self.residual[branch][row.layer])

        return dataclasses.replace(
            self,
            tensors=tuple(fold(row) for row in self.tensors),
            residual={branch: tuple(1.0 for _ in c) for branch, c in self.residual.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; the form in which a job carries it."""
        return {
            "tensors": [dataclasses.asdict(row) for row in self.tensors],
            "residual": {branch: list(c) for branch, c in self.residual.items()},
            "output_multiplier": self.output_multiplier,
        }

    @classmethod
    def from_dict(cls, data: object, where: str = "resolved") -> Resolved:
        """The inverse of `to_dict`. Raises `UserError` that begins with `where` for what is none: two rows
        of one tensor, and values that no optimiser takes, among it."""
        record = check_record(cls, data, where, _RESOLVED)
        rows: dict[str, TensorRow] = {}
        for i, given in enumerate(record["tensors"]):
            row = build(TensorRow, given, f"{where}.tensors.{i}", _ROW)
            if row.name in rows:
                raise UserError(f"{where}.tensors.{i}: a second row of {shown(row.name)}; keep one")
            rows[row.name] = row
        residual = {branch: tuple(map(float, c)) for branch, c in record["residual"].items()}
        return cls(**{**record, "tensors": tuple(rows.values()), "residual": residual})


def resolve(
    hparams: HParams,
    inventory: Inventory,
    ratios: Ratios,
    *,
    parameterization: str = "completed-p",
    **options: Any,
) -> Resolved:
    """Every tensor's lr, weight_decay, betas, eps and init at the target scale.

    log ζ = log global + log type(m) + log depth((ℓ + ½) / L) + log rule(role). `options` are those of
    `RuleOptions`. Raises `UserError` for a multiplier that drives β below 0, a β rule that leaves
    (0, 1), and everything `RuleOptions` refuses.
    """
    rules = ScalingRules(name=parameterization, ratios=ratios, options=rule_options(options))
    rows = tuple(_row(hparams, spec, inventory, rules) for spec in inventory)
    residual = {
        branch: tuple(
            getattr(hparams.global_, f"residual_{branch}")
            * hparams.type_multiplier("residual", branch)
            * hparams.depth_multiplier("residual", layer, inventory.layers, inventory.base_layers)
            * rules.residual_multiplier
            for layer in range(inventory.layers)
        )
        for branch in BRANCHES
    }
    output = rules.tied_output_multiplier if inventory.tied else rules.output_multiplier
    return Resolved(tensors=rows, residual=residual, output_multiplier=output)


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
    """First the multipliers on 1-β, then the rule."""
    one_minus = (1.0 - base) * multiplier
    if one_minus > 1.0:
        raise UserError(
            f"{tensor}: {kind} {base:g} with multiplier {multiplier:.4g} on 1 - {kind} gives "
            f"{kind} = {1.0 - one_minus:.4g} < 0; the multiplier must be at most {1 / (1 - base):.4g}"
        )
    return rules.beta(1.0 - one_minus, tensor)
