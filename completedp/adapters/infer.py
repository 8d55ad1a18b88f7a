"""The inventory of a model nobody here wrote: each parameter's module type, role and fan-in, or a refusal.

The type comes from the name (`naming`), the role from the type; both are then held against what the code
says: the class that owns the parameter and the dimensions that grew with the width. Where they disagree,
or nothing says, the parameter is refused by its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from completedp.adapters.naming import module_types
from completedp.adapters.observe import Observed, Parameter, observe
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.modules import FUSED, MODULE_TYPES, Inventory, TensorSpec

# A rounded d_ff or head count grows a little otherwise than the width; more is another architecture [C].
LARGEST_ROUNDING = 1.34
# Types that read the residual stream, and those that write to it.
_READ = ("q", "k", "v", "qkv", "ffn_up", "ffn_gate", "gate_up", "unembedding")
_WRITE = ("attention_out", "ffn_down")
# Attributes by which an embedding's code says the factor on its output (Hugging Face's Gemma: √d_model).
EMBEDDING_FACTORS = ("scalar_embed_scale", "embed_scale")
# Attributes by which an attention's code says how many features a head has.
_HEAD_SIZES = ("head_dim", "head_size", "attention_head_size", "d_head", "dim_head")


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A tensor that holds several types along its fan-out: (type, start, stop) in order."""

    name: str
    module_type: str
    dimension: int
    parts: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ExternalInventory:
    """What `inventory_of` found. `whole` has one spec a tensor. `embedding_factor`: the factor that the
    code puts on the embedding's output, over the base's."""

    whole: Inventory
    observed: Observed
    width: int
    base_width: int
    fused: tuple[Fused, ...] = ()
    embedding_factor: float = 1.0

    def for_hparams(self, hparams: HParams) -> Inventory:
        """The specs with fused tensors taken apart where `hparams` names their parts, as `name[part]`."""
        named = {t for by_type in hparams.types.values() for t in by_type}
        apart = {f.name: f for f in self.fused if named & set(FUSED[f.module_type])}
        tensors: list[TensorSpec] = []
        for spec in self.whole:
            if spec.name in apart:
                tensors += [_part(spec, t) for t, _, _ in apart[spec.name].parts]
            else:
                tensors.append(spec)
        return Inventory(
            tensors=tuple(tensors),
            layers=self.whole.layers,
            base_layers=self.whole.base_layers,
            tied=self.whole.tied,
        )


def inventory_of(
    model: nn.Module, base: nn.Module, modules: Sequence[tuple[str, str]] = ()
) -> ExternalInventory:
    """The inventory of `model` as grown from `base`, both of one family; either may be on the meta device.

    `modules`: (pattern, module type) in order, searched in qualified names; the first match wins over the
    table. Raises `UserError` naming every parameter that cannot be classified, and the reason.
    """
    _refuse_post_norm_stream(model)
    observed = observe(model, base)
    types = module_types(observed, modules)
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
            + (f" (of {', '.join(unknown)} no name says the type)" if unknown else "")
            + f", or where the code reads {embedding.name} for them, give it an lm_head with that weight"
        )
    _refuse_growing_heads(model, base, observed)
    if tied != _has_tied(base):
        raise UserError(
            f"the model's unembedding is {'' if tied else 'not '}its embedding, the base's is "
            f"{'not' if tied else 'so'}; expected one family"
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
    return ExternalInventory(
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
        embedding_factor=_factor(embedding.owner) / _factor(_owner_in(base, embedding)),
    )


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Reads one model; `widths` are its own and the base's."""

    observed: Observed
    types: Mapping[str, str | None]
    widths: tuple[int, int]

    @property
    def growth(self) -> float:
        return self.widths[0] / self.widths[1]

    def is_tied(self, embedding: Parameter) -> bool:
        """Whether the unembedding is the embedding. Raises `UserError` for another tied parameter."""
        for p in self.observed.parameters:
            if p.also and p is not embedding:
                raise UserError(
                    f"{p.name} is the same tensor as {', '.join(p.also)}; only an embedding that is also "
                    "the unembedding is known: untie it"
                )
        return bool(embedding.also)

    def spec(self, parameter: Parameter, *, tied: bool) -> TensorSpec:
        module_type = self.types[parameter.name]
        if module_type is None:
            raise UserError(
                f"{parameter.name} ({type(parameter.owner).__name__}, {parameter.shape}): nothing in its "
                "name says its module type"
            )
        role = MODULE_TYPES[module_type]
        if role.endswith("norm"):
            return self._norm(parameter, module_type, role)
        if parameter.is_bias:
            role = "unembedding_bias" if role == "unembedding" else "hidden_bias"
            return TensorSpec(
                name=parameter.name,
                module_type=module_type,
                role=role,
                layer=parameter.layer,
                is_bias=True,
            )
        return self._weight(parameter, module_type, role, tied)

    def _weight(self, p: Parameter, module_type: str, role: str, tied: bool) -> TensorSpec:
        if len(p.shape) != 2:
            raise UserError(
                f"{p.name} has the shape {p.shape}; a weight of type {module_type!r} has two"
            )
        fan_in, base_fan_in = 0, 0
        if role in ("embedding", "position_embedding"):
            self._check_growth(p, module_type, {0: False, 1: True})
        else:
            inner = _fan_in_dimension(p)
            self._check_growth(p, module_type, {inner: True, 1 - inner: role == "hidden_weight"})
            fan_in, base_fan_in = p.shape[inner], p.base_shape[inner]
            side = {**dict.fromkeys(_READ, inner), **dict.fromkeys(_WRITE, 1 - inner)}.get(
                module_type
            )
            if side is not None and (p.shape[side], p.base_shape[side]) != self.widths:
                raise UserError(
                    f"{p.name} is taken for {module_type!r}, but it "
                    f"{'reads' if side == inner else 'writes'} {p.shape[side]} features; expected the width, "
                    f"{self.widths[0]}"
                )
        return TensorSpec(
            name=p.name,
            module_type=module_type,
            role=role,
            layer=p.layer,
            fan_in=fan_in,
            base_fan_in=base_fan_in,
            # Of a tied model: read as an unembedding too, its logits should begin at 1; positions, which
            # are added to it, like it [C].
            base_std=p.base_shape[1] ** -0.5 if tied and role != "hidden_weight" else None,
        )

    def _norm(self, p: Parameter, module_type: str, role: str) -> TensorSpec:
        if len(p.shape) != 1:
            raise UserError(
                f"{p.name} has the shape {p.shape}; a norm's gain or bias has one dimension"
            )
        is_bias, offset = _part_in_norm(p)
        if role == "qk_norm" and p.growth != (1.0,):
            if p.shape[0] not in self._outputs_of_q_and_k(p.layer):
                raise UserError(
                    f"{p.name} goes from {p.base_shape[0]} to {p.shape[0]} features and spans no whole q or "
                    "k; expected heads of one size at every width"
                )
            role = "hidden_norm"  # over all heads: its size goes with the width
        self._check_growth(p, module_type, {0: role != "qk_norm"})
        return TensorSpec(
            name=p.name,
            module_type=module_type,
            role=role,
            layer=p.layer,
            is_bias=is_bias,
            offset=offset,
        )

    def _outputs_of_q_and_k(self, layer: int | None) -> set[int]:
        sizes = set()
        for p in self.observed.parameters:
            if p.layer == layer and not p.is_bias and len(p.shape) == 2:
                if self.types[p.name] in ("q", "k"):
                    sizes.add(p.shape[1 - _fan_in_dimension(p)])
                elif self.types[p.name] == "qkv":
                    sizes |= {stop - start for _, start, stop in self.fused(p).parts}
        return sizes

    def _check_growth(self, p: Parameter, module_type: str, grows: Mapping[int, bool]) -> None:
        """Each dimension grows about as the width, or not at all."""
        for dimension, should in grows.items():
            growth = p.growth[dimension]
            expected = self.growth if should else 1.0
            rounding = max(growth / expected, expected / growth)
            stays = should and growth == 1 != expected
            if stays or rounding > (LARGEST_ROUNDING if should else 1.0):
                raise UserError(
                    f"{p.name} is taken for {module_type!r}, but its dimension {dimension} goes from "
                    f"{p.base_shape[dimension]} to {p.shape[dimension]} where the width grows "
                    f"{self.growth:g}-fold; expected {expected:g}-fold"
                )

    def fused(self, p: Parameter) -> Fused:
        """Where a fused tensor's parts lie: k and v are equal, and q is as long as what the output map
        reads; halves for gate and up."""
        module_type = self.types[p.name]
        assert module_type is not None, "classified before"
        dimension = 0 if p.is_bias else 1 - _fan_in_dimension(p)
        size = p.shape[dimension]
        names = FUSED[module_type]
        if module_type == "qkv":
            outs = [
                o
                for o in self.observed.parameters
                if o.layer == p.layer and self.types[o.name] == "attention_out" and not o.is_bias
            ]
            query = outs[0].shape[_fan_in_dimension(outs[0])] if len(outs) == 1 else size // 3
            lengths = [query, (size - query) // 2, (size - query) // 2]
        else:
            lengths = [size // 2, size // 2]
        if sum(lengths) != size or min(lengths) < 1:
            raise UserError(
                f"{p.name} has {size} outputs, which do not part into {', '.join(names)}; give it another "
                "module type"
            )
        stops = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        return Fused(
            name=p.name,
            module_type=module_type,
            dimension=dimension,
            parts=tuple(
                (t, stop - length, stop)
                for t, stop, length in zip(names, stops, lengths, strict=True)
            ),
        )


def _part(spec: TensorSpec, module_type: str) -> TensorSpec:
    return TensorSpec(
        name=f"{spec.name}[{module_type}]",
        module_type=module_type,
        role=spec.role,
        layer=spec.layer,
        fan_in=spec.fan_in,
        base_fan_in=spec.base_fan_in,
        is_bias=spec.is_bias,
    )


def _fan_in_dimension(p: Parameter) -> int:
    """Which dimension a weight's inputs run along. Raises `UserError` where its owner does not say."""
    if isinstance(p.owner, nn.Linear | nn.MultiheadAttention | nn.Embedding):
        return 1
    if type(p.owner).__name__ == "Conv1D":  # Hugging Face's GPT-2: x @ weight
        return 0
    if p.shape[0] == p.shape[1] and p.base_shape[0] == p.base_shape[1]:
        return 1  # the fan-in is the same either way
    raise UserError(
        f"{p.name} belongs to a {type(p.owner).__name__}; which of its dimensions {p.shape} is the fan-in is "
        "known for nn.Linear, Conv1D and nn.MultiheadAttention: use one of them"
    )


def _part_in_norm(p: Parameter) -> tuple[bool, float]:
    """Whether it is a norm's bias, and what the code adds to a gain: found by running the norm with it at 0
    and at 1, all else at 0. A gain's step goes with the input, a bias's is the same everywhere. Raises
    `UserError` where it is neither."""
    size = p.shape[0]
    x_BTD = torch.linspace(-1.0, 2.0, size + 1, device="cpu")[None, None, :size]
    try:
        with torch.no_grad():
            at_0, at_1 = (_normed(p, x_BTD, value) for value in (0.0, 1.0))
    except Exception as error:  # whatever their code raises
        raise UserError(
            f"{p.name} is taken for a norm's, but its {type(p.owner).__name__} does not run on one row "
            f"of features ({error})"
        ) from None
    step = at_1 - at_0
    if float((step - 1).abs().max()) < 1e-3:
        return True, 0.0
    offset = float((at_0 * step).sum() / step.square().sum())
    rounded = round(offset) if math.isfinite(offset) else 0
    if not abs(offset - rounded) < 1e-3:
        raise UserError(
            f"{p.name} is taken for a norm's gain, but the output of its {type(p.owner).__name__} at gain 0 "
            f"is {offset:.3g} of the step to gain 1; expected 0 (a gain) or 1 (a gain plus one)"
        )
    return False, float(rounded)


def _normed(p: Parameter, x_BTD: Tensor, value: float) -> Tensor:
    values = {
        name: torch.full_like(x_BTD[0, 0], value if name == p.leaf else 0.0)
        for name, _ in p.owner.named_parameters(recurse=False)
    }
    normed_BTD: Tensor = torch.func.functional_call(p.owner, values, (x_BTD,))
    return normed_BTD


def _factor(embedding: nn.Module) -> float:
    """Raises `UserError` where it is a tensor alone, which on the meta device has no value."""
    for name in EMBEDDING_FACTORS:
        value = getattr(embedding, name, None)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, Tensor):
            raise UserError(
                f"the token embedding ({type(embedding).__name__}) has its factor {name} as a tensor; "
                f"expected a number, to be read without values: set {EMBEDDING_FACTORS[0]} to it as well"
            )
    return 1.0


def _refuse_growing_heads(model: nn.Module, base: nn.Module, observed: Observed) -> None:
    """By what the attention's own code says of its heads: q and k as wide as the stream say nothing."""
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
                f"{name} ({type(module).__name__}) normalises the residual stream itself (norm_first=False); "
                "the rules are for a stream that only grows by its branches: use norm_first=True"
            )


def _owner_in(base: nn.Module, p: Parameter) -> nn.Module:
    return base.get_submodule(p.name.rpartition(".")[0])
