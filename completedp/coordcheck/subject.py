"""What is checked: a family of models that can be built at any ratio to a base, as one small Protocol.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from completedp.scale import Ratios, Scale

# Where a module stands, which decides how its output should move with scale (`slopes.EXPECTED`). A `branch`
# is the end of a residual branch that carries its coefficient itself. The `stream` is the sum after a block.
# `qk_norm`: one gain that all heads share; where it spans them it is `hidden`.
# `tied_norm`: the final norm of a tied model, whose gain holds the multiplier on the logits.
Part = Literal[
    "embedding", "hidden", "qk_norm", "branch", "stream", "final_norm", "tied_norm", "unembedding"
]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A module whose output, one tensor, is followed. `layer` is None outside the stack.

    `tensors` are its own, by their names within `module`: those of a module inside it that is watched
    itself are not among them. The stream has none.
    """

    module_type: str
    layer: int | None
    part: Part
    module: nn.Module
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An initialised model at one scale, in float32, and how it is trained.

    `model(tokens_BT)` calls every watched module exactly once. `loss(windows_BT)` takes windows of one token
    more and is the mean over all predicted tokens. Every trainable parameter is some watched module's own,
    and its AdamW ε stands in `eps` under its name in `model`.
    """

    model: nn.Module
    optimizer: torch.optim.AdamW
    loss: Callable[[Tensor], Tensor]
    watched: tuple[Watched, ...]
    eps: Mapping[str, float]


class Subject(Protocol):
    """A family of models with a base, and its data."""

    @property
    def base(self) -> Scale:
        """The scale at which every ratio is 1."""

    def scale(self, ratios: Ratios) -> Scale:
        """The scale at these ratios; raises `UserError` where there is no such model or batch."""

    def ready(
        self, ratios: Ratios, parameterization: str, options: Mapping[str, Any], seed: int
    ) -> Ready:
        """The model at these ratios, its initial values drawn from the seed."""

    def batches(self, tokens: int, seed: int) -> Iterator[Tensor]:
        """Batches of that many predicted tokens without end, windows `B x (T + 1)`, drawn by the seed."""
