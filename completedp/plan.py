"""The plan: a recipe at one target scale, with every tensor's values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from completedp import files
from completedp.config import SCHEMA, DataConfig, ModelConfig, TrainConfig
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
        """From the file's content."""
        return files.validate(cls, dict(data), where)
