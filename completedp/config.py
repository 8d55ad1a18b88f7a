"""The study configuration: the model, the data, the training, the start values, and the search.

These are plain frozen dataclasses that check themselves. A worker that has only torch and numpy can build
them. `completedp.files` and `completedp.validation` read and write them as YAML.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from completedp.errors import UserError, nearest
from completedp.hparams import GlobalValues
from completedp.kinds import KINDS
from completedp.modules import Inventory, reference_inventory
from completedp.scale import Scale

SCHEMA: Literal[1] = 1  # of every YAML file the project writes: study, recipe, plan
Schedule = Literal["cosine", "wsd", "linear"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The reference decoder's shape: sizes in features, `depth` in layers, `context` in tokens.

    Width grows by heads of a fixed `head_dim`. Raises `UserError` for a shape that cannot be built.
    """

    kind: Literal["reference"] = "reference"
    width: int
    depth: int
    head_dim: int
    ffn: int
    vocab_size: int
    context: int
    queries_per_kv: int = 1
    activation: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: bool = True
    rope_base: float = 10_000.0

    # Far beyond any model, but small enough that every tensor can be listed.
    LARGEST: ClassVar[Mapping[str, int]] = {
        "width": 2**18,
        "depth": 2**12,
        "ffn": 2**22,
        "vocab_size": 2**31,
        "context": 2**31,
    }

    def __post_init__(self) -> None:
        for name, most in self.LARGEST.items():
            if getattr(self, name) > most:
                raise UserError(f"model.{name} is {getattr(self, name)}; expected at most {most}")
        for name in (*self.LARGEST, "head_dim", "queries_per_kv"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; expected 1 or more")
        if not (math.isfinite(self.rope_base) and self.rope_base > 0):
            raise UserError(f"model.rope_base is {self.rope_base}; expected a number above 0")
        if self.head_dim % 2:
            raise UserError(
                f"model.head_dim is {self.head_dim}; rotary embedding needs an even one"
            )
        if self.width % (self.head_dim * self.queries_per_kv):
            raise UserError(
                f"model.width is {self.width}; expected a multiple of head_dim x queries_per_kv = "
                f"{self.head_dim * self.queries_per_kv}"
            )

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def kv_heads(self) -> int:
        return self.heads // self.queries_per_kv

    @property
    def gated(self) -> bool:
        return self.activation == "swiglu"

    def scaled(self, *, width: int, depth: int, ffn_multiple: int = 1) -> ModelConfig:
        """The same family at another width and depth.

        d_ff / d_model stays, except that d_ff is rounded to a multiple of `ffn_multiple`.
        """
        ffn = ffn_multiple * max(1, round(self.ffn * width / self.width / ffn_multiple))
        return dataclasses.replace(self, width=width, depth=depth, ffn=ffn)

    def inventory(self, base: ModelConfig) -> Inventory:
        """The tensors of this model with the fan-ins of `base`."""
        return reference_inventory(
            width=self.width,
            ffn=self.ffn,
            layers=self.depth,
            base_width=base.width,
            base_ffn=base.ffn,
            base_layers=base.depth,
            gated=self.gated,
            qk_norm=self.qk_norm,
        )


@dataclass(frozen=True, kw_only=True)
class ExternalModel:
    """An external model at one width (features) and depth (layers).

    `source` is `hf:CONFIG.json` or `package.module:factory`. `modules` are pairs (pattern, module type) in
    order, and the first match wins. `context` is the length of a training sequence in tokens. Raises
    `UserError` for a size out of range.
    """

    kind: Literal["external"] = "external"
    source: str
    width: int
    depth: int
    vocab_size: int
    context: int
    modules: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        pairs = tuple((pattern, module_type) for pattern, module_type in self.modules)
        object.__setattr__(self, "modules", pairs)  # JSON gives lists
        for name in ("width", "depth", "vocab_size", "context"):
            value = getattr(self, name)
            if not 1 <= value <= ModelConfig.LARGEST[name]:
                raise UserError(
                    f"model.{name} is {value}; expected 1 to {ModelConfig.LARGEST[name]}"
                )

    def scaled(self, *, width: int, depth: int) -> ExternalModel:
        """The same family at another width and depth."""
        return dataclasses.replace(self, width=width, depth=depth)


class _ByKind:
    """Tells the two kinds apart by `kind` when pydantic reads a file. Nothing imports pydantic before."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        choices = {cls.kind: handler.generate_schema(cls) for cls in (ModelConfig, ExternalModel)}
        return core_schema.tagged_union_schema(choices, discriminator=self.tag)

    @staticmethod
    def tag(data: Any) -> Any:
        """The kind in a file. Earlier versions wrote none, but only external models have a source."""
        if not isinstance(data, Mapping):
            return None
        return data.get("kind", "external" if "source" in data else "reference")


Model = Annotated[ModelConfig | ExternalModel, _ByKind()]


Format = Literal["text", "rows", "parquet", "tokens"]
# A file's content by the ending of its name, in any case.
ENDINGS: Mapping[str, Format] = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".py": "text",
    ".text": "text",
    ".jsonl": "rows",
    ".ndjson": "rows",
    ".json": "rows",
    ".parquet": "parquet",
    ".bin": "tokens",
}


def format_of(name: str) -> Format | None:
    """The content of a file of that name. None if the ending does not tell."""
    return ENDINGS.get(PurePath(name).suffix.lower())


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The source of the text and its tokenizer. Raises `UserError` for an empty source.

    `source` is `embedded` (the source text of Python's standard library), `hf:<name>`, or a path to text,
    JSON rows, parquet, token files or a folder of them (docs/data.md). `tokenizer` is `bytes`, or `bpe`,
    which is trained on the train split to the size of the model's vocabulary.
    """

    source: str = "embedded"
    tokenizer: Literal["bytes", "bpe"] = "bytes"

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise UserError(
                f'data.source is {self.source!r} (an unset variable, as in --data "$TEXT"?); expected '
                "'embedded', 'hf:<name>', or a path; '.' is the current folder"
            )

    @property
    def formats(self) -> frozenset[Format]:
        """The formats that the source may hold, by its name. A folder's name does not tell."""
        if self.source == "embedded" or self.source.startswith("hf:"):
            return frozenset({"text"})
        known = format_of(self.source)
        return frozenset(ENDINGS.values()) if known is None else frozenset({known})

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises `UserError` if a text's tokenizer does not have the model's vocabulary."""
        if self.tokenizer == "bytes" and vocab_size != 256:
            raise UserError(
                f"model.vocab_size is {vocab_size}; the bytes tokenizer has exactly 256"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Raises `UserError` for values that cannot be trained with.

    `tokens`, `batch`, `microbatch` and `eval_tokens` are in tokens. `warmup` and `decay` (WSD's tail) are
    fractions of the steps. `final_lr` is a fraction of the peak. `clip` is a threshold on the global gradient
    norm, and 0 means none. It has no published scaling rule, so every scale uses the base's. `loop` is
    `package.module:factory` of the user's own training function, which replaces the built-in loop.
    """

    tokens: int
    batch: int
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    decay: float = 0.2
    final_lr: float = 0.0
    clip: float = 1.0
    z_loss: float = 1e-4
    eval_tokens: int = 65_536
    microbatch: int = 0  # 0: the whole batch at once
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    loop: str | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "batch", "eval_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("warmup", "decay", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"train.{name} is {getattr(self, name)}; expected a fraction in [0, 1]"
                )
        for name in ("clip", "z_loss"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"train.{name} is {value}; expected 0 or more")
        if self.microbatch < 0:
            raise UserError(
                f"train.microbatch is {self.microbatch}; expected 0 (the whole batch at once) or more"
            )
        if self.microbatch and self.batch % self.microbatch:
            raise UserError(
                f"train.microbatch is {self.microbatch}; expected a divisor of train.batch = {self.batch}"
            )
        if self.tokens < self.batch:
            raise UserError(
                f"train.tokens is {self.tokens}; expected at least one batch of {self.batch} tokens"
            )
        if self.loop is not None and not all(self.loop.partition(":")):
            raise UserError(f"train.loop is {self.loop!r}; expected package.module:factory")

    @property
    def steps(self) -> int:
        return self.tokens // self.batch


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The strategy and the bounds of a search. Raises `UserError` for bounds or kinds that do not exist.

    A bound is in octaves to either side: log2 of the multiplier of the preset's value, or of 1-β for a β.
    `global_octaves` bound the global values. `module_octaves` bound the multipliers of a module type and of
    a depth, and kinds with 0 there have none. `frozen` kinds stay at the preset's values. `global_share` is
    the global arm's share of the search trials.
    """

    strategy: str = "trust-region-bo"
    global_share: float = 0.25
    global_octaves: Mapping[str, float] = field(default_factory=dict)
    module_octaves: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    LARGEST_OCTAVES: ClassVar[float] = 32  # 2^32 to either side: beyond any float's use

    def __post_init__(self) -> None:
        if not 0 < self.global_share <= 1:
            raise UserError(
                f"search.global_share is {self.global_share}; expected a share in (0, 1]"
            )
        for part in ("global_octaves", "module_octaves"):
            for kind, octaves in getattr(self, part).items():
                _known_kind(f"search.{part}.{kind}", kind)
                globally = part == "global_octaves"
                if not (0 < octaves <= self.LARGEST_OCTAVES or (octaves == 0 and not globally)):
                    expected = (
                        "octaves above 0" if globally else "0 (no multipliers) or more octaves"
                    )
                    raise UserError(
                        f"search.{part}.{kind} is {octaves}; expected {expected}, at most "
                        f"{self.LARGEST_OCTAVES}"
                    )
        # The bounds in force are part of the study. A later version may have other defaults.
        for i, part in enumerate(("global_octaves", "module_octaves")):
            defaults = {name: kind.octaves[i] for name, kind in KINDS.items()}
            bounds = {**defaults, **getattr(self, part)}
            object.__setattr__(self, part, {kind: float(o) for kind, o in bounds.items()})
        for kind in self.frozen:
            _known_kind("search.frozen", kind)
        if set(self.frozen) >= set(KINDS):
            raise UserError("search.frozen names every kind; leave at least one to search")

    def octaves(self, part: Literal["global", "module"], kind: str) -> float:
        """The bound in force for a kind, in octaves."""
        return (self.global_octaves if part == "global" else self.module_octaves)[kind]


def without_stopping(data: Any) -> Any:
    """The content of a study configuration without `search.stopping`.

    Earlier versions wrote it. Trials are no longer stopped early.
    """
    search = data.get("search") if isinstance(data, dict) else None
    if not isinstance(search, dict) or "stopping" not in search:
        return data
    return {**data, "search": {key: value for key, value in search.items() if key != "stopping"}}


def _known_kind(path: str, kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f"{path}: unknown kind {kind!r}{nearest(kind, KINDS)}")


def check_together(model: Model, data: DataConfig, train: TrainConfig) -> None:
    """Raises `UserError`, naming the key, if the model, the data and the training do not fit together."""
    for name in ("batch", "microbatch", "eval_tokens"):
        if getattr(train, name) % model.context:
            raise UserError(
                f"train.{name} is {getattr(train, name)}; expected a multiple of "
                f"model.context = {model.context}"
            )
    # Token files have any vocabulary, and a folder may hold some: `prepare` checks. The user's own loop reads
    # its own data.
    if "tokens" not in data.formats and train.loop is None:
        data.check_vocabulary(model.vocab_size)


def scale_of(model: Model, train: TrainConfig) -> Scale:
    """The scale of a training: width and depth of the model, batch and tokens of the run."""
    return Scale(width=model.width, depth=model.depth, batch=train.batch, tokens=train.tokens)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The content of a preset file, and of a study's `study.yaml`.

    Raises `UserError` if the model, the data and the training do not fit together.
    """

    model: Model
    data: DataConfig
    train: TrainConfig
    values: GlobalValues
    search: SearchConfig = field(default_factory=SearchConfig)
    schema: Literal[1] = SCHEMA

    def __post_init__(self) -> None:
        check_together(self.model, self.data, self.train)

    @property
    def scale(self) -> Scale:
        """The base scale of the recipe that the search finds."""
        return scale_of(self.model, self.train)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types, in their order."""
        return dataclasses.asdict(self)
