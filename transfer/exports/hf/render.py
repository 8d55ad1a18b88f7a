"""Hugging Face's Trainer with a model of the reference architecture: Qwen3, or Llama without QK norm.

Both are pre-norm decoders with RMSNorm, rotary positions in the split-half layout, a SwiGLU feed-forward
and untied embeddings. Qwen3 also has norms of queries and keys, with one gain per head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

from completedp.errors import UserError
from completedp.plan import Plan
from transfer.exports import python_file

NAMES = {
    "embedding": "model.embed_tokens",
    "q": "model.layers.{layer}.self_attn.q_proj",
    "k": "model.layers.{layer}.self_attn.k_proj",
    "v": "model.layers.{layer}.self_attn.v_proj",
    "attention_out": "model.layers.{layer}.self_attn.o_proj",
    "q_norm": "model.layers.{layer}.self_attn.q_norm",
    "k_norm": "model.layers.{layer}.self_attn.k_norm",
    "attention_norm": "model.layers.{layer}.input_layernorm",
    "ffn_up": "model.layers.{layer}.mlp.up_proj",
    "ffn_gate": "model.layers.{layer}.mlp.gate_proj",
    "ffn_down": "model.layers.{layer}.mlp.down_proj",
    "ffn_norm": "model.layers.{layer}.post_attention_layernorm",
    "final_norm": "model.norm",
    "unembedding": "lm_head",
}
# The reference model's (`completedp.lm.ops.NORM_EPS`, whose import needs torch). It is not scaled.
_NORM_EPS = 1e-6


def render(plan: Plan) -> str:
    """The file's text.

    Raises `UserError` for a model without a gate, which neither Qwen3 nor Llama can be.
    """
    model = plan.reference
    if not model.gated:
        raise UserError(
            f"model.activation is {model.activation!r}; the Qwen3 and Llama models of transformers have "
            "a gated feed-forward alone: use --format torch, or search with swiglu"
        )
    tables = {
        "MODEL: dict[str, Any]": {
            "model_type": "qwen3" if model.qk_norm else "llama",
            "hidden_size": model.width,
            "num_hidden_layers": model.depth,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "intermediate_size": model.ffn,
            "hidden_act": "silu",
            "vocab_size": model.vocab_size,
            "max_position_embeddings": model.context,
            "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_base},
            "rms_norm_eps": _NORM_EPS,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "use_cache": False,
            # Special tokens are the tokenizer's business; Llama's defaults are tokens 1 and 2.
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        "CONTEXT: int": model.context,
    }
    return python_file.render(plan, "hf", names=NAMES, tables=tables, limitations=limitations(plan))


def limitations(plan: Plan) -> Iterator[str]:
    """Everything that Trainer and its models cannot express, one sentence each."""
    yield (
        "The model has no residual multipliers: they are folded into o_proj and down_proj, which is the "
        "same training with AdamW and with no other optimizer."
    )
    if plan.output_multiplier != 1.0:
        yield "The model has no multiplier on the logits: it is folded into lm_head, in the same way."
    if plan.train.clip:
        yield (
            "Trainer would clip by the norm of the folded gradients, which is another norm: its "
            "max_grad_norm is 0, and the optimizer clips before each step by the norm of the unfolded "
            "ones. Trainer then logs no grad_norm."
        )
    if plan.train.z_loss:
        yield (
            "Trainer has no z-loss: compute_loss adds it, so the loss in its log is the sum of both; its "
            "evaluation loss too."
        )
    yield (
        f"Data, their order and evaluation are Trainer's own: give it rows of {plan.reference.context} + 1 "
        "tokens, of which the last is only predicted."
    )
