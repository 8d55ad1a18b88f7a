"""Hugging Face's causal language models at another width and depth.

A configuration grows in width by more heads of the same head dimension. d_ff / d_model and the number of
query heads per key-value head stay. Needs transformers (extra `hf`).
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from inspect import getattr_static
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
)
from transformers import __version__ as VERSION

from completedp.adapters import hf_files
from completedp.adapters.hf_files import Configuration
from completedp.errors import UserError, clipped, shown

# The most modules and parameters of a model. A Llama of 1000 layers has 22,000. `inspect` builds and reads
# two models. If the larger one has this many parts, a CPU needs 7 s for a Llama and 12 s for a GPT-2.
MOST_PARTS = 50_000
# Characters of a message of transformers. A value in such a message may be a megabyte.
_LONGEST_MESSAGE = 300
# Names in a configuration's class that no file may set. A file that sets `attribute_map` could have another
# value read in the place of a checked one.
_RESERVED = frozenset(
    name
    for name in dir(PretrainedConfig)
    if name not in ("model_type", *(field.name for field in fields(PretrainedConfig)))
    and not isinstance(getattr_static(PretrainedConfig, name), property)
)
# The sizes that grow with the width. Every family's configuration answers to these common names.
_WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "n_inner",  # GPT-2's
    "ffn_dim",  # OPT's
    "num_attention_heads",
    "num_key_value_heads",
)


def config_at(config: PretrainedConfig, *, width: int, depth: int) -> PretrainedConfig:
    """The same family at `width` (hidden_size) and `depth` (num_hidden_layers).

    Raises `UserError` if the configuration lacks one of the two, or if a size would not be a whole number.
    """
    base_width, base_depth = size_of(config)
    scaled = copy.deepcopy(config)
    for name in _WIDTHS:
        size = getattr(config, name, None)
        if size is not None:
            setattr(scaled, name, _scaled(name, size, width, base_width))
    scaled.num_hidden_layers = depth
    for name, values in vars(config).items():
        # A list of one entry per layer: layer_types, no_rope_layers.
        if isinstance(values, list) and len(values) == base_depth:
            setattr(scaled, name, [values[i % base_depth] for i in range(depth)])
    return scaled


def size_of(config: PretrainedConfig) -> tuple[int, int]:
    """The width and depth of a configuration. Raises `UserError` if it has none."""
    width = getattr(config, "hidden_size", None)
    depth = getattr(config, "num_hidden_layers", None)
    if not (width and depth):
        raise UserError(
            f"the configuration {type(config).__name__} has no hidden_size or num_hidden_layers; expected "
            "a decoder's configuration"
        )
    for name, size in (("hidden_size", width), ("num_hidden_layers", depth)):
        if not (isinstance(size, int) and size > 0):
            raise UserError(f"{name} is {shown(size)}; expected a whole number above 0")
    return width, depth


def with_vocabulary(config: PretrainedConfig, size: int) -> PretrainedConfig:
    """The configuration with `size` tokens. Special tokens beyond them are set to None."""
    changed = copy.deepcopy(config)
    changed.vocab_size = size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(changed, name, None)
        if not isinstance(token, int) or token >= size:
            setattr(changed, name, None)
    return changed


def _scaled(name: str, size: object, width: int, base_width: int) -> int:
    if not isinstance(size, int):
        raise UserError(f"{name} is {shown(size)}; expected a whole number")
    if size * width % base_width:
        raise UserError(
            f"{name} is {size} at width {base_width}; at width {width} it would be "
            f"{size * width / base_width:g}: give a width at which it is whole"
        )
    return size * width // base_width


def read_file(path: Path) -> Configuration:
    """The content of the config.json at `path`, a file or its folder. Raises as `hf_files.read` does."""
    return hf_files.read(path, _RESERVED)


def config_of(file: Configuration) -> PretrainedConfig:
    """The configuration of a decoder that is part of transformers. Nothing that the file names is loaded.

    Raises `UserError` for any other family, for sizes beyond every model's, and for values that the family
    refuses.
    """
    family = _family(file)
    file.check_sizes(family.attribute_map)
    with TemporaryDirectory() as folder:
        # AutoConfig knows the names that have changed since a file was written.
        (Path(folder) / hf_files.FILE_NAME).write_text(json.dumps(file.content), "utf-8")
        try:
            with _short_logs():
                config: PretrainedConfig = AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # whatever the model's own validation raises
            raise UserError(
                f"{file.path}: not a configuration of transformers ({_one_line(error)}); give values that "
                f"its {shown(file.model_type)} takes"
            ) from None
    config.name_or_path = str(file.path)
    return config


def _family(file: Configuration) -> type[PretrainedConfig]:
    """The class of a file's configuration."""
    name = file.model_type
    if name not in CONFIG_MAPPING and file.names_code:
        raise UserError(
            f"{file.path}: the configuration names code of its own (auto_map), and transformers {VERSION} "
            f"has no {shown(name)}; hf: runs nothing that a file names: give package.module:factory, a "
            "function of width and depth that returns the model"
        )
    if name not in CONFIG_MAPPING:
        raise UserError(
            f"{file.path}: not a configuration of transformers {VERSION}, which has no model_type "
            f"{shown(name)}; give another, or a later transformers"
        )
    family: type[PretrainedConfig] = CONFIG_MAPPING[name]
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{file.path}: transformers builds no causal language model from {name}; expected a decoder's "
            "configuration"
        )
    return family


def build(
    config: PretrainedConfig, device: str = "meta", dtype: torch.dtype = torch.float32
) -> Any:
    """The causal language model of a configuration, with the initial values of transformers.

    Raises `UserError` if transformers builds none, and for a model of more than `MOST_PARTS` parts.
    """
    try:
        with _short_logs(), _bounded(), torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (torch.OutOfMemoryError, UserError):
        raise  # memory may be free later; the bound has its own message
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"transformers builds no causal language model from {type(config).__name__} "
            f"({type(error).__name__}: {_one_line(error)}); expected a decoder's configuration"
        ) from None


@contextmanager
def _bounded() -> Iterator[None]:
    """Refuses a model of more than `MOST_PARTS` modules and parameters while it is built."""
    parts = 0

    def count(*_: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise UserError(
                f"the configuration makes more than {MOST_PARTS:,} modules and parameters; give one with "
                "fewer layers or experts"
            )

    with (
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ):
        yield


@contextmanager
def _short_logs() -> Iterator[None]:
    """Cuts each logged message in its middle, because it may hold a whole configuration."""

    def shorten(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if len(text) > 2 * _LONGEST_MESSAGE:  # a cut message reaches the next handler's filter
            record.msg, record.args = clipped(text, _LONGEST_MESSAGE), None
        return True

    handlers = list(logging.getLogger("transformers").handlers)
    for handler in handlers:
        handler.addFilter(shorten)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shorten)


def _one_line(error: Exception) -> str:
    """The error's text in one line. Its first line alone would not say what is wrong with a field."""
    return clipped(" ".join(str(error).split()), _LONGEST_MESSAGE) or type(error).__name__


def base_of(model: nn.Module, *, width: int, depth: int) -> nn.Module:
    """The same family as a Hugging Face model, at the base's width and depth, on the meta device.

    Raises `UserError` for any other model.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        raise UserError(
            f"base is not given, and {type(model).__name__} is no Hugging Face model to derive it from; give "
            "the same model at the recipe's width and depth, built on the meta device"
        )
    base: nn.Module = build(config_at(config, width=width, depth=depth))
    return base
