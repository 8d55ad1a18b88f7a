"""Hugging Face's causal language models at another width and depth, and an audit inside its Trainer.

The width of a configuration grows by heads of a fixed head dimension; d_ff / d_model and the number of
query heads to a key-value head stay. Needs transformers (extra `hf`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    TrainerCallback,
)

from completedp.auditing import Planned, audit
from completedp.errors import UserError, first_line

# Configurations answer to these names whatever their own are (GPT-2's n_embd).
_GROW = (
    "hidden_size",
    "intermediate_size",
    "n_inner",  # GPT-2's
    "ffn_dim",  # OPT's
    "num_attention_heads",
    "num_key_value_heads",
)


def config_at(config: PretrainedConfig, *, width: int, depth: int) -> PretrainedConfig:
    """The same family at `width` (hidden_size) and `depth` (num_hidden_layers).

    Raises `UserError` where a size does not come out whole, or the configuration has none of these names.
    """
    was = size_of(config)[1]
    at = copy.deepcopy(config)
    for name in _GROW:
        size = getattr(config, name, None)
        if size is not None:
            setattr(at, name, _grown(name, size, width, config.hidden_size))
    at.num_hidden_layers = depth
    for name, values in vars(config).items():
        if (
            isinstance(values, list) and len(values) == was
        ):  # one a layer: layer_types, no_rope_layers
            setattr(at, name, [values[i % was] for i in range(depth)])
    return at


def size_of(config: PretrainedConfig) -> tuple[int, int]:
    """Its width and depth. Raises `UserError` where it has none."""
    width = getattr(config, "hidden_size", None)
    depth = getattr(config, "num_hidden_layers", None)
    if not (width and depth):
        raise UserError(
            f"the configuration {type(config).__name__} has no hidden_size or num_hidden_layers; expected "
            "that of a decoder"
        )
    return width, depth


def with_vocabulary(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The configuration with `size` tokens; special tokens beyond them are none."""
    changed = copy.deepcopy(config)
    changed.vocab_size = size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(changed, name, None)
        if not isinstance(token, int) or token >= size:
            setattr(changed, name, None)
    return changed


def _grown(name: str, size: int, width: int, was: int) -> int:
    if size * width % was:
        raise UserError(
            f"{name} is {size} at width {was}; at width {width} it would be {size * width / was:g}: give a "
            "width at which it is whole"
        )
    return size * width // was


def read_config(path: Path) -> PretrainedConfig:
    """A config.json, or the folder it is in. Raises `UserError` where that is none."""
    if not path.exists():
        raise UserError(f"{path}: no such file; give a config.json of transformers")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # whatever the model's own validation raises
        raise UserError(
            f"{path}: not a configuration of transformers ({first_line(error)}); give a "
            "config.json with its model_type"
        ) from None
    return config


def build(
    config: PretrainedConfig, device: str = "meta", dtype: torch.dtype = torch.float32
) -> Any:
    """The causal language model of a configuration, with its own initial values."""
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    except torch.OutOfMemoryError:
        raise  # of the moment, and no mistake in the configuration
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"transformers builds no causal language model from {type(config).__name__} "
            f"({type(error).__name__}: {first_line(error):.200}); expected a decoder's "
            "configuration"
        ) from None


def base_of(model: nn.Module, *, width: int, depth: int) -> nn.Module:
    """A Hugging Face model's own family at the base's scale, on the meta device."""
    config = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        raise UserError(
            f"base is not given, and {type(model).__name__} is no Hugging Face model to derive it from; give "
            "the same model at the recipe's width and depth, built on the meta device"
        )
    base: nn.Module = build(config_at(config, width=width, depth=depth))
    return base


class AuditCallback(TrainerCallback):  # type: ignore[misc]
    """Audits a Trainer's optimizer after its scheduler's first step; ends the training on a difference."""

    def __init__(self, plan: Planned) -> None:
        self.plan = plan
        self.done = False

    def on_step_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **others: Any,
    ) -> None:
        if self.done:
            return
        assert model is not None, "the Trainer gives its model"
        assert optimizer is not None, "the Trainer gives its optimizer"
        # A schedule still at 0 shows no learning rate, as after a first step that fp16 skipped.
        if not any(group["lr"] for group in optimizer.param_groups):
            return
        audit(model, optimizer, self.plan).check()
        self.done = True
