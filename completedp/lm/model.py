"""The reference language model: a pre-norm decoder with rotary positions and query-key norm.

Its parameters have exactly the names of `completedp.modules.reference_inventory`; there are no biases,
and input and output embeddings are not tied.

Shapes: B sequences, T positions, N = B·T tokens, D width, H query heads, K key-value heads, E features of
a head, F inner width of the feed-forward, V vocabulary, L layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from completedp.config import ModelConfig
from completedp.lm.loss import cross_entropy
from completedp.resolved import Resolved

# RMSNorm's own ε, which does not scale: small beside the mean square of any live activation.
NORM_EPS = 1e-6


class LanguageModel(nn.Module):
    """`hidden(tokens)` are the final hidden states, `loss(tokens)` the training loss.

    The residual coefficients and the multiplier on the logits are buffers, outside the state dict: other
    values for another trial recompile nothing. They are 1 until `set_multipliers`.
    """

    residual_attention_L: Tensor
    residual_ffn_L: Tensor
    output_multiplier: Tensor
    cos_T1E: Tensor
    sin_T1E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.final_norm = nn.RMSNorm(config.width, NORM_EPS)
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False)
        cos_T1E, sin_T1E = rotary_tables(config)
        for name, value in {
            "residual_attention_L": torch.ones(config.depth),
            "residual_ffn_L": torch.ones(config.depth),
            "output_multiplier": torch.ones(()),
            "cos_T1E": cos_T1E,
            "sin_T1E": sin_T1E,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def set_multipliers(self, resolved: Resolved) -> None:
        """Take over the residual coefficients, one a layer and branch, and the logits' multiplier."""
        for buffer_L, values in (
            (self.residual_attention_L, resolved.residual["attention"]),
            (self.residual_ffn_L, resolved.residual["ffn"]),
        ):
            assert len(values) == len(buffer_L), "one residual coefficient a layer"
            buffer_L.copy_(torch.tensor(values, dtype=torch.float64))
        self.output_multiplier.fill_(resolved.output_multiplier)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Final hidden states `B x T x D`, the multiplier on the logits already applied to them."""
        length = tokens_BT.shape[1]
        rotary = (self.cos_T1E[:length], self.sin_T1E[:length])
        x_BTD = self.embedding(tokens_BT)
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, rotary, self.residual_attention_L[i], self.residual_ffn_L[i])
        final_BTD: Tensor = self.final_norm(x_BTD) * self.output_multiplier
        return final_BTD

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits `B x T x V`, for those who want them whole."""
        logits_BTV: Tensor = self.unembedding(self.hidden(tokens_BT))
        return logits_BTV

    def loss(
        self, tokens_BT: Tensor, target_BT: Tensor, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Mean CE + `z_loss` · (log Z)² over all tokens, and the mean CE alone (detached), in nats."""
        hidden_ND = self.hidden(tokens_BT).flatten(0, 1)
        return cross_entropy(hidden_ND, self.unembedding.weight, target_BT.flatten(), z_loss)


class Layer(nn.Module):
    """x + c_attention · Attention(norm(x)), then x + c_ffn · FeedForward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, NORM_EPS)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.width, NORM_EPS)
        self.ffn = FeedForward(config)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        residual_attention: Tensor,
        residual_ffn: Tensor,
    ) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, residual_attention)
        ffn_BTD: Tensor = self.ffn(self.ffn_norm(x_BTD), residual_ffn)
        return x_BTD + ffn_BTD


class Attention(nn.Module):
    """Causal attention; the scale 1/√E is a constant across scales, because E is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_width = config.kv_heads * config.head_dim
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(config.head_dim, NORM_EPS)
            self.k_norm = nn.RMSNorm(config.head_dim, NORM_EPS)
        self.qk_norm = config.qk_norm
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        # One product for the three matrices: fewer passes over the activations, in backward as well.
        weight = torch.cat((self.q.weight, self.k.weight, self.v.weight))
        qkv = torch.unflatten(F.linear(x_BTD, weight), -1, (-1, self.head_dim))
        q_BTHE, k_BTKE, v_BTKE = torch.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        if self.qk_norm:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        q_BTHE, k_BTKE = rotate(q_BTHE, *rotary), rotate(k_BTKE, *rotary)
        mixed_BHTE = F.scaled_dot_product_attention(
            q_BTHE.transpose(1, 2),
            k_BTKE.transpose(1, 2).to(q_BTHE.dtype),
            v_BTKE.transpose(1, 2).to(q_BTHE.dtype),
            is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )
        # The coefficient multiplies the matrix, not the activations: the same product, less memory read.
        return F.linear(mixed_BHTE.transpose(1, 2).flatten(2), residual * self.out.weight)


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), or down(gelu(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.ffn, bias=False)
        if config.gated:
            self.gate = nn.Linear(config.width, config.ffn, bias=False)
        self.gated = config.gated
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BTD: Tensor, residual: Tensor) -> Tensor:
        if self.gated:
            both = F.linear(x_BTD, torch.cat((self.up.weight, self.gate.weight)))
            up_BTF, gate_BTF = both.chunk(2, dim=-1)
            inner_BTF = F.silu(gate_BTF) * up_BTF
        else:
            inner_BTF = F.gelu(self.up(x_BTD))
        return F.linear(inner_BTF, residual * self.down.weight)


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """cos and signed sin of every position's angles, each `T x 1 x E`, in float32.

    Feature i turns with feature i + E/2 [RoFormer, arXiv 2104.09864, in the split-half layout]. The
    minus of the rotation is in the sine, so `rotate` needs no negation.
    """
    half = config.head_dim // 2
    frequency = config.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(config.context, dtype=torch.float64)[:, None, None] * frequency
    cos, sin = angle.cos().float(), angle.sin().float()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_BTHE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """Rotary position embedding of every head."""
    low, high = x_BTHE.chunk(2, dim=-1)
    swapped_BTHE = torch.cat((high, low), dim=-1)
    return (x_BTHE * cos_T1E + swapped_BTHE * sin_T1E).to(x_BTHE.dtype)
