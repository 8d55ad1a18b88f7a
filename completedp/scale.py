"""A training scale, and the ratios of one scale to another.

.. [PowerLines]  Power Lines: Scaling Laws for Weight Decay and Batch Size in LLM Pre-training,
                 arXiv 2505.13738.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from completedp.errors import UserError

LARGEST = 2**63 - 1  # the largest size that a tensor library can count
# The best batch grows with the tokens as a power law, whatever the model's size [PowerLines].
BATCH_EXPONENT = 0.383


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One training scale: `width` (d_model), `depth` (layers), `batch` and `tokens` in tokens.

    Raises `UserError` for a size below 1 or above `LARGEST`.
    """

    width: int
    depth: int
    batch: int
    tokens: int

    def __post_init__(self) -> None:
        for name in ("width", "depth", "batch", "tokens"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"scale.{name} is {value}; expected a positive whole number")
            if value > LARGEST:
                raise UserError(f"scale.{name} is {value:.4g}; expected at most {LARGEST:.4g}")

    def ratios_to(self, base: Scale) -> Ratios:
        """The ratios of this scale to `base`, each without a unit."""
        return Ratios(
            width=self.width / base.width,
            depth=self.depth / base.depth,
            batch=self.batch / base.batch,
            tokens=self.tokens / base.tokens,
        )


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Target / base: m_N (width), m_L (depth), m_B (batch in tokens), m_D (training tokens).

    Raises `UserError` for a ratio that is not a finite number above 0.
    """

    width: float = 1.0
    depth: float = 1.0
    batch: float = 1.0
    tokens: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "batch", "tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(
                    f"the {name} ratio is {value}; expected a finite number above 0 (target / base)"
                )
        if not 0 < self.steps < math.inf:
            raise UserError(
                f"the tokens ratio {self.tokens:g} over the batch ratio {self.batch:g} gives "
                f"{self.steps:g} x the steps; expected a finite number above 0"
            )

    @property
    def steps(self) -> float:
        """S = m_D / m_B, the ratio of training steps, in every parameterization."""
        return self.tokens / self.batch
