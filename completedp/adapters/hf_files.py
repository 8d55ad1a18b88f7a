"""A configuration file of transformers as data: within bounds, and free of names that would load something.

The adapters build a model from its sizes alone, in float32 and with their own initial values. All else in the
file is left out: names of code, quantization, the place of the weights, the classes of a classifier.
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
# The bound of every whole number in a configuration; the largest bound in `ModelConfig.LARGEST`.
LARGEST_WHOLE = 2**31
# Bounds by the common names. Every family's configuration answers to them, whatever its own names are
# (GPT-2's n_embd is hidden_size).
LARGEST = {
    "hidden_size": ModelConfig.LARGEST["width"],
    "intermediate_size": ModelConfig.LARGEST["ffn"],
    "n_inner": ModelConfig.LARGEST["ffn"],
    "ffn_dim": ModelConfig.LARGEST["ffn"],
    # Heads of one feature each are as many as the width has features.
    "num_attention_heads": ModelConfig.LARGEST["width"],
    "num_key_value_heads": ModelConfig.LARGEST["width"],
    "head_dim": ModelConfig.LARGEST["width"],
    "vocab_size": ModelConfig.LARGEST["vocab_size"],
    "max_position_embeddings": ModelConfig.LARGEST["context"],
}
_DEPTH = ModelConfig.LARGEST["depth"]
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")
# Any other name is a package, or a kernel of the hub, which transformers would load.
_BUILT_IN_ATTENTION = ("eager", "sdpa", "flex_attention")
# A decoder has no backbone; transformers would fetch one by its name.
_BACKBONE_KEYS = ("backbone", "backbone_config")
_LEFT_OUT = frozenset(
    {
        *("auto_map", "custom_pipelines", "configuration_files", "name_or_path"),
        *("quantization_config", "compression_config", "dtype", "torch_dtype"),
        *("experts_implementation", "num_labels", "id2label", "label2id", "problem_type"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The content that `read` keeps of a file. `names_code` says that the file names code (`auto_map`)."""

    path: Path
    content: Mapping[str, Any]
    names_code: bool

    @property
    def model_type(self) -> str:
        """The family's name. Raises `UserError` if the file has none."""
        name = self.content.get("model_type")
        if not isinstance(name, str):
            raise UserError(
                f"{self.path}: not a configuration of transformers (model_type is {shown(name)}); give a "
                f"{FILE_NAME} with its model_type"
            )
        return name

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user."""
        if not self.names_code:
            return ()
        return (
            f"{self.path} names code of its own (auto_map): none of it is run, and the model is "
            f"{self.model_type!r} as transformers has it",
        )

    def check_sizes(self, own_names: Mapping[str, str]) -> None:
        """Raises `UserError` for a size beyond every model's.

        `own_names` maps a common name to the family's own, as the `attribute_map` of its class does.
        """
        bounds = LARGEST | {
            own: LARGEST[name] for name, own in own_names.items() if name in LARGEST
        }
        for key, value in _whole_numbers(self.content, ()):
            name = next(part for part in reversed(key) if isinstance(part, str))
            largest = _DEPTH if _counts_layers(name) else bounds.get(name, LARGEST_WHOLE)
            if abs(value) > largest:
                raise UserError(
                    f"{self.path}: {'.'.join(map(str, key))} is {shown(value)}; expected at most {largest:,}"
                )


def read(path: Path, reserved: Collection[str] = ()) -> Configuration:
    """The config.json at `path`, a file or its folder, without `reserved` names.

    Raises `UserError` for anything but a JSON object within the bounds of `completedp.reading`, and for the
    name of something that transformers would load.
    """
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{file}: no such file; give a {FILE_NAME} of transformers")
    content = read_object(file)
    return Configuration(
        path=file,
        content=_filtered(content, file, {*_LEFT_OUT, *reserved}),
        names_code=bool(content.get("auto_map")),
    )


def _filtered(value: Any, file: Path, left_out: Collection[str]) -> Any:
    """The value without the names in `left_out`, at any depth."""
    if isinstance(value, list):
        return [_filtered(one, file, left_out) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        if key in _ATTENTION_KEYS and inner is not None:
            if inner not in _BUILT_IN_ATTENTION:
                raise UserError(
                    f"{file}: {key} is {shown(inner)}; expected {', '.join(_BUILT_IN_ATTENTION)}, or none: "
                    "transformers loads others by their name"
                )
            kept["attn_implementation"] = inner
        elif key in _BACKBONE_KEYS and inner is not None:
            raise UserError(
                f"{file}: {key} is {shown(inner)}, another model by its name; expected a decoder's "
                "configuration"
            )
        elif key not in left_out and not key.startswith("_"):  # transformers' own notes
            kept[key] = _filtered(inner, file, left_out)
    return kept


def _counts_layers(name: str) -> bool:
    """Whether a name counts layers of any kind (`n_layer`, `num_nextn_predict_layers`). transformers makes
    lists of that length."""
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
