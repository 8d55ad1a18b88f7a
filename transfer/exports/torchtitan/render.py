"""torchtitan: a list of ParamGroupConfig, and the parts of a plan that its Trainer.Config takes.

The names are those of its dense decoders. One of them, Qwen3's, has the reference model's architecture.
"""

from __future__ import annotations

from collections.abc import Iterator

from completedp.errors import UserError
from completedp.plan import Plan
from transfer.exports import python_file

NAMES = {
    "embedding": "tok_embeddings",
    "q": "layers.{layer}.attention.qkv_linear.wq",
    "k": "layers.{layer}.attention.qkv_linear.wk",
    "v": "layers.{layer}.attention.qkv_linear.wv",
    "attention_out": "layers.{layer}.attention.wo",
    "q_norm": "layers.{layer}.attention.q_norm",
    "k_norm": "layers.{layer}.attention.k_norm",
    "attention_norm": "layers.{layer}.attention_norm",
    "ffn_up": "layers.{layer}.feed_forward.w3",
    "ffn_gate": "layers.{layer}.feed_forward.w1",
    "ffn_down": "layers.{layer}.feed_forward.w2",
    "ffn_norm": "layers.{layer}.ffn_norm",
    "final_norm": "norm",
    "unembedding": "lm_head",
}


def render(plan: Plan) -> str:
    """The file's text. Raises `UserError` for a feed-forward without a gate."""
    if not plan.reference.gated:
        raise UserError(
            f"model.activation is {plan.reference.activation!r}; torchtitan's decoders have a gated "
            "feed-forward alone: use --format torch, or search with swiglu"
        )
    tables = {"CONTEXT: int": plan.reference.context, "VOCABULARY: int": plan.reference.vocab_size}
    return python_file.render(
        plan, "torchtitan", names=NAMES, tables=tables, limitations=limitations(plan)
    )


def limitations(plan: Plan) -> Iterator[str]:
    """Everything that torchtitan cannot express, one sentence each."""
    model = plan.reference
    yield (
        "The model has no residual multipliers: they are folded into wo and w2, which is the same "
        "training with AdamW and with no other optimizer."
    )
    yield (
        "The model's shape is not in the file: build one of "
        f"dim {model.width}, {model.depth} layers, {model.heads} heads and {model.kv_heads} of keys and "
        f"values of {model.head_dim}, hidden_dim {model.ffn}, {model.vocab_size} tokens, "
        f"{'with' if model.qk_norm else 'without'} qk_norm, CosSinRoPE of theta {model.rope_base:g}, "
        "norms with eps 1e-6, fuse_qkv=False, enable_weight_tying=False. Other tensors are refused when "
        "it is built."
    )
    yield (
        "Initial values are drawn by torchtitan's generator: their standard deviations are the plan's, "
        "their numbers are not those of `completedp train`."
    )
    yield "A parameter pattern must match in every model part, so there is no pipeline parallelism."
    yield (
        "torchtitan's warm-up is a step shorter than the plan's: lr_scheduler is replaced, and its options "
        "are refused."
    )
    if plan.output_multiplier != 1.0:
        yield "The model has no multiplier on the logits: it is folded into lm_head, in the same way."
    if plan.train.clip:
        yield (
            "torchtitan would clip by the norm of the folded gradients, which is another norm: max_norm "
            "is inf, and the optimizers clip before each step by the norm of the unfolded ones. The "
            "grad_norm in the log is the former."
        )
    if plan.train.z_loss:
        yield (
            "torchtitan has no z-loss: a loss with it replaces its own, is the sum in the log, and "
            "refuses logits that tensor parallelism has split."
        )
    yield "Data, evaluation, microbatches and compilation are torchtitan's own settings."
