"""Exact parameters and matrix-product FLOPs of the reference model, from its shape alone.

`completedp.models` has the counts for either kind of model.

A multiply-accumulate is 2 FLOPs. Attention is counted whole, causality not halving it, as
`torch.utils.flop_counter` does. Norms, activations, rotations, the softmax and the optimizer are left
out: at the sizes of use they are below a hundredth. Work done twice to save memory is not counted.
"""

from __future__ import annotations

import math

from completedp.config import Model, ModelConfig

# Backward makes two products for each of forward: the gradients of the input and of the weight.
_TRAINING_PER_FORWARD = 3
_FLOPS_PER_MAC = 2


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every trainable tensor's shape by its qualified name, in the order of the inventory."""
    kv_width = model.kv_heads * model.head_dim
    by_type: dict[str, tuple[int, ...]] = {
        "embedding": (model.vocab_size, model.width),
        "q": (model.width, model.width),
        "k": (kv_width, model.width),
        "v": (kv_width, model.width),
        "attention_out": (model.width, model.width),
        "q_norm": (model.head_dim,),
        "k_norm": (model.head_dim,),
        "attention_norm": (model.width,),
        "ffn_up": (model.ffn, model.width),
        "ffn_gate": (model.ffn, model.width),
        "ffn_down": (model.width, model.ffn),
        "ffn_norm": (model.width,),
        "final_norm": (model.width,),
        "unembedding": (model.vocab_size, model.width),
    }
    return {spec.name: by_type[spec.module_type] for spec in model.inventory(model)}


def parameters(model: ModelConfig) -> dict[str, int]:
    """Every trainable tensor's number of elements, by its qualified name."""
    return {name: math.prod(shape) for name, shape in shapes(model).items()}


def forward_flops(model: ModelConfig, tokens: int) -> dict[str, int]:
    """FLOPs of a forward pass over `tokens` tokens in sequences of `model.context`, by part.

    The parts are the module types of the matrices, with `attention_scores` (QKᵀ) and
    `attention_values` (its product with V).
    """
    parts: dict[str, int] = {}
    by_name = shapes(model)
    for spec in model.inventory(model):
        if spec.fan_in:
            macs = tokens * math.prod(by_name[spec.name])
            parts[spec.module_type] = parts.get(spec.module_type, 0) + _FLOPS_PER_MAC * macs
    mixing = _FLOPS_PER_MAC * tokens * model.context * model.width * model.depth
    parts |= {"attention_scores": mixing, "attention_values": mixing}
    return parts


def training_flops_per_token(model: Model, products: int) -> int:
    """FLOPs of forward and backward for one token, given the number of parameters in matrix products."""
    mixing = 2 * model.context * model.width * model.depth
    return _TRAINING_PER_FORWARD * _FLOPS_PER_MAC * (products + mixing)


def multiplied(model: ModelConfig) -> int:
    """Number of parameters in matrix products."""
    attention = 2 * model.width * (model.width + model.kv_heads * model.head_dim)
    ffn = (3 if model.gated else 2) * model.ffn * model.width
    return model.depth * (attention + ffn) + model.vocab_size * model.width


def not_multiplied(model: ModelConfig) -> int:
    """Number of parameters outside of them: the embedding, which is looked up, and the norms' gains."""
    gains = (2 * model.depth + 1) * model.width
    qk_gains = 2 * model.depth * model.head_dim if model.qk_norm else 0
    return model.vocab_size * model.width + gains + qk_gains
