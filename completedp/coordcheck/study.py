"""A study configuration's scales and data as a subject has them, whatever its model.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.lm.data import Corpus, TrainBatches, prepare
from completedp.scale import Ratios, Scale


class StudySubject:
    """The scales, data and global values of a study configuration; its corpus is prepared in `cache`."""

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
        if scale.batch % (context := self.config.model.context):
            raise UserError(
                f"the batch ratio {ratios.batch:g} gives {scale.batch} tokens; expected a multiple of "
                f"model.context = {context}"
            )
        return scale

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
