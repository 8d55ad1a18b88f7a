"""A trainer in the manner of nanoGPT's train.py, and a GPT under its names. It has no rule of ours.

The configuration is run among the trainer's own names; then the trainer makes a GPT(GPTConfig), asks it
for an optimizer, gives all groups one learning rate before every step, and clips by the global norm. This
GPT is of the searched architecture, in plain torch.

Usage: nanogpt_trainer.py SEED [BATCHES DTYPE EXPORTED]... Prints as JSON the cross-entropy of every step,
a list for each three.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    bias: bool
    dropout: float
    # Parts of the searched architecture that nanoGPT does not have.
    ffn: int
    rope_base: float


class RMSNorm(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


class Attention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head, self.base = config.n_head, config.rope_base
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.q_norm = RMSNorm(config.n_embd // config.n_head)
        self.k_norm = RMSNorm(config.n_embd // config.n_head)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[2]
        q, k, v = (
            part.unflatten(2, (self.n_head, -1)).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        q, k = self.rotated(self.q_norm(q)), self.rotated(self.k_norm(k))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -math.inf).softmax(-1) @ v
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def rotated(self, x: Tensor) -> Tensor:
        """Turn the pairs (i, i + half) by the position, as complex numbers."""
        half = x.shape[-1] // 2
        frequency = self.base ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * frequency
        # The tool's own tables are made in float32 too.
        cos, sin = angle.cos().float().to(x.dtype), angle.sin().float().to(x.dtype)
        low, high = x[..., :half], x[..., half:]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class FeedForward(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.ffn, bias=config.bias)
        self.c_gate = nn.Linear(config.n_embd, config.ffn, bias=config.bias)
        self.c_proj = nn.Linear(config.ffn, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.silu(self.c_gate(x)) * self.c_fc(x))
        return out


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1, self.attn = RMSNorm(config.n_embd), Attention(config)
        self.ln_2, self.mlp = RMSNorm(config.n_embd), FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": RMSNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.transformer["wte"](idx)
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.lm_head(self.transformer["ln_f"](x))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
        return logits, loss


def train(seed: int, batches: str, dtype: str, file: str) -> list[float]:
    shape = json.loads(Path(batches).with_name("model.json").read_text())
    names: dict[str, Any] = {"GPT": GPT, "grad_clip": 1.0, "decay_lr": True}
    exec(compile(Path(file).read_text(), file, "exec"), names)
    names["init_seed"] = seed  # --init_seed=...
    sizes = ("block_size", "n_layer", "n_head", "n_embd", "bias", "dropout")
    config = GPTConfig(
        **{name: names[name] for name in sizes},
        vocab_size=shape["vocab_size"],
        ffn=shape["ffn"],
        rope_base=shape["rope_base"],
    )
    torch.set_default_dtype(getattr(torch, dtype))
    model = names["GPT"](config)
    optimizer = model.configure_optimizers(
        names["weight_decay"], names["learning_rate"], (names["beta1"], names["beta2"]), "cpu"
    )
    data = torch.from_numpy(numpy.load(batches))
    parts = names["gradient_accumulation_steps"]
    assert data.shape[1] == parts * names["batch_size"]
    seen = []
    for step in range(names["max_iters"] + 1):
        rate = rate_at(step, names) if names["decay_lr"] else names["learning_rate"]
        for group in optimizer.param_groups:
            group["lr"] = rate
        entropies = []
        for tokens in data[step].chunk(parts):
            logits, loss = model(tokens[:, :-1], tokens[:, 1:])
            (loss / parts).backward()
            entropy = F.cross_entropy(logits.detach().flatten(0, 1), tokens[:, 1:].flatten())
            entropies.append(entropy.item())
        if names["grad_clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), names["grad_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen.append(sum(entropies) / parts)
    return seen


def rate_at(step: int, names: dict[str, Any]) -> float:
    """Linear warm-up, then half a cosine to min_lr."""
    peak, warmup = names["learning_rate"], names["warmup_iters"]
    if step < warmup:
        return float(peak * (step + 1) / (warmup + 1))
    done = (step - warmup) / (names["lr_decay_iters"] - warmup)
    falling = 0.5 * (1 + math.cos(math.pi * done))
    return float(names["min_lr"] + falling * (peak - names["min_lr"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    seed, *runs = sys.argv[1:]
    threes = zip(*[iter(runs)] * 3, strict=True)
    print(json.dumps([train(int(seed), *arguments) for arguments in threes]))
