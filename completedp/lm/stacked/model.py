"""The reference model with a member axis: several models of one shape in one program.

All numbers of a member lie in one row of memory. Each row is also a `LanguageModel` of its own, so the
initial values, the multipliers and the evaluation of a member are those of a solo run.

Shapes: S places for members, M members at work, P numbers of a row. The others are those of
`completedp.lm.model`: B sequences, T positions, N = B·T tokens, D width, H query heads, K key-value heads,
E features of a head, F inner width of the feed-forward, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.lm.model import LanguageModel, initial_buffers
from completedp.lm.ops import rotate
from completedp.lm.stacked.loss import cross_entropy
from completedp.lm.stacked.ops import embedding, linear, rms_norm

# Numbers of a row that share their hyperparameters. A tensor is padded to whole blocks: small ones would
# waste memory in larger blocks, and smaller blocks make the optimizer's inner loops too short.
BLOCK = 64
# Buffers of the model: those that are alike for all members, and those that a member has of its own.
_SHARED = ("cos_THE", "sin_THE")
_OWN = ("residual_attention_L", "residual_ffn_L", "output_multiplier")


@dataclass(frozen=True)
class Slice:
    """The place of a tensor in a row."""

    name: str
    start: int
    shape: torch.Size

    @property
    def size(self) -> int:
        return self.shape.numel()

    @property
    def blocks(self) -> int:
        return math.ceil(self.size / BLOCK)

    def of(self, rows_MP: Tensor) -> Tensor:
        """The tensor in each of the rows, a view."""
        part = rows_MP[:, self.start : self.start + self.size]
        return part.view(-1, *self.shape)


def slices_of(model: LanguageModel) -> list[Slice]:
    """The layout of a row: the model's parameters in their order, each in whole blocks."""
    found: list[Slice] = []
    start = 0
    for name, parameter in model.named_parameters():
        found.append(Slice(name, start, parameter.shape))
        start += found[-1].blocks * BLOCK
    return found


class StackedModel:
    """`places` models in one. `loss` trains the first `members` of them, which `resize` sets.

    `values_SP` holds the parameters and `gradients_SP` their gradients. `solo[i]` is place i as a model of
    its own, in the same memory. Raises `UserError` if the reference model has a buffer that is unknown here.
    """

    def __init__(
        self,
        config: ModelConfig,
        places: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config = config
        with torch.device("meta"):
            empty = LanguageModel(config)
        self.slices = slices_of(empty)
        # The embeddings of all members are read as one table, so a row of memory is some rows of that table.
        unit = math.lcm(BLOCK, config.width)
        last = self.slices[-1]
        length = math.ceil((last.start + last.blocks * BLOCK) / unit) * unit
        self.values_SP = torch.zeros(places, length, device=device, dtype=dtype)
        self.gradients_SP = torch.zeros_like(self.values_SP)
        buffers = {n: value.to(device, dtype) for n, value in initial_buffers(config).items()}
        self._shared = {name: buffers.pop(name) for name in _SHARED}
        if others := buffers.keys() - {*_OWN}:
            raise UserError(
                f"the model has the coefficients {', '.join(sorted(others))}, which a stack does not carry: "
                "train the runs alone"
            )
        self._buffers = {n: v.expand(places, *v.shape).clone() for n, v in buffers.items()}
        self.solo = [self._solo(place) for place in range(places)]
        self.resize(places)

    def _solo(self, place: int) -> LanguageModel:
        with torch.device("meta"):
            model = LanguageModel(self.config)
        row_1P = self.values_SP[place : place + 1]
        model.load_state_dict({s.name: s.of(row_1P)[0] for s in self.slices}, assign=True)
        for name, values in self._buffers.items():
            setattr(model, name, values[place])
        for name, value in self._shared.items():
            setattr(model, name, value)
        return model

    @property
    def members(self) -> int:
        """The number of places that train."""
        return self._members

    def resize(self, members: int) -> None:
        """Train the first `members` places from now on."""
        self._members = members
        weights = {s.name: s.of(self.values_SP[:members]).requires_grad_() for s in self.slices}
        self._gradients = [s.of(self.gradients_SP[:members]) for s in self.slices]
        self._weights = weights
        self._layers = [
            {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}
            for start in (f"layers.{i}." for i in range(self.config.depth))
        ]

    def move(self, source: int, target: int) -> None:
        """Copy the values and the multipliers of one place to another."""
        for tensor in (self.values_SP, *self._buffers.values()):
            tensor[target] = tensor[source]

    def backward(self, loss_M: Tensor, scale: float) -> None:
        """Add `scale` times the gradient of each member's loss to `gradients_SP`."""
        each_M = torch.full_like(loss_M, scale)
        found = torch.autograd.grad(loss_M, list(self._weights.values()), each_M)
        torch._foreach_add_(self._gradients, found)

    def loss(
        self, tokens_MBT: Tensor, target_MBT: Tensor, z_loss: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`LanguageModel.loss` of each member: two tensors `M`, the second one detached."""
        weight_MVD = self._weights["unembedding.weight"]
        return cross_entropy(self.hidden(tokens_MBT), weight_MVD, target_MBT.flatten(1), z_loss)

    def hidden(self, tokens_MBT: Tensor) -> Tensor:
        """Final hidden states `M x N x D`, already times the logits' multiplier."""
        members, _, length = tokens_MBT.shape
        cos_THE, sin_THE = (table[:length] for table in self._shared.values())
        x_MND = embedding(tokens_MBT.flatten(1), self._weights["embedding.weight"])
        residual_attention_ML = self._buffers["residual_attention_L"][:members, :, None, None]
        residual_ffn_ML = self._buffers["residual_ffn_L"][:members, :, None, None]
        for i, layer in enumerate(self._layers):
            normed_MND = rms_norm(x_MND, layer["attention_norm.weight"])
            branch_MND = self._attention(normed_MND, layer, cos_THE, sin_THE)
            x_MND = torch.addcmul(x_MND, branch_MND, residual_attention_ML[:, i])
            normed_MND = rms_norm(x_MND, layer["ffn_norm.weight"])
            branch_MND = self._feed_forward(normed_MND, layer)
            x_MND = torch.addcmul(x_MND, branch_MND, residual_ffn_ML[:, i])
        multiplier_M1 = self._buffers["output_multiplier"][:members, None]
        return rms_norm(x_MND, self._weights["final_norm.weight"] * multiplier_M1)

    def _attention(
        self, x_MND: Tensor, layer: Mapping[str, Tensor], cos_THE: Tensor, sin_THE: Tensor
    ) -> Tensor:
        """`completedp.lm.model.Attention`, in which the sequences of all members are one batch A = M·B."""
        shape, length, config = x_MND.shape, len(cos_THE), self.config
        q_MND = linear(x_MND, layer["attention.q.weight"])
        k_MND = linear(x_MND, layer["attention.k.weight"])
        v_MND = linear(x_MND, layer["attention.v.weight"])
        dtype = v_MND.dtype
        if config.qk_norm:
            heads = (shape[0], -1, config.head_dim)
            q_MND = rms_norm(q_MND.view(heads), layer["attention.q_norm.weight"])
            k_MND = rms_norm(k_MND.view(heads), layer["attention.k_norm.weight"])
        q_ATHE = q_MND.view(-1, length, config.heads, config.head_dim)
        k_ATKE, v_ATKE = (
            each_MND.view(-1, length, config.kv_heads, config.head_dim)
            for each_MND in (k_MND, v_MND)
        )
        q_ATHE = rotate(q_ATHE, cos_THE, sin_THE)
        k_ATKE = rotate(k_ATKE, cos_THE[:, : config.kv_heads], sin_THE[:, : config.kv_heads])
        mixed_AHTE = F.scaled_dot_product_attention(
            q_ATHE.to(dtype).transpose(1, 2),
            k_ATKE.to(dtype).transpose(1, 2),
            v_ATKE.transpose(1, 2),
            is_causal=True,
            enable_gqa=config.heads != config.kv_heads,
        )
        return linear(mixed_AHTE.transpose(1, 2).reshape(shape), layer["attention.out.weight"])

    def _feed_forward(self, x_MND: Tensor, layer: Mapping[str, Tensor]) -> Tensor:
        up_MNF = linear(x_MND, layer["ffn.up.weight"])
        if self.config.gated:
            inner_MNF = F.silu(linear(x_MND, layer["ffn.gate.weight"])) * up_MNF
        else:
            inner_MNF = F.gelu(up_MNF)
        return linear(inner_MNF, layer["ffn.down.weight"])
