"""The recipe: the values that a search found, with the base scale and the model family they belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from completedp import files, validation
from completedp.config import (
    SCHEMA,
    DataConfig,
    Model,
    ModelConfig,
    TrainConfig,
    check_together,
    scale_of,
)
from completedp.errors import UserError, located
from completedp.hparams import HParams
from completedp.models import content_of, reference_model
from completedp.rules import PARAMETERIZATIONS
from completedp.scale import Scale


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters at the base scale, with everything that is needed to carry and to judge them.

    `hparams` is the tuned configuration, `baseline` the best global one at the same base. `provenance` holds
    the data's digest, seeds, versions and confirmed losses. It holds no clock time, so identical searches
    give identical bytes.
    """

    parameterization: str
    model: Model
    data: DataConfig
    train: TrainConfig
    hparams: HParams
    baseline: HParams
    provenance: Mapping[str, Any]

    @property
    def base(self) -> Scale:
        """The scale that the values belong to."""
        return scale_of(self.model, self.train)

    @property
    def reference(self) -> ModelConfig:
        """The reference model's shape. Raises `UserError` for the recipe of an external model."""
        return reference_model(
            self.model,
            "the recipe is of the model {source}, whose shapes only its own code knows: give --width and "
            "--depth (beside --flops they leave the tokens to be chosen)",
        )

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "schema": SCHEMA,
            "kind": "recipe",
            "parameterization": self.parameterization,
            "base": dataclasses.asdict(self.base),
            "model": dataclasses.asdict(self.model),
            "data": dataclasses.asdict(self.data),
            "train": dataclasses.asdict(self.train),
            "hparams": self.hparams.to_dict(),
            "baseline": self.baseline.to_dict(),
            "provenance": dict(self.provenance),
        }

    @property
    def digest(self) -> str:
        """A hash of the recipe's content without the model's kind, as `sha256:<hex>`.

        Recipes of earlier versions did not name the kind. They keep their digest.
        """
        return files.digest({**self.to_dict(), "model": content_of(self.model)})

    def write(self, path: Path) -> None:
        """Replace the YAML file `path` atomically. Raises `UserError` if it cannot be written."""
        files.write_yaml(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file. Raises `UserError` that names the file and the wrong key."""
        return cls.from_dict(files.read_yaml(path), where=str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """A recipe from its file's content. Raises `UserError` that begins with `where`."""
        if data.get("kind", "recipe") != "recipe":
            raise UserError(
                f"{where}: kind is {data.get('kind')!r}; expected a 'recipe', as a search writes it"
            )
        file = validation.validate(_RecipeFile, dict(data), where)
        with located(where):
            recipe = cls(
                parameterization=file.parameterization,
                model=file.model,
                data=file.data,
                train=file.train,
                hparams=_hparams("hparams", file.hparams),
                baseline=_hparams("baseline", file.baseline),
                provenance=file.provenance,
            )
            check_together(recipe.model, recipe.data, recipe.train)
        if file.base != recipe.base:
            raise UserError(
                f"{where}: base is {file.base}, but model and train say {recipe.base}; they must agree"
            )
        if recipe.parameterization not in PARAMETERIZATIONS:
            raise UserError(
                f"{where}: parameterization is {recipe.parameterization!r}; expected one of "
                f"{', '.join(PARAMETERIZATIONS)}"
            )
        for name in ("hparams", "baseline"):
            _check_depth(getattr(recipe, name), recipe.model.depth, f"{where}: {name}")
        return recipe


def _hparams(name: str, content: Mapping[str, Any]) -> HParams:
    try:
        return HParams.from_dict(content)
    except UserError as error:
        raise UserError(f"{name}.{error}") from None


def _check_depth(hparams: HParams, layers: int, where: str) -> None:
    for kind, by_layer in hparams.depth.items():
        if len(by_layer) != layers:
            raise UserError(
                f"{where}.depth.{kind} has {len(by_layer)} numbers; expected {layers}, one per base layer"
            )


@dataclass(frozen=True, kw_only=True)
class _RecipeFile:
    """The YAML form, before its hyperparameters are checked."""

    schema: Literal[1]
    kind: Literal["recipe"]
    parameterization: str
    base: Scale
    model: Model
    data: DataConfig
    train: TrainConfig
    hparams: dict[str, Any]
    baseline: dict[str, Any]
    provenance: dict[str, Any]
