"""An external model as the subject of a coordinate check, with its residual coefficients folded.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from completedp.adapters.external import base_inventory, build_model, external_inventory, logits_of
from completedp.adapters.infer import ExternalInventory
from completedp.adapters.parametrized import apply_values
from completedp.adapters.task import mean_loss
from completedp.config import ExternalModel, StudyConfig
from completedp.coordcheck.subject import OUTSIDE, Part, Ready, Subject, Watched
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import external_model
from completedp.modules import BRANCH_ENDS, BRANCH_POST_NORMS, TensorSpec
from completedp.scale import Ratios, Scale


class ExternalSubject(Subject):
    """The subject of a study configuration of an external model."""

    def __init__(self, config: StudyConfig, cache: Path, device: torch.device) -> None:
        super().__init__(config, cache, device)
        model = external_model(config.model)
        assert model is not None, "the reference model has its own subject"
        self._model = model
        base_inventory(self._model)
        # At the base, a gain over all heads looks like a gain that they share.
        twice = external_inventory(self._at(2 * model.width, model.depth), model)
        self._shared_gains = frozenset(s.module_type for s in twice.whole if s.role == "qk_norm")

    def _at(self, width: int, depth: int) -> ExternalModel:
        return self._model.scaled(width=width, depth=depth)

    def scale(self, ratios: Ratios) -> Scale:
        """Also raises `UserError` if the model's own code builds no model of that size."""
        scale = super().scale(ratios)
        external_inventory(self._at(scale.width, scale.depth), self._model)
        return scale

    def ready(
        self, ratios: Ratios, parameterization: str, options: Mapping[str, Any], seed: int
    ) -> Ready:
        scale = self.scale(ratios)
        sized = self._at(scale.width, scale.depth)
        model, found = build_model(sized, self._device), external_inventory(sized, self._model)
        hparams = HParams(global_=self.config.values)
        values = apply_values(
            model, found, hparams, ratios, parameterization=parameterization, **options
        )
        values.initialize(seed)
        model.to(self._device).eval()  # no dropout: two calls differ by the weights alone

        def loss(windows_BT: Tensor) -> Tensor:
            logits_BTV = logits_of(model, windows_BT[:, :-1])
            return mean_loss(logits_BTV, windows_BT[:, 1:], self.config.train.z_loss)[0]

        return Ready(
            model=model,
            optimizer=values.adamw(),
            loss=loss,
            watched=tuple(_watched(model, found, self._shared_gains)),
            eps={row.name: row.eps for row in values.tensors},
        )


def _watched(
    model: nn.Module, found: ExternalInventory, shared_gains: frozenset[str]
) -> Iterator[Watched]:
    """Every module that owns tensors, a tied model's logits, and the stream after each block."""
    owned: dict[str, list[TensorSpec]] = {}
    for spec in found.whole:
        owned.setdefault(spec.name.rpartition(".")[0], []).append(spec)
    for path, specs in owned.items():
        module = model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention):
            raise UserError(
                f"{path} is an nn.MultiheadAttention, which never calls the modules inside it, and the check "
                "watches calls; use an attention module with its own linear layers"
            )
        yield Watched(
            module_type=specs[0].module_type,
            layer=specs[0].layer,
            part=_part(specs[0], found, shared_gains),
            module=module,
            tensors=tuple(spec.name.rpartition(".")[2] for spec in specs),
        )
    if found.whole.tied:
        (tied,) = (p.also for p in found.observed.parameters if p.also)
        yield Watched(
            module_type="unembedding",
            layer=None,
            part="unembedding",
            module=model.get_submodule(tied[0].rpartition(".")[0]),
        )
    for i in range(found.whole.layers):
        layer = model.get_submodule(f"{found.observed.stack}.{i}")
        yield Watched(module_type="stream", layer=i, part="stream", module=layer)


def _part(spec: TensorSpec, found: ExternalInventory, shared_gains: frozenset[str]) -> Part:
    if spec.layer is None:
        if spec.module_type not in OUTSIDE:
            raise UserError(
                f"{spec.name} is outside the layers and has type {spec.module_type!r}; expected one of "
                f"{', '.join(OUTSIDE)}"
            )
        is_tied_norm = found.whole.tied and spec.module_type == "final_norm"
        return "tied_norm" if is_tied_norm else OUTSIDE[spec.module_type]
    types = found.whole.module_types
    ends = {
        post if (post := BRANCH_POST_NORMS[b]) in types else end for b, end in BRANCH_ENDS.items()
    }
    if spec.module_type in ends:
        return "branch"
    return "qk_norm" if spec.module_type in shared_gains else "hidden"
