"""The reference language model as a subject of the coordinate check.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from completedp.config import ModelConfig, StudyConfig
from completedp.coordcheck.subject import Part, Ready, Watched
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.data import Corpus, TrainBatches, prepare
from completedp.lm.model import LanguageModel
from completedp.modules import BRANCH_ENDS, Inventory, TensorSpec
from completedp.parametrize import adamw, initialize
from completedp.resolved import Resolved, resolve
from completedp.scale import Ratios, Scale

_OUTSIDE: Mapping[str, Part] = {
    "embedding": "embedding",
    "final_norm": "final_norm",
    "unembedding": "unembedding",
}


class ReferenceSubject:
    """The model, data and global values of a study configuration; its corpus is prepared in `cache`."""

    def __init__(self, config: StudyConfig, cache: Path, device: torch.device) -> None:
        self.config, self._cache, self._device = config, cache, device

    @property
    def base(self) -> Scale:
        return self.config.scale

    def scale(self, ratios: Ratios) -> Scale:
        sizes = {axis: getattr(self.base, axis) * ratio for axis, ratio in vars(ratios).items()}
        for axis, size in sizes.items():
            if size != int(size) or size < 1:
                raise UserError(
                    f"the {axis} ratio {getattr(ratios, axis):g} makes {size:g} of the base's "
                    f"{getattr(self.base, axis)}; expected a whole number"
                )
        scale = Scale(**{axis: int(size) for axis, size in sizes.items()})
        self._shape(scale)
        if scale.batch % (context := self.config.model.context):
            raise UserError(
                f"the batch ratio {ratios.batch:g} gives {scale.batch} tokens; expected a multiple of "
                f"model.context = {context}"
            )
        return scale

    def ready(
        self, ratios: Ratios, parameterization: str, options: Mapping[str, Any], seed: int
    ) -> Ready:
        shape = self._shape(self.scale(ratios))
        inventory = shape.inventory(self.config.model)
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
        """The values in force: the configuration's global ones, carried."""
        hparams = HParams(global_=self.config.values)
        return resolve(hparams, inventory, ratios, parameterization=parameterization, **options)

    def batches(self, tokens: int, seed: int) -> Iterator[Tensor]:
        context = self.config.model.context
        source = TrainBatches(self._corpus.split("train"), context, tokens // context, seed)
        step = 0
        while True:
            yield torch.from_numpy(source.at(step)).to(self._device)
            step += 1

    @cached_property
    def _corpus(self) -> Corpus:
        config = self.config
        return prepare(config.data, config.model.vocab_size, config.train.eval_tokens, self._cache)

    def _shape(self, scale: Scale) -> ModelConfig:
        return self.config.model.scaled(width=scale.width, depth=scale.depth)


def _watched(model: LanguageModel, inventory: Inventory) -> Iterator[Watched]:
    """Every module that owns tensors, and the stream after each block.

    A residual coefficient multiplies a branch's last matrix, whose module is never called itself: the whole
    branch is watched as that matrix's output.
    """
    for spec in inventory:
        path, _, tensor = spec.name.rpartition(".")
        if spec.module_type in BRANCH_ENDS.values():
            path, _, end = path.rpartition(".")
            tensor = f"{end}.{tensor}"
        yield Watched(
            module_type=spec.module_type,
            layer=spec.layer,
            part=_part(spec),
            module=model.get_submodule(path),
            tensors=(tensor,),
        )
    for i, layer in enumerate(model.layers):
        yield Watched(module_type="stream", layer=i, part="stream", module=layer)


def _part(spec: TensorSpec) -> Part:
    if spec.layer is None:
        return _OUTSIDE[spec.role]
    if spec.module_type in BRANCH_ENDS.values():
        return "branch"
    return "qk_norm" if spec.role == "qk_norm" else "hidden"
