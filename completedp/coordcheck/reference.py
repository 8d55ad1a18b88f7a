"""The reference language model as the subject of a coordinate check.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from completedp.config import StudyConfig
from completedp.coordcheck.subject import OUTSIDE, Part, Ready, Subject, Watched
from completedp.hparams import HParams
from completedp.lm.model import LanguageModel
from completedp.models import reference_model
from completedp.modules import Inventory
from completedp.optimizer import adamw, initialize
from completedp.resolved import Resolved, resolve
from completedp.scale import Ratios


class ReferenceSubject(Subject):
    """The subject of a study configuration of the reference model."""

    def __init__(self, config: StudyConfig, cache: Path, device: torch.device) -> None:
        super().__init__(config, cache, device)
        self._model = reference_model(config.model, "{source} has its own subject")

    def ready(
        self, ratios: Ratios, parameterization: str, options: Mapping[str, Any], seed: int
    ) -> Ready:
        scale = self.scale(ratios)
        shape = self._model.scaled(width=scale.width, depth=scale.depth)
        inventory = shape.inventory(self._model)
        resolved = self.resolved(inventory, ratios, parameterization, options)
        model = LanguageModel(shape)
        initialize(model, resolved, seed)
        model.set_multipliers(resolved)
        model.to(self._device)

        def loss(windows_BT: Tensor) -> Tensor:
            return model.loss(windows_BT[:, :-1], windows_BT[:, 1:], self.config.train.z_loss)[0]

        return Ready(
            model=model,
            optimizer=adamw(model, resolved),
            loss=loss,
            watched=tuple(_watched(model, inventory)),
            eps={row.name: row.eps for row in resolved.tensors},
        )

    def resolved(
        self,
        inventory: Inventory,
        ratios: Ratios,
        parameterization: str,
        options: Mapping[str, Any],
    ) -> Resolved:
        """The configuration's global values at these ratios."""
        hparams = HParams(global_=self.config.values)
        return resolve(hparams, inventory, ratios, parameterization=parameterization, **options)


def _watched(model: LanguageModel, inventory: Inventory) -> Iterator[Watched]:
    """Every module that owns tensors, and the stream after each block."""
    for spec in inventory:
        part: Part = "qk_norm" if spec.role == "qk_norm" else "hidden"
        if spec.layer is None:
            part = OUTSIDE[spec.module_type]
        path, _, tensor = spec.name.rpartition(".")
        yield Watched(
            module_type=spec.module_type,
            layer=spec.layer,
            part=part,
            module=model.get_submodule(path),
            tensors=(tensor,),
        )
    for i, layer in enumerate(model.layers):
        yield Watched(module_type="stream", layer=i, part="stream", module=layer)
