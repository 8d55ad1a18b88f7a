"""Small external models for the tests: families of Hugging Face, and plain models of torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig

from completedp.adapters.external import logits_of
from completedp.adapters.huggingface import build, config_at
from completedp.config import ExternalModel, ModelConfig
from completedp.lm.model import LanguageModel

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 32,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen3": {**SIZES, "head_dim": 8},
    "gpt2": GPT2,
    "mistral": SIZES,
    "olmo2": SIZES,
    "gemma": {**SIZES, "head_dim": 8},
}
OTHERS: dict[str, dict[str, Any]] = {
    "gemma2": {**SIZES, "head_dim": 8},
    "gemma3_text": {**SIZES, "head_dim": 8},
    "phi3": SIZES,
    "qwen2": SIZES,
}


def config(family: str, *, width: int = 32, depth: int = 2, **changes: Any) -> PretrainedConfig:
    sizes = {**FAMILIES, **OTHERS}[family]
    base = AutoConfig.for_model(family, **{**sizes, **changes})
    base._attn_implementation = "eager"
    return config_at(base, width=width, depth=depth)


def on_meta(family: str, *, width: int = 32, depth: int = 2, **changes: Any) -> Any:
    return build(config(family, width=width, depth=depth, **changes))


def on_cpu(family: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    return build(config(family, **sizes), device="cpu", dtype=dtype)


class Plain(nn.Module):
    """A decoder of torch's layers, as in a tutorial: MultiheadAttention, LayerNorm, learned positions."""

    def __init__(self, width: int = 32, depth: int = 2, norm_first: bool = True) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(VOCABULARY, width)
        self.pos_emb = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, width // 8, 4 * width, dropout=0.0, norm_first=norm_first, batch_first=True
            )
            for _ in range(depth)
        )
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        x_BTD = self.tok_emb(tokens_BT) + self.pos_emb(torch.arange(length))
        mask_TT = nn.Transformer.generate_square_subsequent_mask(length, dtype=x_BTD.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, src_mask=mask_TT)
        logits_BTV: Tensor = self.head(self.ln_f(x_BTD))
        return logits_BTV


class Block(nn.Module):
    """A feed-forward and a map in the place of attention. Their norms have plain names and either place."""

    def __init__(self, width: int, post_norm: bool) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attn = nn.ModuleDict({"o_proj": nn.Linear(width, width, bias=False)})
        self.mlp = nn.ModuleDict(
            {"up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)}
        )
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.post_norm:
            x_BTD = x_BTD + self.norm1(self.attn["o_proj"](x_BTD))
            return x_BTD + self.norm2(self.mlp["down"](F.gelu(self.mlp["up"](x_BTD))))
        x_BTD = x_BTD + self.attn["o_proj"](self.norm1(x_BTD))
        return x_BTD + self.mlp["down"](F.gelu(self.mlp["up"](self.norm2(x_BTD))))


class Stream(nn.Module):
    """Blocks between an embedding and a head. `norm` runs after them, or on the embedding."""

    def __init__(
        self, width: int = 32, *, post_norm: bool = False, norm_first: bool = False
    ) -> None:
        super().__init__()
        self.runs_norm_first = norm_first
        self.embed = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width, post_norm) for _ in range(2))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embed(tokens_BT)
        if self.runs_norm_first:
            x_BTD = self.norm(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV: Tensor = self.lm_head(x_BTD if self.runs_norm_first else self.norm(x_BTD))
        return logits_BTV


def reference(width: int, depth: int) -> nn.Module:
    """The reference model as an external one."""
    shape = ModelConfig(
        width=width, depth=depth, head_dim=8, ffn=2 * width, vocab_size=256, context=32
    )
    return LanguageModel(shape)


def plain_bytes(width: int, depth: int) -> nn.Module:
    model = Plain(width, depth)
    model.tok_emb, model.head = nn.Embedding(256, width), nn.Linear(width, 256)
    return model


def few_logits(width: int, depth: int) -> nn.Module:
    model = Plain(width, depth)
    model.tok_emb = nn.Embedding(256, width)
    return model


def fixed_depth(width: int, depth: int) -> nn.Module:
    return reference(width, 2)


def even_widths(width: int, depth: int) -> nn.Module:
    if width % 32:
        raise ValueError(f"width {width}")
    return reference(width, depth)


def lazy(width: int, depth: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(256, width), nn.LazyLinear(256))


class Headless(Plain):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__(width, depth)
        self.tok_emb = nn.Embedding(256, width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return super().forward(tokens_BT).sum(-1)


def external(source: str, **sizes: Any) -> ExternalModel:
    """An external model of width 32 and depth 2, on 256 tokens, unless `sizes` say otherwise."""
    default = {"width": 32, "depth": 2, "vocab_size": 256, "context": 32}
    return ExternalModel(source=source, **{**default, **sizes})


def loss(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """The next-token cross-entropy of a model."""
    logits_BTV = logits_of(model, tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())
