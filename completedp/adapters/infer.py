"""The inventory of an external model: each parameter's module type, role and fan-in, or a refusal.

The type comes from the name (`naming`), and the role from the type. Both are checked against the model's
code: the class that owns the parameter, the dimensions that grew with the width, and the order in which the
modules run. If they disagree, or if neither says enough, the parameter is refused by its name.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from completedp.adapters.naming import module_types
from completedp.adapters.norms import bias_or_offset
from completedp.adapters.observe import Observed, Parameter, observe
from completedp.adapters.order import as_run
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.modules import (
    BRANCH_ENDS,
    BRANCH_POST_NORMS,
    FUSED,
    MODULE_TYPES,
    Inventory,
    TensorSpec,
)

# A rounded d_ff or head count grows by a slightly different factor than the width. A larger difference is
# another architecture [C].
LARGEST_ROUNDING = 1.34
# The types that read the residual stream, and the types that write to it.
_STREAM_READERS = ("q", "k", "v", "qkv", "ffn_up", "ffn_gate", "gate_up", "unembedding")
_STREAM_WRITERS = ("attention_out", "ffn_down")
# Attributes that hold the factor on an embedding's output (√d_model in Hugging Face's Gemma).
EMBEDDING_FACTORS = ("scalar_embed_scale", "embed_scale")
# Attributes that hold the number of features of an attention head.
_HEAD_SIZES = ("head_dim", "head_size", "attention_head_size", "d_head", "dim_head")


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A tensor that holds several types along its fan-out. `parts` are (type, start, stop) in order."""

    name: str
    module_type: str
    dimension: int
    parts: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ExternalInventory:
    """The result of `inventory_of`. `whole` has one spec a tensor. `embedding_factor` is the factor that the
    model's code puts on the embedding's output, divided by the base's factor."""

    whole: Inventory
    observed: Observed
    width: int
    base_width: int
    fused: tuple[Fused, ...] = ()
    embedding_factor: float = 1.0

    def branch_end(self, branch: str, layer: int) -> list[TensorSpec]:
        """The tensors that take the coefficient of a layer's branch: a weight or gain, and its bias."""
        for module_type in (BRANCH_POST_NORMS[branch], BRANCH_ENDS[branch]):
            if specs := [s for s in self.whole if (s.module_type, s.layer) == (module_type, layer)]:
                return specs
        return []

    @property
    def logits_end(self) -> list[TensorSpec]:
        """The tensors that take the multiplier on the logits: the final norm's if the unembedding is tied,
        because that matrix is the embedding as well."""
        wanted = "final_norm" if self.whole.tied else "unembedding"
        return [s for s in self.whole if s.module_type == wanted]

    def for_hparams(self, hparams: HParams) -> Inventory:
        """The specs for `hparams`. If it names parts of a fused tensor, each part has a spec `name[part]`."""
        named = {t for by_type in hparams.types.values() for t in by_type}
        split = {f.name: f.parts for f in self.fused if named & set(FUSED[f.module_type])}
        tensors: list[TensorSpec] = []
        for spec in self.whole:
            parts = [
                dataclasses.replace(spec, name=f"{spec.name}[{t}]", module_type=t)
                for t, _, _ in split.get(spec.name, ())
            ]
            tensors += parts or [spec]
        return dataclasses.replace(self.whole, tensors=tuple(tensors))


def inventory_of(
    model: nn.Module, base: nn.Module, modules: Sequence[tuple[str, str]] = ()
) -> ExternalInventory:
    """The inventory of `model` as grown from `base`, a model of the same family. Either may be on the meta
    device.

    `modules` are pairs (pattern, module type) in order, searched in qualified names. The first match wins,
    also over the table of names. Raises `UserError` with the parameters that cannot be classified, and why.
    """
    _refuse_post_norm_stream(model)
    observed = observe(model, base)
    types = as_run(observed, module_types(observed, modules), base)
    embeddings = [p for p in observed.parameters if types[p.name] == "embedding"]
    if len(embeddings) != 1:
        found = ", ".join(p.name for p in embeddings) or "none"
        raise UserError(
            f"token embeddings in the model: {found}; expected one: name it by a pattern for 'embedding'"
        )
    embedding = embeddings[0]
    width, base_width = embedding.shape[-1], embedding.base_shape[-1]
    reader = _Reader(observed=observed, types=types, widths=(width, base_width))
    tied = reader.is_tied(embedding)
    if not tied and "unembedding" not in types.values():
        unknown = [p.name for p in observed.parameters if p.layer is None and types[p.name] is None]
        raise UserError(
            "no parameter of the model makes its logits; name it by a pattern for 'unembedding'"
            + (f" (no name says the type of {', '.join(unknown)})" if unknown else "")
            + f". If the code reads {embedding.name} for them, give it an lm_head with that weight"
        )
    _refuse_growing_heads(model, base, observed)
    if tied != _has_tied(base):
        raise UserError(
            f"the unembedding is the embedding in the {'model' if tied else 'base'} only; expected one family"
        )
    specs: list[TensorSpec] = []
    refused: list[str] = []
    for parameter in observed.parameters:
        try:
            specs.append(reader.spec(parameter, tied=tied))
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError(
            "; ".join(refused[:6])
            + (f"; and {len(refused) - 6} more" if len(refused) > 6 else "")
            + ". Correct a type by an ordered list of (pattern, module type)"
        )
    inventory = ExternalInventory(
        whole=Inventory(
            tensors=tuple(specs),
            layers=observed.layers,
            base_layers=observed.base_layers,
            tied=tied,
        ),
        observed=observed,
        width=width,
        base_width=base_width,
        fused=tuple(reader.fused(p) for p in observed.parameters if types[p.name] in FUSED),
        embedding_factor=_factor(embedding.owner)
        / _factor(base.get_submodule(embedding.name.rpartition(".")[0])),
    )
    _check_ends(inventory)
    return inventory


def _check_ends(found: ExternalInventory) -> None:
    """Every coefficient has one weight or gain that takes it. Raises `UserError` otherwise."""
    for branch in BRANCH_ENDS:
        for layer in range(found.whole.layers):
            end = f"layer {layer} has {{}} tensors that would be the last linear map of its {branch} branch"
            _check_one(found.branch_end(branch, layer), end)
    if found.whole.tied:
        end = "the model has {} tensors that would be its final_norm, for the logits"
        way_out = ", untie the unembedding, or give the final norm a gain"
    else:
        end, way_out = "the model has {} tensors that would be its unembedding, for the logits", ""
    _check_one(found.logits_end, end, way_out)


def _check_one(specs: Sequence[TensorSpec], end: str, way_out: str = "") -> None:
    weights = [s.name for s in specs if not s.is_bias]
    if len(weights) != 1:
        names = f" ({', '.join(weights)})" if weights else ""
        raise UserError(
            f"{end.format(len(weights))}{names}; expected one that trains: correct the types by patterns"
            f"{way_out}"
        )


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Reads one model. `widths` are the model's and the base's."""

    observed: Observed
    types: Mapping[str, str | None]
    widths: tuple[int, int]

    @property
    def growth(self) -> float:
        return self.widths[0] / self.widths[1]

    def is_tied(self, embedding: Parameter) -> bool:
        """Whether the unembedding is the embedding. Raises `UserError` for any other tied parameter."""
        for p in self.observed.parameters:
            if p.also and p is not embedding:
                raise UserError(
                    f"{p.name} is the same tensor as {', '.join(p.also)}; expected no tied "
                    "tensors but the embedding and the unembedding: untie it"
                )
        return bool(embedding.also)

    def spec(self, p: Parameter, *, tied: bool) -> TensorSpec:
        """The spec of a parameter. Raises `UserError` if it cannot be classified."""
        module_type = self.types[p.name]
        if module_type is None:
            raise UserError(
                f"{p.name} ({type(p.owner).__name__}, {p.shape}): nothing in its name says its module type"
            )
        role = MODULE_TYPES[module_type]
        spec = TensorSpec(name=p.name, module_type=module_type, role=role, layer=p.layer)
        if role.endswith("norm"):
            return self._norm(p, spec)
        if p.is_bias:
            role = "unembedding_bias" if role == "unembedding" else "hidden_bias"
            return dataclasses.replace(spec, role=role, is_bias=True)
        return self._weight(p, spec, tied)

    def _weight(self, p: Parameter, spec: TensorSpec, tied: bool) -> TensorSpec:
        if len(p.shape) != 2:
            raise UserError(
                f"{p.name} has the shape {p.shape}; a weight of type {spec.module_type!r} has two dimensions"
            )
        fan_in, base_fan_in = 0, 0
        is_hidden = spec.role == "hidden_weight"
        if is_hidden or spec.role == "unembedding":
            inner = _fan_in_dimension(p)
            self._check_growth(p, {inner: True, 1 - inner: is_hidden})
            self._check_stream(p, inner)
            if spec.module_type in FUSED:
                self._check_parts(p)
            fan_in, base_fan_in = p.shape[inner], p.base_shape[inner]
        else:
            self._check_growth(p, {0: False, 1: True})
        return dataclasses.replace(
            spec,
            fan_in=fan_in,
            base_fan_in=base_fan_in,
            # A tied embedding is an unembedding too, so its logits should begin at 1. The positions are
            # added to it, so they begin like it [C].
            base_std=p.base_shape[1] ** -0.5 if tied and not is_hidden else None,
        )

    def _check_stream(self, p: Parameter, inner: int) -> None:
        """A map that reads or writes the residual stream has the width on that side."""
        for verb, types, side in (
            ("reads", _STREAM_READERS, inner),
            ("writes", _STREAM_WRITERS, 1 - inner),
        ):
            sizes = (p.shape[side], p.base_shape[side])
            if self.types[p.name] in types and sizes != self.widths:
                raise UserError(
                    f"{p.name} is taken for {self.types[p.name]!r}, but it {verb} {p.shape[side]} features; "
                    f"expected the width, {self.widths[0]}"
                )

    def _norm(self, p: Parameter, spec: TensorSpec) -> TensorSpec:
        if len(p.shape) != 1:
            raise UserError(
                f"{p.name} has the shape {p.shape}; a norm's gain or bias has one dimension"
            )
        is_bias, offset = bias_or_offset(p)
        role = spec.role
        if role == "qk_norm" and p.growth != (1.0,):
            if p.shape[0] not in self._outputs_of_q_and_k(p.layer):
                raise UserError(
                    f"{p.name} goes from {p.base_shape[0]} to {p.shape[0]} features and spans no whole q or "
                    "k; expected heads of one size at every width"
                )
            role = "hidden_norm"  # it spans all heads, so its size grows with the width
        self._check_growth(p, {0: role != "qk_norm"})
        return dataclasses.replace(spec, role=role, is_bias=is_bias, offset=offset)

    def _outputs_of_q_and_k(self, layer: int | None) -> set[int]:
        """The sizes that the queries and keys of a layer have over all heads."""
        sizes = set()
        for p in self.observed.parameters:
            if p.layer == layer and not p.is_bias and len(p.shape) == 2:
                if self.types[p.name] in ("q", "k"):
                    sizes.add(p.shape[1 - _fan_in_dimension(p)])
                elif self.types[p.name] == "qkv":
                    sizes |= {stop - start for _, start, stop in self.fused(p).parts}
        return sizes

    def _check_growth(self, p: Parameter, grows: Mapping[int, bool]) -> None:
        """Each dimension grows about as much as the width, or not at all."""
        for dimension, should in grows.items():
            sizes = p.shape[dimension], p.base_shape[dimension]
            self._check_size(p, f"dimension {dimension}", sizes, should)

    def _check_parts(self, p: Parameter) -> None:
        """Each part of a fused tensor grows. In the whole, a few rows that do not grow would be lost."""
        sizes = zip(self._lengths(p), self._lengths(p, of_base=True), strict=True)
        for part, both in zip(FUSED[str(self.types[p.name])], sizes, strict=True):
            self._check_size(p, f"part {part}", both, should=True)

    def _check_size(self, p: Parameter, what: str, sizes: tuple[int, int], should: bool) -> None:
        """A size of the model and of the base: it grows about as much as the width, or not at all."""
        growth = sizes[0] / sizes[1]
        expected = self.growth if should else 1.0
        rounding = max(growth / expected, expected / growth)
        stays = should and growth == 1 != expected
        if stays or rounding > (LARGEST_ROUNDING if should else 1.0):
            raise UserError(
                f"{p.name} is taken for {self.types[p.name]!r}, but its {what} goes from {sizes[1]} to "
                f"{sizes[0]} while the width grows {self.growth:g}-fold; expected {expected:g}-fold"
            )

    def fused(self, p: Parameter) -> Fused:
        """The parts of a fused tensor. Gate and up are its halves. k and v have one length, and q has the
        length that the attention's output map reads."""
        module_type = self.types[p.name]
        assert module_type is not None, "classified before"
        edges = (0, *itertools.accumulate(self._lengths(p)))
        ranges = zip(FUSED[module_type], itertools.pairwise(edges), strict=True)
        parts = tuple((t, start, stop) for t, (start, stop) in ranges)
        return Fused(
            name=p.name, module_type=module_type, dimension=_fan_out_dimension(p), parts=parts
        )

    def _lengths(self, p: Parameter, *, of_base: bool = False) -> list[int]:
        """The outputs of each part of a fused tensor, in the model or in the base."""

        def shape(parameter: Parameter) -> tuple[int, ...]:
            return parameter.base_shape if of_base else parameter.shape

        names = FUSED[str(self.types[p.name])]
        size = shape(p)[_fan_out_dimension(p)]
        if self.types[p.name] == "qkv":
            outs = [
                o
                for o in self.observed.parameters
                if o.layer == p.layer and self.types[o.name] == "attention_out" and not o.is_bias
            ]
            one_out = len(outs) == 1
            query = shape(outs[0])[_fan_in_dimension(outs[0])] if one_out else size // 3
            lengths = [query, *[(size - query) // 2] * 2]
        else:
            lengths = [size // 2] * 2
        if sum(lengths) != size or min(lengths) < 1:
            raise UserError(
                f"{p.name} has {size} outputs, which do not split into {', '.join(names)}; give it another "
                "module type"
            )
        return lengths


def _fan_out_dimension(p: Parameter) -> int:
    return 0 if p.is_bias else 1 - _fan_in_dimension(p)


def _fan_in_dimension(p: Parameter) -> int:
    """The dimension of a weight's inputs. Raises `UserError` if the class of its owner does not say."""
    if isinstance(p.owner, nn.Linear | nn.MultiheadAttention | nn.Embedding):
        return 1
    if type(p.owner).__name__ == "Conv1D":  # Hugging Face's GPT-2: x @ weight
        return 0
    if p.shape[0] == p.shape[1] and p.base_shape[0] == p.base_shape[1]:
        return 1  # the fan-in is the same either way
    raise UserError(
        f"{p.name} belongs to a {type(p.owner).__name__}, which does not say which of its dimensions "
        f"{p.shape} is the fan-in; use nn.Linear, Conv1D or nn.MultiheadAttention"
    )


def _factor(embedding: nn.Module) -> float:
    """The factor on an embedding's output. Raises `UserError` if only a tensor holds it, because a tensor on
    the meta device has no value."""
    for name in EMBEDDING_FACTORS:
        value = getattr(embedding, name, None)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, Tensor):
            raise UserError(
                f"the token embedding ({type(embedding).__name__}) has its factor {name} as a tensor; "
                f"expected a number, which can be read on the meta device: set {EMBEDDING_FACTORS[0]} to it"
            )
    return 1.0


def _refuse_growing_heads(model: nn.Module, base: nn.Module, observed: Observed) -> None:
    """The attention's attribute decides, because q and k may be as wide as the stream at any head size."""
    layers = (m.get_submodule(f"{observed.stack}.0") for m in (model, base))
    heads, base_heads = (dict(_head_sizes(layer)) for layer in layers)
    for name in heads.keys() & base_heads.keys():
        if heads[name] != base_heads[name]:
            raise UserError(
                f"{observed.stack}.0.{name}: its heads go from {base_heads[name]:g} to {heads[name]:g} "
                "features; the rules hold for heads of one size at every width: grow their number"
            )


def _head_sizes(layer: nn.Module) -> Iterator[tuple[str, float]]:
    for name, module in layer.named_modules():
        for attribute in _HEAD_SIZES:
            if isinstance(size := getattr(module, attribute, None), int):
                yield name, size
                break


def _has_tied(model: nn.Module) -> bool:
    names = list(model.named_parameters(remove_duplicate=False))
    return len(names) > len({id(p) for _, p in names})


def _refuse_post_norm_stream(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if getattr(module, "norm_first", True) is False:
            raise UserError(
                f"{name} ({type(module).__name__}) normalizes the residual stream itself (norm_first=False); "
                "the rules hold for a stream that only its branches change: use norm_first=True"
            )
