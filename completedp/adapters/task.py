"""Training an external model, as a `TrainFunction` of the run engine.

The loop, the data and the evaluation are the reference model's (`completedp.lm.train`). The model, its values
and its loss are defined here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from completedp import reading
from completedp.adapters.external import build_model, logits_of
from completedp.adapters.parametrized import Parametrized, values_at
from completedp.config import ExternalModel
from completedp.errors import UserError
from completedp.lm.parallel import Loss, compiled_loss
from completedp.lm.train import LanguageModelTask, RunArguments
from completedp.models import content_of
from completedp.reading import Field
from completedp.resolved import Resolved
from completedp.rules import PARAMETERIZATIONS


def _is_size(base: object) -> bool:
    return (
        isinstance(base, Mapping)
        and base.keys() == {"width", "depth"}
        and all(map(reading.is_count, base.values()))
    )


def _are_patterns(pairs: object) -> bool:
    return isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(isinstance(text, str) for text in pair)
        for pair in pairs
    )


_ARGUMENTS: Mapping[str, Field] = {
    "base": Field(
        lambda base: base is None or _is_size(base), "an object with width and depth, or null"
    ),
    "parameterization": reading.one_of(*PARAMETERIZATIONS),
}
_MODEL_FIELDS: Mapping[str, Field] = {
    "modules": Field(_are_patterns, "pairs of a pattern and a module type"),
}


def foreign_model(
    *,
    base: Mapping[str, int] | None = None,
    parameterization: str = "completed-p",
    **arguments: Any,
) -> ExternalModelTask:
    """The factory that a `Job` names. It takes the fields of `RunArguments` as plain JSON types.

    `base` is the width and depth that the rows were carried from by `parameterization`. By default it is the
    model's own size. Raises `UserError` for a run of several processes: only the reference model has them.
    """
    own = {"base": base, "parameterization": parameterization}
    reading.check_fields(own, _ARGUMENTS, (), "arguments")
    described = reading.as_object(arguments.get("model"), "arguments.model")
    reading.check_fields(described, _MODEL_FIELDS, (), "arguments.model")
    run = RunArguments.read(ExternalModel, arguments)
    if run.parallel is not None:
        raise UserError(
            f"several processes can share a run of the reference model only, not of {run.model.source}: "
            "start one, or take the values by completedp.parametrize into a trainer of your own"
        )
    return ExternalModelTask(
        run, run.model if base is None else run.model.scaled(**base), parameterization
    )


class ExternalModelTask(LanguageModelTask):
    """A `LanguageModelTask` of a model whose residual coefficients are folded."""

    model_config: ExternalModel

    def __init__(
        self, run: RunArguments[ExternalModel], base: ExternalModel, parameterization: str
    ) -> None:
        super().__init__(run)
        self._base, self._parameterization = base, parameterization
        self._values: Parametrized | None = None

    @cached_property
    def model(self) -> nn.Module:  # type: ignore[override]
        """The model, on its device. Between calls it holds the last run's weights."""
        return build_model(self.model_config, self.device).to(self.device)

    def set_values(self, resolved: Resolved, seed: int) -> Resolved:
        """Initialize the model, and return the folded values, which its optimizer takes."""
        if self._values is not None:
            self._values.remove_hooks()
        values = self._values = values_at(
            self.model, self.model_config, self._base, resolved, self._parameterization
        )
        values.initialize(seed)
        torch.manual_seed(seed)  # for dropout
        self.model.train()
        return values.resolved

    def clip_gradients(self, threshold: float) -> Tensor:
        """Clip by the norm of the unfolded gradients."""
        assert self._values is not None, "values are set before a step"
        return self._values.clip_grad_norm_(threshold)

    def run_content(self, resolved: Resolved, seed: int) -> dict[str, Any]:
        """The reference model's content, and the arguments that the multipliers depend on."""
        carried = {"base": content_of(self._base), "parameterization": self._parameterization}
        return super().run_content(resolved, seed) | carried

    @torch.no_grad()
    def evaluate(self) -> float:
        """The reference model's evaluation, without dropout."""
        self.model.eval()
        return super().evaluate()

    @cached_property
    def _loss(self) -> Loss:
        def loss(
            tokens_BT: Tensor, target_BT: Tensor, z_loss: float = 0.0
        ) -> tuple[Tensor, Tensor]:
            return mean_loss(logits_of(self.model, tokens_BT), target_BT, z_loss)

        return compiled_loss(loss) if self.train_config.compile else loss


def mean_loss(logits_BTV: Tensor, target_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Mean CE + `z_loss` · (log Z)² over all tokens, and the mean CE alone (detached), in nats."""
    wide = torch.promote_types(logits_BTV.dtype, torch.float32)
    logits_NV = logits_BTV.flatten(0, 1).to(wide)
    ce = F.cross_entropy(logits_NV, target_BT.flatten())
    loss = ce + z_loss * logits_NV.logsumexp(-1).square().mean() if z_loss else ce
    return loss, ce.detach()
