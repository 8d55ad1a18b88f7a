"""The kind of external models. Their code is imported only when a model is built, on the meta device."""

from __future__ import annotations

import math
from typing import Any

from completedp import flops, trust
from completedp.adapters.external import base_inventory, external_inventory
from completedp.config import ExternalModel
from completedp.hparams import HParams
from completedp.modules import Inventory


class ExternalKind:
    """A `completedp.models.ModelKind`."""

    task = trust.FOREIGN_MODEL
    needs_working_folder = True

    def inventory(
        self, model: ExternalModel, base: ExternalModel, hparams: HParams | None = None
    ) -> Inventory:
        found = external_inventory(model, base)
        return found.whole if hparams is None else found.for_hparams(hparams)

    def own_inventory(self, model: ExternalModel) -> Inventory:
        return base_inventory(model).whole

    def parameter_count(self, model: ExternalModel) -> int:
        return sum(_elements_by_role(model).values())

    def flops_per_token(self, model: ExternalModel) -> int:
        """Each layer's attention is counted at the model's width and its whole context."""
        elements = _elements_by_role(model)
        multiplied = elements["hidden_weight"] + elements["unembedding"]
        return flops.training_flops_per_token(model, multiplied)

    def code(self, model: ExternalModel) -> str | None:
        return None if model.source.startswith("hf:") else model.source

    def run_arguments(self, base: ExternalModel, parameterization: str) -> dict[str, Any]:
        return {
            "base": {"width": base.width, "depth": base.depth},
            "parameterization": parameterization,
        }


EXTERNAL = ExternalKind()


def _elements_by_role(model: ExternalModel) -> dict[str, int]:
    """Trainable parameters by role. A tied embedding is multiplied, so it counts as the unembedding."""
    found = base_inventory(model)
    shapes = {p.name: p.shape for p in found.observed.parameters}
    elements: dict[str, int] = {}
    for spec in found.whole:
        role = "unembedding" if found.whole.tied and spec.role == "embedding" else spec.role
        elements[role] = elements.get(role, 0) + math.prod(shapes[spec.name])
    return elements
