"""The plan: a recipe at one target scale, with every tensor's values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from completedp import files
from completedp.config import SCHEMA, DataConfig, ModelConfig, TrainConfig, check_together
from completedp.errors import UserError
from completedp.modules import BRANCHES
from completedp.resolved import Resolved, TensorRow
from completedp.rules import RuleOptions
from completedp.scale import Ratios, Scale


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a trainer needs. `parameters` counts every trainable number, `flops` a whole training."""

    parameterization: str
    options: RuleOptions
    scale: Scale
    ratios: Ratios
    parameters: int
    flops: int
    recipe_digest: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    tensors: tuple[TensorRow, ...]
    residual: Mapping[str, tuple[float, ...]]
    output_multiplier: float = 1.0
    kind: Literal["plan"] = "plan"
    schema: Literal[1] = SCHEMA

    @property
    def resolved(self) -> Resolved:
        """The values as the training loop takes them."""
        return Resolved(
            tensors=self.tensors, residual=self.residual, output_multiplier=self.output_multiplier
        )

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        data = dataclasses.asdict(self)
        data["tensors"] = [dict(row) for row in data["tensors"]]
        data["residual"] = {branch: list(c) for branch, c in self.residual.items()}
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
            _check(plan)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return plan


def _check(plan: Plan) -> None:
    train, model, scale = plan.train, plan.model, plan.scale
    said = Scale(width=model.width, depth=model.depth, batch=train.batch, tokens=train.tokens)
    if said != scale:
        raise UserError(f"scale is {scale}, but model and train say {said}; they must agree")
    check_together(model, plan.data, train)
    expected = {spec.name: spec for spec in model.inventory(model)}
    for i, row in enumerate(plan.tensors):
        spec = expected.pop(row.name, None)
        if spec is None:
            raise UserError(f"tensors.{i}: {row.name!r} is no tensor of this model, or given twice")
        if (row.module_type, row.layer) != (spec.module_type, spec.layer):
            raise UserError(
                f"tensors.{i}: {row.name} is {row.module_type!r} of layer {row.layer}; expected "
                f"{spec.module_type!r} of layer {spec.layer}"
            )
        _check_row(row)
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


def _check_row(row: TensorRow) -> None:
    """The bounds of `torch.optim.AdamW`, and an ε and lr above 0."""
    for name in ("lr", "eps"):
        _check_number(f"{row.name}: {name}", getattr(row, name), lowest=0, open_=True)
    for name in ("weight_decay", "beta1", "beta2"):
        _check_number(f"{row.name}: {name}", getattr(row, name), lowest=0)
    for name in ("beta1", "beta2"):
        if getattr(row, name) >= 1:
            raise UserError(
                f"{row.name}: {name} is {getattr(row, name)}; expected a number below 1"
            )
    _check_number(f"{row.name}: init_std", row.init_std or 0.0, lowest=0)
    _check_number(f"{row.name}: init_value", row.init_value, lowest=-math.inf, open_=True)


def _check_number(path: str, value: float, *, lowest: float, open_: bool = False) -> None:
    if not math.isfinite(value) or value < lowest or (open_ and value == lowest):
        bound = "" if lowest == -math.inf else f" {'above' if open_ else 'not below'} {lowest:g}"
        raise UserError(f"{path} is {value}; expected a finite number{bound}")
