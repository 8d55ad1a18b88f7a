"""The reference language model: a pre-norm decoder with rotary positions and query-key norm.

Its parameters have exactly the names of `completedp.modules.reference_inventory`. There are no biases, and
the input and output embeddings are not tied.

Shapes: B sequences, T positions, N = B·T tokens, D width, H query heads, K key-value heads, E features of
a head, F inner width of the feed-forward, V vocabulary, L layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from completedp.config import ModelConfig
from completedp.kinds import buffer_name, coefficient_kinds, default
from completedp.lm.loss import cross_entropy
from completedp.lm.ops import rms_norm, rotary_tables, rotate
from completedp.resolved import Resolved


class LanguageModel(nn.Module):
    """`hidden(tokens)` gives the final hidden states, `loss(tokens, target)` the training loss.

    The residual coefficients and the multiplier on the logits are buffers outside the state dict, so a trial
    with other values recompiles nothing. They are 1 until `set_multipliers`.
    """

    residual_attention_L: Tensor
    residual_ffn_L: Tensor
    output_multiplier: Tensor
    cos_THE: Tensor
    sin_THE: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.final_norm = Norm(config.width)
        self.unembedding = nn.Linear(config.width, config.vocab_size, bias=False)
        for name, value in initial_buffers(config).items():
            self.register_buffer(name, value, persistent=False)

    def reset_buffers(self) -> None:
        """Fill the buffers as in a new model, after the model was built without memory."""
        for name, value in initial_buffers(self.config).items():
            self.get_buffer(name).copy_(value)

    def set_multipliers(self, resolved: Resolved) -> None:
        """Take over the coefficients of the forward pass and the multiplier on the logits. A coefficient that
        `resolved` leaves out gets its default."""
        given = resolved.all_coefficients
        for name, kind in coefficient_kinds().items():
            buffer = self.get_buffer(buffer_name(name))
            values = given.get(name, (default(kind.name),) * buffer.numel())
            assert len(values) == buffer.numel(), "one coefficient per layer, or a single one"
            buffer.copy_(torch.tensor(values, dtype=torch.float64).view_as(buffer))
        self.output_multiplier.fill_(resolved.output_multiplier)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """Final hidden states `B x T x D`, already times the logits' multiplier."""
        length = tokens_BT.shape[1]
        rotary = (self.cos_THE[:length], self.sin_THE[:length])
        x_BTD = self.embedding(tokens_BT)
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, rotary, self.residual_attention_L[i], self.residual_ffn_L[i])
        final_BTD: Tensor = self.final_norm(x_BTD, self.output_multiplier)
        return final_BTD

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """All logits, `B x T x V`."""
        logits_BTV: Tensor = self.unembedding(self.hidden(tokens_BT))
        return logits_BTV

    def loss(
        self, tokens_BT: Tensor, target_BT: Tensor, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Mean CE + `z_loss` · (log Z)² over all tokens, and the mean CE alone (detached), in nats."""
        hidden_ND = self.hidden(tokens_BT).flatten(0, 1)
        return cross_entropy(hidden_ND, self.unembedding.weight, target_BT.flatten(), z_loss)


def initial_buffers(config: ModelConfig) -> dict[str, Tensor]:
    """The buffers of a new model by name: multipliers of 1, and the rotary tables."""
    cos_THE, sin_THE = rotary_tables(
        config.context, config.heads, config.head_dim, config.rope_base
    )
    return {
        "residual_attention_L": torch.ones(config.depth),
        "residual_ffn_L": torch.ones(config.depth),
        "output_multiplier": torch.ones(()),
        "cos_THE": cos_THE,
        "sin_THE": sin_THE,
    }


class Layer(nn.Module):
    """x + c_attention · Attention(norm(x)), then x + c_ffn · FeedForward(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width)
        self.attention = Attention(config)
        self.ffn_norm = Norm(config.width)
        self.ffn = FeedForward(config)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        residual_attention: Tensor,
        residual_ffn: Tensor,
    ) -> Tensor:
        attention_BTD = self.attention(self.attention_norm(x_BTD), rotary)
        x_BTD = torch.addcmul(x_BTD, attention_BTD, residual_attention)
        ffn_BTD = self.ffn(self.ffn_norm(x_BTD))
        return torch.addcmul(x_BTD, ffn_BTD, residual_ffn)


class Attention(nn.Module):
    """Causal attention. The scale 1/√E is the same at every model scale, because E is."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.heads, self.kv_heads = config.heads, config.kv_heads
        kv_width = config.kv_heads * config.head_dim
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, kv_width, bias=False)
        self.v = nn.Linear(config.width, kv_width, bias=False)
        if config.qk_norm:
            self.q_norm = Norm(config.head_dim)
            self.k_norm = Norm(config.head_dim)
        self.qk_norm = config.qk_norm
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        shape = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BTHE, k_BTKE = self.q(x_BTD).view(shape), self.k(x_BTD).view(shape)
        v_BTKE = self.v(x_BTD).view(shape)
        if self.qk_norm:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        cos_THE, sin_THE = rotary
        q_BTHE = rotate(q_BTHE, cos_THE, sin_THE)
        k_BTKE = rotate(k_BTKE, cos_THE[:, : self.kv_heads], sin_THE[:, : self.kv_heads])
        mixed_BHTE = F.scaled_dot_product_attention(
            q_BTHE.to(v_BTKE.dtype).transpose(1, 2),
            k_BTKE.to(v_BTKE.dtype).transpose(1, 2),
            v_BTKE.transpose(1, 2),
            is_causal=True,
            enable_gqa=self.heads != self.kv_heads,
        )
        out_BTD: Tensor = self.out(mixed_BHTE.transpose(1, 2).flatten(2))
        return out_BTD


class Norm(nn.Module):
    """RMSNorm over the last dimension, with a gain and an optional multiplier."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x_D: Tensor, multiplier: Tensor | None = None) -> Tensor:
        # The gain is much smaller than the activations, so the multiplier costs less on it.
        gain_D = self.weight if multiplier is None else self.weight * multiplier
        return rms_norm(x_D, gain_D)


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), or down(gelu(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.ffn, bias=False)
        if config.gated:
            self.gate = nn.Linear(config.width, config.ffn, bias=False)
        self.gated = config.gated
        self.down = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        up_BTF = self.up(x_BTD)
        inner_BTF = F.silu(self.gate(x_BTD)) * up_BTF if self.gated else F.gelu(up_BTF)
        down_BTD: Tensor = self.down(inner_BTF)
        return down_BTD
