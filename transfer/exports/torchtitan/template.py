# Text to be copied: `transfer.exports.python_file` puts this docstring, these imports and everything after
# the tables' place into the exported file. This note stays behind.
"""Per-module hyperparameters for torchtitan, as `completedp export --format torchtitan` writes them.

Beside a configuration of one's own, whose model is a dense decoder of the plan's shape without tied
embeddings and with q, k and v apart (fuse_qkv=False), as those of torchtitan.models.qwen3 can be:

    def tuned() -> Trainer.Config:
        return applied(my_config())

`param_group_configs()` is the list of ParamGroupConfig alone.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass, fields
from typing import Any

import torch
from torchtitan.components.checkpointer.utils import canonical_fqn
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import (
    LRSchedulersContainer,
    OptimizersContainer,
    ParamGroupConfig,
)

# --- tables ---
from transfer.exports.torch.template import FOLD, TRAIN, _clip, _groups, _parameters, _row, schedule

CONTEXT: int = 1
VOCABULARY: int = 1
# --- end of tables ---


def applied(config: Any) -> Any:
    """A Trainer.Config with this file's optimizer, schedule, initial values, loss and clipping, in place."""
    config.optimizer = OptimizersContainer.Config(
        param_groups=param_group_configs(),
        implementation=config.optimizer.implementation,
    )
    config.lr_scheduler = Schedule.Config()
    spec = config.model_spec
    spec.model = initialized(spec.model)
    spec.post_optimizer_build_fn = clipped(spec.post_optimizer_build_fn)
    if TRAIN["z_loss"]:
        z_loss = ZLoss.Config(coefficient=TRAIN["z_loss"], global_vocab_size=VOCABULARY)
        if hasattr(config.loss, "loss_fn"):  # in chunks
            config.loss.loss_fn = z_loss
        else:
            config.loss = z_loss
    values = {
        "steps": TRAIN["steps"],
        "max_norm": math.inf,
        "mixed_precision_param": TRAIN["precision"],
        # A batch in tokens, as torchtitan has it after release 0.3, and in sequences, as until then.
        "num_tokens_per_train_step": TRAIN["batch"],
        "max_context_length": CONTEXT,
        "global_batch_size": TRAIN["batch"] // CONTEXT,
        "seq_len": CONTEXT,
    }
    for name in {field.name for field in fields(config.training)} & values.keys():
        setattr(config.training, name, values[name])
    return config


def param_group_configs() -> list[ParamGroupConfig]:
    """A pattern for each set of equal values; together they match every tensor once."""
    return [
        ParamGroupConfig(
            pattern=_pattern(names), optimizer_name="AdamW", optimizer_kwargs=dict(values)
        )
        for values, names in _groups(FOLD)
    ]


def initialized(model: Any) -> Any:
    """The model's configuration, whose model starts from the plan's standard deviations.

    torchtitan's own generator draws, so the numbers are not those of `completedp train`. Raises
    ValueError for a model of other tensors, when it is built.
    """
    base = type(model)

    def build(self: Any, **options: Any) -> Any:
        built = base.build(self, **options)
        for name in _parameters(built):
            path, _, parameter = name.rpartition(".")
            row = _row(name, FOLD)
            if row["init_std"] is None:
                init = functools.partial(torch.nn.init.constant_, val=row["init_value"])
            else:
                init = functools.partial(torch.nn.init.normal_, std=row["init_std"])
            built.get_submodule(path)._param_init = {parameter: init}
        return built

    started = type("Initialized" + base.__name__, (base,), {"__slots__": (), "build": build})
    return started(**{field.name: getattr(model, field.name) for field in fields(model)})


def clipped(before: Any) -> Any:
    """The function that torchtitan calls with its optimizers; from then on they clip before a step."""

    def after_build(optimizers: Any, model_parts: list[torch.nn.Module], dims: Any) -> None:
        if before is not None:
            before(optimizers, model_parts, dims)
        parameters = {
            canonical_fqn(name): parameter
            for part in model_parts
            for name, parameter in part.named_parameters()
        }
        optimizers.register_step_pre_hook(lambda *_: _clip(parameters, FOLD))

    return after_build


class Schedule(LRSchedulersContainer):
    """torchtitan's schedulers with the plan's curve, whose warm-up is a step longer than its own."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        """Its options are not read: the curve is TRAIN's."""

        def build(self, *, optimizers: Any, training_steps: int) -> LRSchedulersContainer:
            """Raises ValueError for options that would be ignored, and for more steps than the plan has."""
            if self != type(self)() or training_steps > TRAIN["steps"]:
                raise ValueError(
                    f"lr_scheduler is {self} for {training_steps} steps; the plan has one schedule for "
                    f"{TRAIN['steps']} steps: export another plan"
                )
            return Schedule(optimizers, schedule)


class ZLoss(CrossEntropyLoss):
    """Cross-entropy and `coefficient` times (log Z)², a sum over tokens as torchtitan's own."""

    @dataclass(kw_only=True, slots=True)
    class Config(CrossEntropyLoss.Config):
        """`coefficient` of (log Z)²."""

        coefficient: float

    def __init__(self, config: Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.coefficient = config.coefficient

    def __call__(
        self,
        pred: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: Any = None,
        **inputs: Any,
    ) -> Any:
        """Raises ValueError where `pred` is a part of the vocabulary: its log Z is unknown here."""
        if pred.shape[-1] != VOCABULARY or type(pred) is not torch.Tensor:
            raise ValueError(
                f"z-loss needs logits of all {VOCABULARY} tokens, got {pred.shape[-1]} in a "
                f"{type(pred).__name__}: use no tensor parallelism, or another model"
            )
        loss, metrics = super().__call__(pred, labels, global_valid_tokens, **inputs)
        log_z = pred.float().logsumexp(-1)[labels != -100]
        penalty = self.coefficient * log_z.square().sum()
        if global_valid_tokens is not None:
            penalty = penalty / global_valid_tokens
        return loss + penalty, metrics


def _pattern(names: list[str]) -> str:
    """Exactly these names, with any wrapper's prefix (activation checkpointing, compile) in them."""
    wrapped = r"\.(?:_[a-z_]+\.)*"
    return f"^(?:{'|'.join(wrapped.join(map(re.escape, name.split('.'))) for name in names)})$"
