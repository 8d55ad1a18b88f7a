"""The plan: a recipe at one target scale, with every tensor's values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from completedp import files, validation
from completedp.config import SCHEMA, DataConfig, Model, ModelConfig, TrainConfig
from completedp.errors import UserError, shown
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
        """The reference model's shape. Raises `UserError` for the plan of an external model."""
        return reference_model(self.model, _ONLY_REFERENCE)

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
        """From the file's content. `completedp.plan_check` says whether a trainer can use its values."""
        if data.get("kind", "plan") != "plan":
            raise UserError(
                f"{where}: kind is {shown(data['kind'])}; expected a 'plan', as `completedp transfer` "
                "writes it"
            )
        return validation.validate(cls, dict(data), where)
