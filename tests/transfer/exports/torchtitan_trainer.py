"""torchtitan's own model, optimizers, schedulers, loss and clipping, with an exported file.

Its Trainer wants a GPU's software and data sets of its own; this is the loop of its `train_step` on one
device, a sequence at a time. No rule of ours is in it.

Usage: torchtitan_trainer.py SEED [BATCHES DTYPE EXPORTED]... Prints as JSON, for each three, the
cross-entropy of every step, and the deviation of every tensor that torchtitan's own init draws.
"""

import json
import runpy
import sys
import types
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.config import TrainingConfig
from torchtitan.distributed.utils import clip_grad_norm_
from torchtitan.models import qwen3
from torchtitan.models.common import CosSinRoPE, Embedding, Linear
from torchtitan.protocols.module import Module


class Causal(Module):
    """Attention within one sequence. torchtitan's own needs a GPU, or positions of packed documents."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        pass

    def __init__(self, config: Config) -> None:
        super().__init__()

    def forward(self, q: Any, k: Any, v: Any, *, scale: Any, enable_gqa: bool, **_: Any) -> Any:
        q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, scale=scale, enable_gqa=enable_gqa, is_causal=True
        )
        return mixed.transpose(-3, -2)


def model_config(shape: dict[str, Any]) -> Any:
    """A model configuration, built as torchtitan's registry builds its Qwen3 models."""
    width, heads = shape["width"], shape["width"] // shape["head_dim"]
    length = {"max_context_length", "max_seq_len"} & {f.name for f in fields(CosSinRoPE.Config)}
    rope = CosSinRoPE.Config(
        dim=shape["head_dim"], theta=shape["rope_base"], **{length.pop(): shape["context"]}
    )
    layers = qwen3._build_qwen3_layers(
        n_layers=shape["depth"],
        dim=width,
        n_heads=heads,
        n_kv_heads=heads // shape["queries_per_kv"],
        head_dim=shape["head_dim"],
        hidden_dim=shape["ffn"],
        fuse_qkv=False,
        attn_backend="flex",
        rope=rope,
    )
    for layer in layers:
        layer.attention.inner_attention = Causal.Config()
        if not shape["qk_norm"]:
            layer.attention.qk_norm = None
    return qwen3.Qwen3Model.Config(
        vocab_size=shape["vocab_size"],
        dim=width,
        norm=qwen3._qwen3_norm(width),
        tok_embeddings=Embedding.Config(num_embeddings=shape["vocab_size"], embedding_dim=width),
        lm_head=Linear.Config(in_features=width, out_features=shape["vocab_size"]),
        layers=layers,
    )


def train(seed: int, batches: str, dtype: str, file: str) -> Any:
    torch.set_default_dtype(getattr(torch, dtype))
    exported = types.SimpleNamespace(**runpy.run_path(file))
    shape = json.loads(Path(batches).with_name("model.json").read_text())
    spec = qwen3.model_registry("debugmodel")
    spec.model = model_config(shape)
    config = exported.applied(
        types.SimpleNamespace(
            model_spec=spec,
            optimizer=default_adamw(),
            lr_scheduler=LRSchedulersContainer.Config(),
            training=TrainingConfig(),
            loss=CrossEntropyLoss.Config(),
        )
    )
    with torch.device("meta"):
        model = config.model_spec.model.build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.init_weights()
    deviations = {name: p.square().mean().sqrt().item() for name, p in model.named_parameters()}
    exported.initialize(model, seed)
    model.layers["0"] = checkpoint_wrapper(model.layers["0"])

    optimizers = config.optimizer.build(model_parts=[model])
    config.model_spec.post_optimizer_build_fn(optimizers, [model], None)
    schedulers = config.lr_scheduler.build(
        optimizers=optimizers, training_steps=config.training.steps
    )
    loss_fn = config.loss.build()
    in_rows = any(f.name == "seq_len" for f in fields(TrainingConfig))  # release 0.3 and before
    seen = []
    for tokens_ST in torch.from_numpy(numpy.load(batches)):
        count = torch.tensor(tokens_ST[:, 1:].numel())
        entropy = 0.0
        for sequence in tokens_ST[:, None] if in_rows else tokens_ST:
            labels = sequence[..., 1:]
            logits = model(sequence[..., :-1])
            loss, _ = loss_fn(logits, labels, count)
            loss.backward()
            flat = logits.detach().flatten(0, -2), labels.flatten()
            entropy += torch.nn.functional.cross_entropy(*flat, reduction="sum").item()
        clip_grad_norm_(list(model.parameters()), config.training.max_norm, foreach=True)
        optimizers.step()
        schedulers.step()
        optimizers.zero_grad()
        seen.append(entropy / count.item())
    return {"ce": seen, "deviations": deviations}


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # torchtitan logs
    seed, *runs = sys.argv[1:]
    threes = zip(*[iter(runs)] * 3, strict=True)
    print(json.dumps([train(int(seed), *arguments) for arguments in threes]), file=out)
