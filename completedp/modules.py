"""Module types, their roles, and the inventory: one spec per tensor, keyed by its qualified name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from completedp.errors import UserError

# Every module type with the role of its weight: first those of the reference model in forward order, then
# those that only external models have.
MODULE_TYPES: dict[str, str] = {
    "embedding": "embedding",
    "q": "hidden_weight",
    "k": "hidden_weight",
    "v": "hidden_weight",
    "attention_out": "hidden_weight",
    "q_norm": "qk_norm",
    "k_norm": "qk_norm",
    "attention_norm": "hidden_norm",
    "ffn_up": "hidden_weight",
    "ffn_gate": "hidden_weight",
    "ffn_down": "hidden_weight",
    "ffn_norm": "hidden_norm",
    "final_norm": "final_norm",
    "unembedding": "unembedding",
    "position_embedding": "position_embedding",
    "qkv": "hidden_weight",
    "gate_up": "hidden_weight",
    "attention_post_norm": "hidden_norm",
    "ffn_post_norm": "hidden_norm",
    "other": "hidden_weight",
    "other_norm": "hidden_norm",
}
# The module types in a fused tensor, in order along its fan-out.
FUSED: dict[str, tuple[str, ...]] = {"qkv": ("q", "k", "v"), "gate_up": ("ffn_gate", "ffn_up")}
WEIGHT_ROLES = frozenset({"embedding", "position_embedding", "hidden_weight", "unembedding"})
# The last linear map of each residual branch. It takes a folded coefficient unless a norm follows.
BRANCH_ENDS = {"attention": "attention_out", "ffn": "ffn_down"}
BRANCH_POST_NORMS = {"attention": "attention_post_norm", "ffn": "ffn_post_norm"}
BRANCHES = tuple(BRANCH_ENDS)
# The names that DDP, torch.compile, FSDP1 and activation checkpointing put into those of parameters.
WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_name(name: str) -> str:
    """The name of a parameter without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One trainable tensor. `layer` is None outside the stack; the fan-ins are 0 if it is no matrix.

    `role` decides the scaling rule, `module_type` the searched multipliers. A bias has the type of its linear
    map and the role `hidden_bias`; the bias of a norm has the norm's role. `offset` is the number that the
    model's code adds to a norm's gain before use (1 in Gemma). `base_std` replaces the init std at the base.
    """

    name: str
    module_type: str
    role: str
    layer: int | None = None
    fan_in: int = 0
    base_fan_in: int = 0
    is_bias: bool = False
    offset: float = 0.0
    base_std: float | None = None

    @property
    def is_weight(self) -> bool:
        """Weights have a searched init and are decayed; gains and biases are not [C]."""
        return self.role in WEIGHT_ROLES

    @property
    def fan_ratio(self) -> float | None:
        """The tensor's own fan-in ratio, for its variance, lr and λ; None means m_N."""
        return self.fan_in / self.base_fan_in if self.base_fan_in else None

    @property
    def base_init_std(self) -> float | None:
        """Init std at the base, before `init_scale` [C]: 1 for embeddings, otherwise 1/√fan_in_base."""
        if not self.is_weight or self.base_std is not None:
            return self.base_std
        return self.base_fan_in**-0.5 if self.base_fan_in else 1.0

    @property
    def init_value(self) -> float:
        """The value at which a tensor without an init std starts [C]: 1 for gains, 0 for biases."""
        is_gain = self.role.endswith("norm") and not self.is_bias
        return 1.0 - self.offset if is_gain else 0.0


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Every trainable tensor of a model, each exactly once, and the depth of its stack. `tied` says that the
    unembedding is the embedding."""

    tensors: tuple[TensorSpec, ...]
    layers: int
    base_layers: int
    tied: bool = False

    def __post_init__(self) -> None:
        counts = Counter(t.name for t in self.tensors)
        doubled = sorted(name for name, times in counts.items() if times > 1)
        if doubled:
            raise UserError(f"tensors named twice in the inventory: {', '.join(doubled)}")

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.tensors)

    @property
    def module_types(self) -> tuple[str, ...]:
        """The types present, in order of appearance in the model."""
        return tuple(dict.fromkeys(t.module_type for t in self.tensors))


def reference_inventory(
    *,
    width: int,
    ffn: int,
    layers: int,
    base_width: int,
    base_ffn: int,
    base_layers: int,
    gated: bool = True,
    qk_norm: bool = True,
) -> Inventory:
    """The tensors of the reference language model (`completedp.lm.model`) by their qualified names.

    `ffn` is the inner width of the feed-forward; `gated` adds SwiGLU's gate, `qk_norm` the per-head gains.
    """

    def matrix(name: str, module_type: str, layer: int | None, inner: bool = False) -> TensorSpec:
        return TensorSpec(
            name=f"{name}.weight",
            module_type=module_type,
            role=MODULE_TYPES[module_type],
            layer=layer,
            fan_in=ffn if inner else width,
            base_fan_in=base_ffn if inner else base_width,
        )

    def vector(name: str, module_type: str, layer: int | None) -> TensorSpec:
        role = MODULE_TYPES[module_type]
        return TensorSpec(name=f"{name}.weight", module_type=module_type, role=role, layer=layer)

    tensors = [vector("embedding", "embedding", None)]
    for i in range(layers):
        block = f"layers.{i}"
        tensors.append(vector(f"{block}.attention_norm", "attention_norm", i))
        tensors += [matrix(f"{block}.attention.{t}", t, i) for t in ("q", "k", "v")]
        if qk_norm:
            tensors += [vector(f"{block}.attention.{t}", t, i) for t in ("q_norm", "k_norm")]
        tensors.append(matrix(f"{block}.attention.out", "attention_out", i))
        tensors.append(vector(f"{block}.ffn_norm", "ffn_norm", i))
        tensors.append(matrix(f"{block}.ffn.up", "ffn_up", i))
        if gated:
            tensors.append(matrix(f"{block}.ffn.gate", "ffn_gate", i))
        tensors.append(matrix(f"{block}.ffn.down", "ffn_down", i, inner=True))
    tensors.append(vector("final_norm", "final_norm", None))
    tensors.append(matrix("unembedding", "unembedding", None))
    return Inventory(tensors=tuple(tensors), layers=layers, base_layers=base_layers)
