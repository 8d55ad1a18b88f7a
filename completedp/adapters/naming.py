"""The module type that a parameter's name means: the user's patterns first, then one ordered table.

The table searches the path of the module that owns the parameter: below the layer for a module in the stack,
whole for a module outside it. The first pattern found anywhere in the path decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from completedp.adapters.observe import Observed, Parameter
from completedp.errors import UserError, nearest
from completedp.modules import MODULE_TYPES


@dataclass(frozen=True, kw_only=True)
class Naming:
    """`pattern` means `module_type` if a parameter of the same layer has `beside` in its path. The parameters
    outside the stack count as one layer."""

    pattern: str
    module_type: str
    beside: str = ""


def _named(module_type: str, *names: str, within: str = "", beside: str = "") -> Naming:
    """`names` are the whole last part of a path. An earlier part must contain `within`."""
    any_of = "|".join(names)
    before = rf"(^|\.)[^.]*({within})[^.]*\.(.*\.)?" if within else r"(^|\.)"
    return Naming(pattern=rf"{before}({any_of})$", module_type=module_type, beside=beside)


_ATTENTION = "attn|attention"
_FFN = "mlp|ffn|feed_forward|feedforward"
# The names in the families of transformers, nanoGPT, torchtitan, OLMo and torch.nn.
IN_LAYER: tuple[Naming, ...] = (
    _named("q_norm", "q_norm", "q_layernorm", "query_norm", "q_ln", "norm_q"),
    _named("k_norm", "k_norm", "k_layernorm", "key_norm", "k_ln", "norm_k"),
    _named("qkv", "qkv", "qkv_proj", "c_attn", "Wqkv", "wqkv", "att_proj"),
    Naming(pattern=r"(^|\.)[^.]*attn$", module_type="qkv", beside=r"in_proj_weight$"),
    _named("q", "q", "q_proj", "wq", "query", "q_lin", "to_q", "c_q"),
    _named("k", "k", "k_proj", "wk", "key", "k_lin", "to_k", "c_k"),
    _named("v", "v", "v_proj", "wv", "value", "v_lin", "to_v", "c_v"),
    _named(
        "attention_out",
        *("o_proj", "out_proj", "c_proj", "wo", "dense", "out", "out_lin", "proj", "to_out", "attn_out"),
        within=_ATTENTION,
    ),
    # A gate on what attention gives is no gate of the feed-forward.
    _named("other", "gate_proj", "gate", "g_proj", within=_ATTENTION),
    _named("gate_up", "gate_up_proj", "w13", "Wi"),
    _named("ffn_gate", "gate_proj", "gate", "c_gate"),
    # In Llama's own names w1 is the gate. Without a w3 the name w1 says nothing.
    _named("ffn_gate", "w1", beside=r"(^|\.)w3\."),
    _named("ffn_down", "w2", beside=r"(^|\.)w3\."),
    _named("ffn_up", "w3", beside=r"(^|\.)w1\."),
    _named("ffn_up", "up_proj", "up", "c_fc", "fc1", "fc_in", "linear1", "dense_h_to_4h", "wi"),
    _named("ffn_down", "down_proj", "down", "fc2", "fc_out", "linear2", "dense_4h_to_h", "ff_out"),
    _named("ffn_down", "c_proj", "wo", within=_FFN),
    # `post_attention_layernorm` comes before the feed-forward in Llama. In layers with a norm after the
    # feed-forward (OLMo-2, Gemma 2) it ends the attention branch.
    _named("attention_post_norm", "post_attention_layernorm", beside="post_feedforward_layernorm"),
    _named("ffn_post_norm", "post_feedforward_layernorm"),
    _named("attention_norm", "input_layernorm", "ln_1", "ln1", "norm1", "attention_norm", "attn_norm"),
    _named(
        "ffn_norm",
        *("post_attention_layernorm", "pre_feedforward_layernorm", "ffn_norm", "mlp_norm"),
        *("ln_2", "ln2", "norm2"),
    ),
)  # fmt: skip
OUTSIDE: tuple[Naming, ...] = (
    _named("position_embedding", "wpe", "embed_positions", "position_embeddings?", "pos_emb(ed)?"),
    _named(
        "embedding",
        *("embed_tokens", "wte", "tok_embeddings", "tok_emb", "token_embeddings?", "word_embeddings"),
        *("embeddings?", "embed", "embed_in"),
    ),
    _named("unembedding", "lm_head", "unembedding", "unembed", "embed_out", "output", "head"),
    _named("final_norm", "norm", "ln_f", "norm_f", "final_norm", "final_layer_?norm", "ln_final"),
)  # fmt: skip


def module_types(
    observed: Observed, modules: Sequence[tuple[str, str]] = ()
) -> dict[str, str | None]:
    """The module type of each parameter, by qualified name; None if neither a pattern nor the table has one.

    `modules` are the user's pairs (pattern, module type), searched first, in the whole qualified names.
    Raises `UserError` for an unknown type, an invalid pattern, and a pattern that decides no parameter.
    """
    own = [(_compiled(pattern), _checked(pattern, t)) for pattern, t in modules]
    used: set[re.Pattern[str]] = set()
    types: dict[str, str | None] = {}
    for parameter in observed.parameters:
        found = next(((p, t) for p, t in own if p.search(parameter.name)), None)
        if found is not None:
            used.add(found[0])
        types[parameter.name] = found[1] if found else by_table(parameter)
    for pattern, _ in own:
        if pattern not in used:
            raise UserError(
                f"the pattern {pattern.pattern!r} decides no parameter: no name matches it, or an earlier "
                "pattern took all of them; remove it, or see the names with `completedp inspect`"
            )
    return types


def by_table(parameter: Parameter) -> str | None:
    """The module type that the table reads from a parameter's name."""
    for naming in OUTSIDE if parameter.layer is None else IN_LAYER:
        if re.search(naming.pattern, parameter.module) and (
            not naming.beside or any(re.search(naming.beside, path) for path in parameter.beside)
        ):
            return naming.module_type
    return None


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"the pattern {pattern!r} is no regular expression: {error}") from None


def _checked(pattern: str, module_type: str) -> str:
    if module_type not in MODULE_TYPES:
        raise UserError(
            f"the pattern {pattern!r} names the module type {module_type!r}"
            f"{nearest(module_type, MODULE_TYPES)}"
        )
    return module_type
