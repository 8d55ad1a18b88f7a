"""nanoGPT's train.py: a configuration in its plain names, and a GPT with per-module parameter groups.

nanoGPT's GPT differs from the reference model (LayerNorm, learned positions). The values are for a model.py
near the reference; the file names what nanoGPT's GPT lacks and refuses a GPT that lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator

from completedp.errors import UserError
from completedp.plan import Plan
from transfer.exports import python_file

# The file splits c_attn into q, k and v. nanoGPT's GPT has no query and key norms and no gate: a changed
# model.py has them under these names.
NAMES = {
    "embedding": "transformer.wte",
    "q": "transformer.h.{layer}.attn.c_attn.q",
    "k": "transformer.h.{layer}.attn.c_attn.k",
    "v": "transformer.h.{layer}.attn.c_attn.v",
    "attention_out": "transformer.h.{layer}.attn.c_proj",
    "q_norm": "transformer.h.{layer}.attn.q_norm",
    "k_norm": "transformer.h.{layer}.attn.k_norm",
    "attention_norm": "transformer.h.{layer}.ln_1",
    "ffn_up": "transformer.h.{layer}.mlp.c_fc",
    "ffn_gate": "transformer.h.{layer}.mlp.c_gate",
    "ffn_down": "transformer.h.{layer}.mlp.c_proj",
    "ffn_norm": "transformer.h.{layer}.ln_2",
    "final_norm": "transformer.ln_f",
    "unembedding": "lm_head",
}


def render(plan: Plan) -> str:
    """The file's text.

    Raises `UserError` for grouped queries: c_attn has as many keys and values as queries.
    """
    model, train = plan.reference, plan.train
    if model.queries_per_kv != 1:
        raise UserError(
            f"model.queries_per_kv is {model.queries_per_kv}; nanoGPT's attention has as many keys "
            "and values as queries: use --format torch, hf or torchtitan"
        )
    # train.py's plain names show a hidden matrix of the middle layer.
    middle = ("ffn_up", model.depth // 2)
    row = next(row for row in plan.tensors if (row.module_type, row.layer) == middle)
    reference = {
        "learning_rate": row.lr,
        "weight_decay": row.weight_decay,
        "beta1": row.beta1,
        "beta2": row.beta2,
    }
    at_once = train.microbatch or train.batch
    tables = {
        "n_layer": model.depth,
        "n_head": model.heads,
        "n_embd": model.width,
        "block_size": model.context,
        "bias": False,
        "dropout": 0.0,
        "batch_size": at_once // model.context,
        "gradient_accumulation_steps": train.batch // at_once,
        "max_iters": train.steps - 1,  # the last step's number, counted from 0
        "decay_lr": train.schedule == "cosine",
        "warmup_iters": round(train.warmup * train.steps),
        "lr_decay_iters": train.steps,
        "min_lr": row.lr * train.final_lr,
        "grad_clip": 0.0,
        "dtype": train.precision,
        "compile": train.compile,
        **reference,
        "init_seed": 0,
        "FFN: int": model.ffn,
        "REFERENCE: dict[str, float]": reference,
    }
    return python_file.render(
        plan, "nanogpt", names=NAMES, tables=tables, limitations=limitations(plan)
    )


def limitations(plan: Plan) -> Iterator[str]:
    """Everything that train.py and its GPT cannot express, one sentence each."""
    model, train = plan.reference, plan.train
    yield (
        "nanoGPT's GPT is another model than the one searched: LayerNorm, where that has RMSNorm, and "
        "learned positions (they get the embedding's values), where that has rotary ones. Losses are the "
        "plan's with a model.py that has the searched architecture."
    )
    parts = {
        "norms of queries and keys (attn.q_norm, attn.k_norm)": model.qk_norm,
        "a gate in the feed-forward (mlp.c_gate)": model.gated,
        f"a feed-forward of {model.ffn} features (mlp.c_fc)": model.ffn != 4 * model.width,
    }
    if any(parts.values()):
        lacks = ", ".join(part for part, is_needed in parts.items() if is_needed)
        yield f"nanoGPT's GPT lacks {lacks}; it is refused until model.py has them."
    yield "nanoGPT's GPT ties lm_head to wte and keeps q, k and v in one matrix: the file separates them."
    yield (
        "nanoGPT's GPT has no residual multipliers: they are folded into both c_proj, which is the same "
        "training with AdamW and with no other optimizer."
    )
    yield (
        "train.py gives every group one learning rate: the optimizer gives each its own again before a "
        "step. learning_rate, weight_decay, beta1 and beta2 are those of the middle layer's c_fc, to be "
        "looked at; another learning_rate scales all, another of the others is refused."
    )
    if plan.output_multiplier != 1.0:
        yield "nanoGPT's GPT has no multiplier on the logits: it is folded into lm_head, in the same way."
    if train.schedule != "cosine":
        yield (
            f"train.py's only schedule is a cosine: decay_lr is False, and the optimizer applies "
            f"{train.schedule} itself."
        )
    if train.clip:
        yield (
            "train.py would clip by the norm of the folded gradients, which is another norm: grad_clip "
            "is 0, and the optimizer clips before each step by the norm of the unfolded ones."
        )
    if train.z_loss:
        yield (
            "train.py has no z-loss: GPT adds it in training, so the loss of a step is printed with it "
            "(those of an evaluation without)."
        )
    yield f"Vocabulary and data are train.py's own: give it a data set of {model.vocab_size} tokens."
