"""A configuration file of transformers as data: within bounds, and free of what would load something by its
name.

A model is built here from its sizes alone, in float32 and with initial values of ours. What else a file says
(code of its own, quantisation, where its weights lie, the classes of a classifier) is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp.config import ModelConfig
from completedp.errors import UserError, shown
from completedp.reading import read_object

FILE_NAME = "config.json"
# Every whole number of a configuration, as `ModelConfig.LARGEST` has the largest of them.
LARGEST_WHOLE = 2**31
# By the names that configurations answer to, whatever their own are (GPT-2's n_embd).
LARGEST = {
    "hidden_size": ModelConfig.LARGEST["width"],
    "intermediate_size": ModelConfig.LARGEST["ffn"],
    "n_inner": ModelConfig.LARGEST["ffn"],
    "ffn_dim": ModelConfig.LARGEST["ffn"],
    # Of one feature each, there are as many as the width has features.
    "num_attention_heads": ModelConfig.LARGEST["width"],
    "num_key_value_heads": ModelConfig.LARGEST["width"],
    "head_dim": ModelConfig.LARGEST["width"],
    "vocab_size": ModelConfig.LARGEST["vocab_size"],
    "max_position_embeddings": ModelConfig.LARGEST["context"],
}
_DEPTH = ModelConfig.LARGEST["depth"]
_ATTENTION = ("attn_implementation", "_attn_implementation")
# Others are packages, or kernels of the hub, that transformers loads by this name.
_OWN_ATTENTION = ("eager", "sdpa", "flex_attention")
# A decoder has none; transformers would fetch one by its name.
_FETCHED = ("backbone", "backbone_config")
_LEFT_OUT = frozenset(
    {
        *("auto_map", "custom_pipelines", "configuration_files", "name_or_path"),
        *("quantization_config", "compression_config", "dtype", "torch_dtype"),
        *("experts_implementation", "num_labels", "id2label", "label2id", "problem_type"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What `read` has left of a file. `names_code`: it said where code of its own is, under `auto_map`."""

    path: Path
    content: Mapping[str, Any]
    names_code: bool

    @property
    def model_type(self) -> str:
        """Raises `UserError` where it has none."""
        name = self.content.get("model_type")
        if not isinstance(name, str):
            raise UserError(
                f"{self.path}: not a configuration of transformers (model_type is {shown(name)}); give a "
                f"{FILE_NAME} with its model_type"
            )
        return name

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it."""
        if not self.names_code:
            return ()
        return (
            f"{self.path} names code of its own (auto_map): nothing of it is run, and the model is "
            f"{self.model_type!r} as transformers has it",
        )

    def check_sizes(self, own_names: Mapping[str, str]) -> None:
        """Raises `UserError` for a size beyond every model's. `own_names`: the family's own name of a size,
        by the common one, as `attribute_map` of its class has it."""
        most = LARGEST | {own: LARGEST[name] for name, own in own_names.items() if name in LARGEST}
        for key, value in _whole_numbers(self.content, ()):
            name = next(part for part in reversed(key) if isinstance(part, str))
            largest = _DEPTH if _counts_layers(name) else most.get(name, LARGEST_WHOLE)
            if abs(value) > largest:
                raise UserError(
                    f"{self.path}: {'.'.join(map(str, key))} is {shown(value)}; expected at most {largest:,}"
                )


def read(path: Path, reserved: Collection[str] = ()) -> Configuration:
    """A config.json, or that of the folder, without `reserved` names.

    Raises `UserError` for what is no JSON object within the bounds of `completedp.reading`, and for what
    transformers would load by its name.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{file}: no such file; give a {FILE_NAME} of transformers")
    content = read_object(file)
    names_code = bool(content.get("auto_map"))
    return Configuration(
        path=file, content=_kept(content, file, {*_LEFT_OUT, *reserved}), names_code=names_code
    )


def _kept(value: Any, file: Path, left_out: Collection[str]) -> Any:
    """Without what is left out, at any depth."""
    if isinstance(value, list):
        return [_kept(one, file, left_out) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key in _ATTENTION and inner is not None:
            _check_attention(key, inner, file)
            kept["attn_implementation"] = inner
        elif key in _FETCHED and inner is not None:
            raise UserError(
                f"{file}: {key} is {shown(inner)}, another model by its name; expected a decoder's "
                "configuration"
            )
        elif key not in left_out and not key.startswith("_"):  # transformers' own notes
            kept[key] = _kept(inner, file, left_out)
    return kept


def _check_attention(key: str, name: object, file: Path) -> None:
    if name not in _OWN_ATTENTION:
        raise UserError(
            f"{file}: {key} is {shown(name)}; expected {', '.join(_OWN_ATTENTION)}, or none: others "
            "are loaded by their name"
        )


def _counts_layers(name: str) -> bool:
    """Of any of their kinds (`n_layer`, `num_nextn_predict_layers`): lists are made of so many."""
    return name.endswith(("layer", "layers")) and not name.endswith("per_layer")


def _whole_numbers(
    value: Any, key: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Every whole number with the keys that lead to it."""
    if isinstance(value, dict | list):
        for part, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _whole_numbers(inner, (*key, part))
    elif isinstance(value, int):
        yield key, value
