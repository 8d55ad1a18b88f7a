"""One interface for both kinds of model: the reference model and external models.

No other file asks which kind a model is. Callers use `kind_of(model)` or the functions below.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

from completedp import flops, trust
from completedp.config import ExternalModel, Model, ModelConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.kinds import KINDS
from completedp.modules import Inventory

# Kind → location of its `ModelKind`. It is imported on first use, so the reference model loads no adapter.
_KINDS: Mapping[str, str] = {
    "reference": "completedp.models:REFERENCE",
    "external": "completedp.adapters.kind:EXTERNAL",
}


class ModelKind(Protocol):
    """Everything that differs between the kinds of model.

    `task` is the training function that a job names. `needs_working_folder`: a worker needs the files and
    modules of the folder in which the command was given.
    """

    task: str
    needs_working_folder: bool

    def inventory(self, model: Any, base: Any, hparams: HParams | None = None) -> Inventory:
        """The tensors of `model` with the fan-ins of `base`, the same family at another size."""

    def own_inventory(self, model: Any) -> Inventory:
        """The tensors of the model as its own base."""

    def parameter_count(self, model: Any) -> int:
        """Number of trainable parameters, embeddings included."""

    def flops_per_token(self, model: Any) -> int:
        """FLOPs of forward and backward for one token in a sequence of `model.context`."""

    def code(self, model: Any) -> str | None:
        """The user's own function that builds the model, `package.module:function`, if there is one."""

    def run_arguments(self, base: Any, parameterization: str) -> dict[str, Any]:
        """The training function's arguments that only this kind takes."""


class ReferenceKind:
    """The reference model, whose counts are closed forms of its configuration. Needs no torch."""

    task = trust.LANGUAGE_MODEL
    needs_working_folder = False

    def inventory(
        self, model: ModelConfig, base: ModelConfig, hparams: HParams | None = None
    ) -> Inventory:
        return model.inventory(base)

    def own_inventory(self, model: ModelConfig) -> Inventory:
        return model.inventory(model)

    def parameter_count(self, model: ModelConfig) -> int:
        return flops.multiplied(model) + flops.not_multiplied(model)

    def flops_per_token(self, model: ModelConfig) -> int:
        return flops.training_flops_per_token(model, flops.multiplied(model))

    def code(self, model: ModelConfig) -> None:
        return None

    def run_arguments(self, base: ModelConfig, parameterization: str) -> dict[str, Any]:
        return {}


REFERENCE = ReferenceKind()


def kind_of(model: Model) -> ModelKind:
    """The kind of a model. The first call for an external model imports the adapters."""
    return _kind(model.kind)


@functools.cache
def _kind(name: str) -> ModelKind:
    module, _, attribute = _KINDS[name].partition(":")
    kind: ModelKind = getattr(importlib.import_module(module), attribute)
    return kind


def own_inventory(model: Model) -> Inventory:
    """The tensors of the model as its own base. A fused tensor counts as one.

    Raises `UserError` for an external model that cannot be built at other sizes.
    """
    return kind_of(model).own_inventory(model)


def grown_inventory(model: Model, base: Model, hparams: HParams | None = None) -> Inventory:
    """The tensors of the model with the fan-ins of `base`, the same family at another size.

    A fused tensor counts as one, unless `hparams` names its parts.
    """
    assert model.kind == base.kind, "a model and its base are of one family"
    return kind_of(model).inventory(model, base, hparams)


def parameter_count(model: Model) -> int:
    """Number of trainable parameters, embeddings included.

    Closed form for the reference model; counted tensor by tensor for an external one.
    """
    return kind_of(model).parameter_count(model)


def training_flops(model: Model, tokens: int) -> int:
    """FLOPs of forward and backward over `tokens` tokens. Linear in `tokens`."""
    return tokens * kind_of(model).flops_per_token(model)


def reference_model(model: Model, otherwise: str) -> ModelConfig:
    """The model if it is the reference model. Else raises `UserError` with the text `otherwise`.

    The text may hold `{source}`.
    """
    if isinstance(model, ExternalModel):
        raise UserError(otherwise.format(source=model.source))
    return model


def external_model(model: Model) -> ExternalModel | None:
    """The model if it is an external one, else None."""
    return model if isinstance(model, ExternalModel) else None


def content_of(model: Model) -> dict[str, Any]:
    """The model as plain JSON types, without its kind.

    Digests of this content name the runs, and runs of earlier versions had no kind in it.
    """
    plain = dataclasses.asdict(model)
    del plain["kind"]
    return plain


def check_types(hparams: HParams, inventory: Inventory) -> None:
    """Raises `UserError` for multipliers of module types that the model does not have."""
    have = set(inventory.module_types)
    absent = sorted(
        {
            t
            for kind, by_type in hparams.types.items()
            if KINDS[kind].scope == "tensor"
            for t, value in by_type.items()
            if t not in have and value != 1.0
        }
    )
    if absent:
        raise UserError(
            "the recipe has multipliers for module types that the model does not have: "
            f"{', '.join(absent)}; it has {', '.join(sorted(have))}. Search on this family, or take them out "
            "of the recipe"
        )
