"""The plan: a recipe at one target scale, with every tensor's values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from completedp import files
from completedp.config import (
    SCHEMA,
    DataConfig,
    ExternalModel,
    Model,
    ModelConfig,
    TrainConfig,
    check_together,
)
from completedp.errors import UserError
from completedp.flops import parameter_count, training_flops
from completedp.models import grown_inventory
from completedp.modules import BRANCHES, FUSED, TensorSpec
from completedp.resolved import LARGEST_FLOAT32, Resolved, TensorRow
from completedp.rules import PARAMETERIZATIONS, RuleOptions
from completedp.scale import Ratios, Scale

# A smaller ε loses its digits in float32, then all; a larger lr than any is inf there.
_FLOAT32_SMALLEST = 2.0**-126


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a trainer needs. `parameters` counts every trainable number, `flops` a whole training;
    `which` of the recipe's values it has. `corpus` is the digest of the text that the recipe was tuned on,
    where it is known.

    A fused tensor of another's model whose parts have values of their own has a row a part, as `name[part]`.
    """

    parameterization: str
    options: RuleOptions
    scale: Scale
    ratios: Ratios
    parameters: int
    flops: int
    recipe_digest: str
    model: Model
    data: DataConfig
    train: TrainConfig
    tensors: tuple[TensorRow, ...]
    residual: Mapping[str, tuple[float, ...]]
    output_multiplier: float = 1.0
    which: Literal["tuned", "baseline"] = "tuned"
    corpus: str | None = None
    kind: Literal["plan"] = "plan"
    schema: Literal[1] = SCHEMA

    @property
    def resolved(self) -> Resolved:
        """The values as the training loop takes them."""
        return Resolved(
            tensors=self.tensors, residual=self.residual, output_multiplier=self.output_multiplier
        )

    @property
    def reference(self) -> ModelConfig:
        """The reference model's shape. Raises `UserError` for a plan of another model."""
        self.check_reference()
        assert isinstance(self.model, ModelConfig), "the other kind is refused"
        return self.model

    def check_reference(self) -> None:
        """Raises `UserError` for a plan of another model."""
        if isinstance(self.model, ExternalModel):
            raise UserError(
                f"the plan is of {self.model.source}, and this form is of the reference architecture: use "
                "json, or completedp.parametrize(model, recipe, batch=…, tokens=…) in your own code"
            )

    @property
    def base(self) -> Model:
        """The model that this one was grown from: the recipe's, in size."""
        return self.model.scaled(
            width=round(self.scale.width / self.ratios.width),
            depth=round(self.scale.depth / self.ratios.depth),
        )

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        data = dataclasses.asdict(self)
        data["tensors"] = [dict(row) for row in data["tensors"]]
        data["residual"] = {branch: list(c) for branch, c in self.residual.items()}
        if self.corpus is None:
            del data["corpus"]
        first = ("schema", "kind", "parameterization", "options", "scale", "ratios")
        return {name: data[name] for name in (*first, *(k for k in data if k not in first))}

    def write(self, path: Path) -> None:
        """Replace `path` atomically."""
        files.write_yaml(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Raises `UserError` naming the file and the offending path."""
        return cls.from_dict(files.read_yaml(path), where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan") -> Plan:
        """From the file's content; refuses values no trainer could use, by the tensor's name."""
        plan = files.validate(cls, dict(data), where)
        try:
            plan.check()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return plan

    def check(self) -> None:
        """Raises `UserError` for what no trainer could use, by its path: what is written can be read."""
        _check_rules(self)
        _check(self)


def _check_rules(plan: Plan) -> None:
    if plan.parameterization not in PARAMETERIZATIONS:
        raise UserError(
            f"parameterization is {plan.parameterization!r}; expected one of "
            f"{', '.join(PARAMETERIZATIONS)}"
        )
    try:
        plan.options.check_for(plan.parameterization)
    except UserError as error:
        raise UserError(f"options: {error}") from None


def _check(plan: Plan) -> None:
    train, model, scale = plan.train, plan.model, plan.scale
    said = Scale(width=model.width, depth=model.depth, batch=train.batch, tokens=train.tokens)
    if said != scale:
        raise UserError(f"scale is {scale}, but model and train say {said}; they must agree")
    check_together(model, plan.data, train)
    for name, counted in (
        ("parameters", parameter_count(model)),
        ("flops", training_flops(model, train.tokens)),
    ):
        if getattr(plan, name) != counted:
            raise UserError(f"{name} is {getattr(plan, name)}; model and train make {counted}")
    specs = {spec.name: spec for spec in grown_inventory(model, model)}
    expected = _expected(plan.tensors, specs)
    for i, row in enumerate(plan.tensors):
        module_type = expected.pop(row.name, None)
        if module_type is None:
            raise UserError(f"tensors.{i}: {row.name!r} is no tensor of this model, or given twice")
        spec = specs[row.name.partition("[")[0]]
        if (row.module_type, row.layer) != (module_type, spec.layer):
            raise UserError(
                f"tensors.{i}: {row.name} is {row.module_type!r} of layer {row.layer}; expected "
                f"{module_type!r} of layer {spec.layer}"
            )
        _check_row(row, spec)
    if expected:
        raise UserError(f"tensors: {next(iter(expected))} is missing; add its row")
    if set(plan.residual) != set(BRANCHES):
        raise UserError(f"residual has {sorted(plan.residual)}; expected {sorted(BRANCHES)}")
    for branch, coefficients in plan.residual.items():
        if len(coefficients) != model.depth:
            raise UserError(
                f"residual.{branch} has {len(coefficients)} numbers; expected {model.depth}, one a layer"
            )
        for layer, c in enumerate(coefficients):
            _check_number(f"residual.{branch}.{layer}", c, lowest=0, open_=True)
    _check_number("output_multiplier", plan.output_multiplier, lowest=0, open_=True)


def _expected(rows: tuple[TensorRow, ...], specs: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Each row's name with its module type: a fused tensor's parts where one of them is given."""
    apart = {row.name.partition("[")[0] for row in rows if "[" in row.name}
    expected: dict[str, str] = {}
    for name, spec in specs.items():
        if name in apart and spec.module_type in FUSED:
            expected |= {f"{name}[{part}]": part for part in FUSED[spec.module_type]}
        else:
            expected[name] = spec.module_type
    return expected


def _check_row(row: TensorRow, spec: TensorSpec) -> None:
    """The bounds of `torch.optim.AdamW`, an ε and lr that float32 holds, and the init of its role."""
    for name in ("lr", "eps"):
        _check_number(f"{row.name}: {name}", getattr(row, name), lowest=0, open_=True)
    if row.lr > LARGEST_FLOAT32:
        raise UserError(f"{row.name}: lr is {row.lr}; expected at most {LARGEST_FLOAT32:.8g}")
    if row.eps < _FLOAT32_SMALLEST:
        raise UserError(f"{row.name}: eps is {row.eps}; expected at least {_FLOAT32_SMALLEST:.8g}")
    for name in ("weight_decay", "beta1", "beta2"):
        _check_number(f"{row.name}: {name}", getattr(row, name), lowest=0)
    for name in ("beta1", "beta2"):
        if getattr(row, name) >= 1:
            raise UserError(
                f"{row.name}: {name} is {getattr(row, name)}; expected a number below 1"
            )
    _check_init(row, spec)


def _check_init(row: TensorRow, spec: TensorSpec) -> None:
    if spec.is_weight and row.init_std is not None:
        _check_number(f"{row.name}: init_std", row.init_std, lowest=0, open_=True)
    elif spec.is_weight:
        raise UserError(f"{row.name}: init_std is missing; expected a number above 0 for a weight")
    elif row.init_std is not None:
        raise UserError(f"{row.name}: init_std is {row.init_std}; expected none for a {spec.role}")
    if row.init_value != spec.init_value:
        raise UserError(
            f"{row.name}: init_value is {row.init_value}; expected {spec.init_value} for a {spec.role}"
        )


def _check_number(path: str, value: float, *, lowest: float, open_: bool = False) -> None:
    if not math.isfinite(value) or value < lowest or (open_ and value == lowest):
        bound = f"{'above' if open_ else 'not below'} {lowest:g}"
        raise UserError(f"{path} is {value}; expected a finite number {bound}")
