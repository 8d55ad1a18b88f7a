"""Training tokens by the number of parameters: a fixed ratio, or the optimum of a fitted law of the loss.

.. [Chinchilla]   Training Compute-Optimal Large Language Models, arXiv 2203.15556.
.. [Replication]  Chinchilla Scaling: A replication attempt, arXiv 2404.10102.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from completedp import files, validation
from completedp.errors import UserError, shown

# Bounds for a law's numbers. Floats hold their products, and no law is beyond.
SMALLEST, LARGEST = 1e-50, 1e50


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The same number of tokens per parameter at every size. `source` is its origin, for people."""

    per_parameter: float
    source: str

    def tokens(self, parameters: int) -> float:
        """Tokens for a model of `parameters` parameters, embeddings included."""
        return self.per_parameter * parameters

    @property
    def reason(self) -> str:
        return f"{self.per_parameter:.4g} a parameter, {self.source}"


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """L(N, D) = E + A/N^alpha + B/D^beta for N parameters and D tokens ([Chinchilla], approach 3).

    At a given N·D the loss is lowest at alpha·A/N^alpha = beta·B/D^beta; E does not matter.
    """

    A: float
    B: float
    alpha: float
    beta: float
    E: float = 0.0
    reason: str = "the given law's compute optimum"

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            value = getattr(self, name)
            if not SMALLEST <= value <= LARGEST:
                raise UserError(
                    f"{name} is {value}; expected a number above 0 ({SMALLEST:g} to {LARGEST:g})"
                )

    def tokens(self, parameters: int) -> float:
        """The best number of tokens for a model of `parameters` parameters, embeddings included."""
        ratio = math.log(self.beta * self.B / (self.alpha * self.A))
        log_tokens = (ratio + self.alpha * math.log(parameters)) / self.beta
        if log_tokens >= math.log(2.0**1023):
            return math.inf
        return math.exp(max(log_tokens, math.log(SMALLEST)))


# Decides the tokens that a model is trained on if nobody gives them.
TokenRule = Ratio | LossLaw


# [Replication]'s estimates from [Chinchilla]'s own runs; the published estimates do not fit those runs.
CHINCHILLA = LossLaw(
    A=482.01,
    B=2085.43,
    alpha=0.3478,
    beta=0.3658,
    reason="compute optimum of the law fitted in arXiv 2404.10102",
)


def token_rule(given: float | str) -> TokenRule:
    """The rule that `--tokens-per-parameter` names.

    `given` is a number, `chinchilla`, or the path of a YAML file with a law's A, B, alpha and beta.
    Raises `UserError` for anything else, with the file's name for a file.
    """
    if given == "chinchilla":
        return CHINCHILLA
    try:
        ratio = float(given)
    except ValueError:
        return _law_of(Path(os.path.expanduser(str(given))))
    if not (math.isfinite(ratio) and ratio > 0):
        raise UserError(f"--tokens-per-parameter is {shown(given)}; expected a number above 0")
    return Ratio(per_parameter=ratio, source="given")


def _law_of(path: Path) -> LossLaw:
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            f"--tokens-per-parameter is {shown(str(path))}; expected a number, 'chinchilla', or a YAML file "
            "with A, B, alpha and beta"
        )
    reason = f"compute optimum of the law in {path.name}"
    return validation.validate(LossLaw, {**files.read_yaml(path), "reason": reason}, str(path))
