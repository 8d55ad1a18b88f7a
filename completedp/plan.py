"""The plan: a recipe at one target scale, with every tensor's values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
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
from completedp.kinds import POSITIVE
from completedp.models import grown_inventory
from completedp.modules import FUSED, TensorSpec
from completedp.optimizer import TensorRow
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS, RuleOptions
from completedp.scale import Ratios, Scale


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
    coefficients: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kind: Literal["plan"] = "plan"
    schema: Literal[1] = SCHEMA

    @property
    def resolved(self) -> Resolved:
        """The values as the training loop takes them."""
        return Resolved(
            tensors=self.tensors,
            residual=self.residual,
            output_multiplier=self.output_multiplier,
            coefficients=self.coefficients,
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
        data["coefficients"] = {name: list(c) for name, c in self.coefficients.items()}
        for name in ("corpus", "coefficients"):
            if not data[name]:
                del data[name]
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
        row.check_planned()
        _check_init(row, spec)
    if expected:
        raise UserError(f"tensors: {next(iter(expected))} is missing; add its row")
    plan.resolved.check_coefficients(model.depth)
    _check_positive("output_multiplier", plan.output_multiplier)


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


def _check_init(row: TensorRow, spec: TensorSpec) -> None:
    if spec.is_weight and row.init_std is not None:
        _check_positive(f"{row.name}: init_std", row.init_std)
    elif spec.is_weight:
        raise UserError(f"{row.name}: init_std is missing; expected a number above 0 for a weight")
    elif row.init_std is not None:
        raise UserError(f"{row.name}: init_std is {row.init_std}; expected none for a {spec.role}")
    if row.init_value != spec.init_value:
        raise UserError(
            f"{row.name}: init_value is {row.init_value}; expected {spec.init_value} for a {spec.role}"
        )


def _check_positive(path: str, value: float) -> None:
    if not POSITIVE.is_right(value):
        raise UserError(f"{path} is {value}; expected {POSITIVE.expected}")
