"""Hugging Face's causal language models at another width and depth.

The width of a configuration grows by heads of a fixed head dimension; d_ff / d_model and the number of
query heads to a key-value head stay. Needs transformers (extra `hf`).
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

# Of a model's modules and parameters. A Llama of 1000 layers has 22,000. `inspect` builds two models and
# reads them: where the larger has as many as this, in 7 s of a CPU (a GPT-2 in 12).
MOST_PARTS = 50_000
# Characters of what transformers says, of which a value may be a megabyte.
_LOGGED = 300
# Names that are its code's, and no value of a file: through `attribute_map` a file could have any other value
# read in the place of one that was looked at.
_OF_THE_CODE = frozenset(
    name
    for name in dir(PretrainedConfig)
    if name not in ("model_type", *(field.name for field in fields(PretrainedConfig)))
    and not isinstance(getattr_static(PretrainedConfig, name), property)
)
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
    for name, size in (("hidden_size", width), ("num_hidden_layers", depth)):
        if not (isinstance(size, int) and size > 0):
            raise UserError(f"{name} is {shown(size)}; expected a whole number above 0")
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


def _grown(name: str, size: object, width: int, was: int) -> int:
    if not isinstance(size, int):
        raise UserError(f"{name} is {shown(size)}; expected a whole number")
    if size * width % was:
        raise UserError(
            f"{name} is {size} at width {was}; at width {width} it would be {size * width / was:g}: give a "
            "width at which it is whole"
        )
    return size * width // was


def read_config(path: Path) -> PretrainedConfig:
    """A config.json, or the folder it is in, as `config_of` has it."""
    return config_of(read_file(path))


def read_file(path: Path) -> Configuration:
    """The content of a config.json, or of the folder's. Raises `UserError` as `hf_files.read` does."""
    return hf_files.read(path, _OF_THE_CODE)


def config_of(file: Configuration) -> PretrainedConfig:
    """The configuration of a decoder that transformers itself knows. Nothing that the file names is loaded.

    Raises `UserError` for another, for sizes beyond every model's, and for what the family refuses.
    """
    family = _family(file)
    file.check_sizes(family.attribute_map)
    with TemporaryDirectory() as folder:
        # Through the library's own door, which knows what has been renamed since a file was written.
        (Path(folder) / hf_files.FILE_NAME).write_text(json.dumps(file.content), "utf-8")
        try:
            with _short_logs():
                config: PretrainedConfig = AutoConfig.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except Exception as error:  # whatever the model's own validation raises
            raise UserError(
                f"{file.path}: not a configuration of transformers ({_said(error)}); give one of "
                f"{shown(file.model_type)} that it takes"
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
    """The causal language model of a configuration, with its own initial values.

    Raises `UserError` where transformers builds none, or one of more than `MOST_PARTS`.
    """
    try:
        with _short_logs(), _bounded(), torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    except (torch.OutOfMemoryError, UserError):
        raise  # of the moment, and no mistake in the configuration; of the bound
    except Exception as error:  # whatever the model's own code raises
        raise UserError(
            f"transformers builds no causal language model from {type(config).__name__} "
            f"({type(error).__name__}: {_said(error)}); expected a decoder's configuration"
        ) from None


@contextmanager
def _bounded() -> Iterator[None]:
    """What is built within has at most `MOST_PARTS` modules and parameters."""
    parts = 0

    def count(*_: Any) -> None:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise UserError(
                f"the configuration makes more than {MOST_PARTS:,} modules and parameters; give one of fewer "
                "layers, or experts"
            )

    with (
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count),
    ):
        yield


@contextmanager
def _short_logs() -> Iterator[None]:
    """What transformers logs may hold a whole configuration: of each message the beginning and the end."""

    def shorten(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if len(text) > 2 * _LOGGED:  # what one handler has shortened another leaves
            record.msg, record.args = clipped(text, _LOGGED), None
        return True

    handlers = list(logging.getLogger("transformers").handlers)
    for handler in handlers:
        handler.addFilter(shorten)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(shorten)


def _said(error: Exception) -> str:
    """In one line: what is wrong with a field stands in the second."""
    return clipped(" ".join(str(error).split()), _LOGGED) or type(error).__name__


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
