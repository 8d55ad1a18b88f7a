"""How many tokens a model of so many parameters is worth: a ratio, or a fitted law of the loss.

.. [Chinchilla]   Training Compute-Optimal Large Language Models, arXiv 2203.15556.
.. [Replication]  Chinchilla Scaling: A replication attempt, arXiv 2404.10102.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from completedp import files, validation
from completedp.errors import UserError, shown

# Of a law's numbers: floats hold their products, and no law is beyond.
SMALLEST, LARGEST = 1e-50, 1e50


class TokenRule(Protocol):
    """The tokens a model is trained on, where nobody gives them."""

    def tokens(self, parameters: int) -> float:
        """Tokens for a model of so many parameters, embeddings included."""

    @property
    def reason(self) -> str:
        """Where the number comes from, for people."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """So many tokens a parameter at every size."""

    per_parameter: float
    source: str

    def tokens(self, parameters: int) -> float:
        return self.per_parameter * parameters

    @property
    def reason(self) -> str:
        return f"{self.per_parameter:.4g} a parameter, {self.source}"


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """L(N, D) = E + A/N^alpha + B/D^beta, N parameters and D tokens ([Chinchilla], approach 3).

    At a given N·D, the loss is least where alpha·A/N^alpha = beta·B/D^beta; E does not matter.
    """

    A: float
    B: float
    alpha: float
    beta: float
    source: str = "the given law's compute optimum"

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            value = getattr(self, name)
            if not SMALLEST <= value <= LARGEST:
                raise UserError(
                    f"{name} is {value}; expected a number above 0 ({SMALLEST:g} to {LARGEST:g})"
                )

    def tokens(self, parameters: int) -> float:
        log_tokens = (
            math.log(self.beta * self.B / (self.alpha * self.A)) + self.alpha * math.log(parameters)
        ) / self.beta
        if log_tokens >= math.log(2.0**1023):
            return math.inf
        return math.exp(max(log_tokens, math.log(SMALLEST)))

    @property
    def reason(self) -> str:
        return self.source


# The estimates of [Replication] on [Chinchilla]'s own runs, whose published ones do not fit them.
CHINCHILLA = LossLaw(
    A=482.01,
    B=2085.43,
    alpha=0.3478,
    beta=0.3658,
    source="compute optimum of the law fitted in arXiv 2404.10102",
)


@dataclass(frozen=True, kw_only=True)
class _LawFile:
    """The YAML form of a `LossLaw`; E is read and not needed."""

    A: float
    B: float
    alpha: float
    beta: float
    E: float = 0.0


def token_rule(text: str) -> TokenRule:
    """From `--tokens-per-parameter`: a number, `chinchilla`, or a YAML file with A, B, alpha and beta."""
    if text == "chinchilla":
        return CHINCHILLA
    try:
        ratio = float(text)
    except ValueError:
        return _law_of(Path(os.path.expanduser(text)))
    if not (math.isfinite(ratio) and ratio > 0):
        raise UserError(f"--tokens-per-parameter is {shown(text)}; expected a number above 0")
    return Ratio(per_parameter=ratio, source="given")


def _law_of(path: Path) -> LossLaw:
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"--tokens-per-parameter is {shown(str(path))}; expected a number, 'chinchilla', or a YAML file "
            "with A, B, alpha and beta"
        )
    content = validation.validate(_LawFile, files.read_yaml(path), str(path))
    try:
        return LossLaw(
            A=content.A,
            B=content.B,
            alpha=content.alpha,
            beta=content.beta,
            source=f"compute optimum of the law in {path.name}",
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
