"""Families of models: the member of a wanted size, in a shape that a trainer can split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from completedp.config import ModelConfig
from completedp.errors import UserError

Size = Callable[[ModelConfig], float]


@dataclass(frozen=True, kw_only=True)
class Family:
    """The models of a base's kind: width in whole groups of heads, d_ff / d_model as at the base.

    `width` (features) and `depth` (layers) are fixed if given. `aspect` is width / depth if neither is fixed.
    With `tensor_parallel` t, key-value heads and d_ff divide by t, so that every device holds an equal part.
    """

    base: ModelConfig
    aspect: float
    tensor_parallel: int = 1
    width: int | None = None
    depth: int | None = None

    @property
    def unit(self) -> int:
        """The step of the width, in features."""
        return self.base.head_dim * self.base.queries_per_kv * self.tensor_parallel

    def member(self, *, width: int, depth: int) -> ModelConfig:
        """The model of that width and depth. Raises `UserError` for a size the family cannot have."""
        if self.tensor_parallel > 1 and width % self.unit:
            low = width // self.unit * self.unit
            near = f"{low} or {low + self.unit}" if low else str(self.unit)
            raise UserError(
                f"width is {width}; with {self.tensor_parallel}-way tensor parallelism expected a "
                f"multiple of {self.unit} (head_dim x queries_per_kv x {self.tensor_parallel}), {near}"
            )
        return self.base.scaled(width=width, depth=depth, ffn_multiple=self.tensor_parallel)

    def nearest(self, size: Size, wanted: float, name: str) -> ModelConfig:
        """The member whose `size` is nearest to `wanted` by their ratio.

        `size` must rise with width and depth.
        The smallest member if that is larger already. Raises `UserError` if even the largest is smaller;
        `name` is what the message calls the size.
        """
        steps, member = self._ladder()
        if size(largest := member(steps)) < wanted:
            raise UserError(
                f"{name} is {wanted:.4g}; the largest model of this family (width {largest.width}, "
                f"depth {largest.depth}) has {size(largest):.4g}: give less"
            )
        low, high = 0, 1
        while size(member(high)) < wanted:
            low, high = high, min(2 * high, steps)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(member(middle)) < wanted else (low, middle)
        if low == 0:
            return member(1)
        return min(member(low), member(high), key=lambda model: abs(math.log(size(model) / wanted)))

    def _ladder(self) -> tuple[int, Callable[[int], ModelConfig]]:
        """The number of members, and the member at a place, from 1 (the smallest) up to that number."""
        width, depth = self.width, self.depth
        if width is not None:
            assert depth is None, "a given shape is not searched"
            return ModelConfig.LARGEST["depth"], lambda step: self.member(width=width, depth=step)
        widest = min(
            ModelConfig.LARGEST["width"],
            ModelConfig.LARGEST["ffn"] * self.base.width / self.base.ffn,
            math.inf if depth is not None else ModelConfig.LARGEST["depth"] * self.aspect,
        )

        def by_width(step: int) -> ModelConfig:
            features = self.unit * step
            return self.member(width=features, depth=depth or max(1, round(features / self.aspect)))

        return max(1, int(widest / self.unit)), by_width
