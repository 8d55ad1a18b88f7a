# Text to be copied: `transfer.exports.python_file` puts this docstring, these imports and everything after
# the tables' place into the exported file. This note stays behind.
"""Per-module hyperparameters for nanoGPT's train.py, as `completedp export --format nanogpt` writes them.

    python train.py completedp_nanogpt.py --dataset=... [--init_seed=1]

The plain names are train.py's own. Behind them are the values of every tensor and a GPT that takes them:
train.py runs this file among its own names, so its GPT becomes that one. batch_size times
gradient_accumulation_steps sequences are a step's batch: for more GPUs lower one and raise the other.
"""

from __future__ import annotations

from typing import Any

import torch

# --- tables ---
from transfer.exports.torch.template import TENSORS, TRAIN, adamw, initialize, schedule

dtype = "float32"
init_seed = 0
FFN: int = 0
REFERENCE: dict[str, float] = {}
# --- end of tables ---


def adapted(base: Any) -> Any:
    """nanoGPT's GPT, or one like it, that starts from and trains with the values of this file.

    Its output embedding is not tied, and q, k and v are matrices of their own, because each has its own
    values. Raises ValueError for a GPT with other tensors, by their names.
    """

    def __init__(self: Any, config: Any) -> None:
        base.__init__(self, config)
        self.lm_head.weight = torch.nn.Parameter(self.lm_head.weight.detach().clone())
        for block in self.transformer.h:
            block.attn.c_attn = SplitProjection(block.attn.c_attn)
            if block.mlp.c_fc.out_features != FFN:
                raise ValueError(
                    f"c_fc has {block.mlp.c_fc.out_features} features; expected the plan's {FFN}: "
                    "change it in model.py"
                )
        if "wpe" in self.transformer:  # learned positions were not searched
            row = TENSORS["transformer.wte.weight"]
            shape = list(self.transformer.wpe.weight.shape)
            own = {"name": "position_embedding.weight", "shape": shape}
            TENSORS["transformer.wpe.weight"] = {**row, **own}
        initialize(self, init_seed)

    def forward(self: Any, idx: torch.Tensor, targets: torch.Tensor | None = None) -> Any:
        logits, loss = base.forward(self, idx, targets)
        if targets is not None and self.training and TRAIN["z_loss"]:
            chosen = logits[targets != -1]
            log_z = chosen.to(torch.promote_types(chosen.dtype, torch.float32)).logsumexp(-1)
            loss = loss + TRAIN["z_loss"] * log_z.square().mean()
        return logits, loss

    def configure_optimizers(
        self: Any, weight_decay: float, learning_rate: float, betas: Any, device_type: str
    ) -> torch.optim.Optimizer:
        given = {"weight_decay": weight_decay, "beta1": betas[0], "beta2": betas[1]}
        for name, value in given.items():
            if value != REFERENCE[name]:
                raise ValueError(f"{name} is {value}; every tensor has its own: change TENSORS")
        if dtype == "float16":
            raise ValueError(
                "dtype is float16, whose gradients are scaled; use bfloat16 or float32"
            )
        optimizer = adamw(self, fused=device_type == "cuda")
        peaks = [group["lr"] for group in optimizer.param_groups]

        def set_rates(*_: Any) -> None:
            """train.py has set one rate, and sets it again before the next step."""
            factor = 1.0
            if TRAIN["schedule"] != "cosine":
                state = optimizer.state[optimizer.param_groups[0]["params"][0]]
                factor = schedule(int(state["step"]) if state else 0)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = factor * group["lr"] / REFERENCE["learning_rate"] * peak

        optimizer.register_step_pre_hook(set_rates)
        return optimizer

    methods = (__init__, forward, configure_optimizers)
    return type(base.__name__, (base,), {method.__name__: method for method in methods})


class SplitProjection(torch.nn.Module):
    """q, k and v as three matrices in the place of one with all their rows."""

    def __init__(self, fused: torch.nn.Linear) -> None:
        super().__init__()
        features = fused.out_features // 3
        self.q, self.k, self.v = (
            torch.nn.Linear(fused.in_features, features, bias=False) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The three products side by side."""
        rows = torch.cat([self.q.weight, self.k.weight, self.v.weight])
        return torch.nn.functional.linear(x, rows)


if "GPT" in globals():
    globals()["GPT"] = adapted(globals()["GPT"])
