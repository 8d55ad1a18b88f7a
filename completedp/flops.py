"""Exact counts of the reference model's parameters and matrix-product FLOPs, from its shape alone.

`completedp.models` has the counts for both kinds of model.

A multiply-accumulate is 2 FLOPs. The causal mask does not halve attention, as in `torch.utils.flop_counter`.
Norms, activations, rotations, the softmax and the optimizer are left out: together they are below 1 % at the
sizes in use. Work done twice to save memory is not counted.
"""

from __future__ import annotations

from completedp.config import Model, ModelConfig

# Backward makes two products for each one of forward: the gradients of the input and of the weight.
_TRAINING_PER_FORWARD = 3
_FLOPS_PER_MAC = 2


def shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each trainable tensor by its qualified name, in the order of the inventory."""
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


def training_flops_per_token(model: Model, products: int) -> int:
    """FLOPs of forward and backward for one token in a sequence of `model.context`.

    `products` is the number of parameters in matrix products.
    """
    # Multiply-accumulates of QKᵀ and of its product with V.
    mixing = 2 * model.context * model.width * model.depth
    return _TRAINING_PER_FORWARD * _FLOPS_PER_MAC * (products + mixing)


def multiplied(model: ModelConfig) -> int:
    """Number of parameters in matrix products."""
    attention = 2 * model.width * (model.width + model.kv_heads * model.head_dim)
    ffn = (3 if model.gated else 2) * model.ffn * model.width
    return model.depth * (attention + ffn) + model.vocab_size * model.width


def not_multiplied(model: ModelConfig) -> int:
    """Number of parameters outside matrix products: the embedding, which is looked up, and norm gains."""
    gains = (2 * model.depth + 1) * model.width
    qk_gains = 2 * model.depth * model.head_dim if model.qk_norm else 0
    return model.vocab_size * model.width + gains + qk_gains
