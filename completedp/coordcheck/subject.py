"""The subject of a coordinate check: a family of models that can be built at any ratio to its base.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.lm.data import Corpus, TrainBatches, prepare
from completedp.scale import Ratios, Scale

# The part that a module plays, which decides how its output should move with scale (`slopes.EXPECTED`).
# `branch`: the end of a residual branch that carries its coefficient itself. `stream`: the sum after a block.
# `qk_norm`: one gain that all heads share; a gain that spans the heads is `hidden`.
# `tied_norm`: the final norm of a tied model, whose gain holds the multiplier on the logits.
Part = Literal[
    "embedding", "hidden", "qk_norm", "branch", "stream", "final_norm", "tied_norm", "unembedding"
]

# The parts outside the stack of layers, by module type.
OUTSIDE: Mapping[str, Part] = {
    "embedding": "embedding",
    "position_embedding": "embedding",
    "final_norm": "final_norm",
    "unembedding": "unembedding",
}


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A module whose output, one tensor, is measured. `layer` is None outside the stack.

    `tensors` are the module's own tensors, by their names within `module`. Tensors of an inner module that is
    watched itself are not included. The stream has none.
    """

    module_type: str
    layer: int | None
    part: Part
    module: nn.Module
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An initialized model at one scale, in float32, with its optimizer and loss.

    `model(tokens_BT)` calls every watched module exactly once. `loss(windows_BT)` takes windows that are one
    token longer, and is the mean over all predicted tokens. Every trainable parameter belongs to exactly one
    watched module. `eps` maps each parameter's name in `model` to its AdamW ε.
    """

    model: nn.Module
    optimizer: torch.optim.AdamW
    loss: Callable[[Tensor], Tensor]
    watched: tuple[Watched, ...]
    eps: Mapping[str, float]


class Subject(ABC):
    """The model family, data and global values of a study configuration.

    `cache` is the folder in which the corpus is prepared.
    """

    def __init__(self, config: StudyConfig, cache: Path, device: torch.device) -> None:
        self.config, self._cache, self._device = config, cache, device

    @abstractmethod
    def ready(
        self, ratios: Ratios, parameterization: str, options: Mapping[str, Any], seed: int
    ) -> Ready:
        """The model at these ratios, with initial values drawn from the seed."""

    @property
    def base(self) -> Scale:
        """The scale at which every ratio is 1."""
        return self.config.scale

    def scale(self, ratios: Ratios) -> Scale:
        """The scale at these ratios. Raises `UserError` if no such model or batch exists."""
        sizes = {axis: getattr(self.base, axis) * ratio for axis, ratio in vars(ratios).items()}
        for axis, size in sizes.items():
            if size != int(size) or size < 1:
                raise UserError(
                    f"the {axis} ratio {getattr(ratios, axis):g} makes {size:g} of the base's "
                    f"{getattr(self.base, axis)}; expected a whole number"
                )
        scale = Scale(**{axis: int(size) for axis, size in sizes.items()})
        model = self.config.model.scaled(width=scale.width, depth=scale.depth)
        if scale.batch % model.context:
            raise UserError(
                f"the batch ratio {ratios.batch:g} gives {scale.batch} tokens; expected a multiple of "
                f"model.context = {model.context}"
            )
        return scale

    def batches(self, tokens: int, seed: int) -> Iterator[Tensor]:
        """An endless stream of batches of `tokens` predicted tokens, drawn from the seed.

        Each is a tensor of windows, `B x (T + 1)`.
        """
        context = self.config.model.context
        source = TrainBatches(self._corpus.split("train"), context, tokens // context, seed)
        for step in itertools.count():
            yield torch.from_numpy(source.at(step)).to(self._device)

    @cached_property
    def _corpus(self) -> Corpus:
        config = self.config
        return prepare(config.data, config.model.vocab_size, config.train.eval_tokens, self._cache)
