"""The plan: a recipe carried to one target scale, with the values of every tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from completedp import files, validation
from completedp.config import SCHEMA, DataConfig, Model, ModelConfig, TrainConfig
from completedp.models import reference_model
from completedp.optimizer import TensorRow
from completedp.resolved import Resolved
from completedp.rules import RuleOptions
from completedp.scale import Ratios, Scale

_ONLY_REFERENCE = (
    "the plan is of {source}, and this form is of the reference architecture: use json, or "
    "completedp.parametrize(model, recipe, batch=…, tokens=…) in your own code"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a trainer needs.

    `parameters` is the number of trainable parameters, `flops` the FLOPs of the whole training. `which` names
    the recipe's configuration: tuned or baseline. `corpus` is the digest of the text that the recipe was
    tuned on, None if unknown. `residual` has one coefficient per layer for each branch. A fused tensor of an
    external model has one row per part, named `name[part]`, if its parts have values of their own.
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
        """The values in the form that the training loop takes."""
        return Resolved(
            tensors=self.tensors,
            residual=self.residual,
            output_multiplier=self.output_multiplier,
            coefficients=self.coefficients,
        )

    @property
    def reference(self) -> ModelConfig:
        """The reference model's shape. Raises `UserError` for the plan of an external model."""
        return reference_model(self.model, _ONLY_REFERENCE)

    @property
    def base(self) -> Model:
        """The model at the recipe's width and depth."""
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
        """Replace the YAML file `path` atomically. Raises `UserError` if it cannot be written."""
        files.write_yaml(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan file. Raises `UserError` that names the file and the wrong key."""
        return cls.from_dict(files.read_yaml(path), where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan") -> Plan:
        """A plan from its file's content. Raises `UserError` that begins with `where`.

        The values are not checked here: `completedp.plan_check` does that.
        """
        return validation.validate(cls, dict(data), where)
