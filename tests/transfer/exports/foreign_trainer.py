"""Somebody else's training loop: torch, a model, and an exported file. It has no rule of ours.

Usage: foreign_trainer.py SEED [BATCHES DTYPE FOLDED EXPORTED]... Prints the losses of every step as JSON, a
list for each exported file.
"""

import hashlib
import json
import math
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import numpy
import torch

from completedp.config import ModelConfig
from completedp.lm.model import LanguageModel


class FromPython:
    """Uses the file's functions for everything; the optimizer clips."""

    def __init__(self, path: Path, model: LanguageModel, seed: int, folded: bool) -> None:
        exported = types.SimpleNamespace(**runpy.run_path(str(path)))
        self.train, self.schedule = exported.TRAIN, exported.schedule
        exported.initialize(model, seed, folded=folded)
        self.optimizer = exported.adamw(model, folded=folded, fused=True)
        if not folded:
            set_multipliers(model, exported.residual_multipliers(), exported.OUTPUT_MULTIPLIER)

    def clip(self, model: LanguageModel) -> None:
        """Do nothing: the optimizer clips."""


class FromJson:
    """Does everything itself from the numbers."""

    def __init__(self, path: Path, model: LanguageModel, seed: int, folded: bool) -> None:
        table = json.loads(path.read_text())
        self.train = table["train"]
        parameters = dict(model.named_parameters())
        rows = table["folded" if folded else "tensors"]
        assert {row["name"] for row in rows} == set(parameters)
        groups = []
        for row in rows:
            parameter = parameters[row["name"]]
            with torch.no_grad():
                if row["init_std"] is None:
                    parameter.fill_(row["init_value"])
                else:
                    digest = hashlib.sha256(f"{seed}/{row['name']}".encode()).digest()
                    number = int.from_bytes(digest[:8], "big", signed=True)
                    generator = torch.Generator().manual_seed(number)
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
                    parameter.mul_(row["init_std"])
            groups.append(
                {
                    "params": [parameter],
                    "lr": row["lr"],
                    "weight_decay": row["weight_decay"],
                    "betas": (row["beta1"], row["beta2"]),
                    "eps": row["eps"],
                }
            )
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        residual = {} if folded else table["residual"]
        set_multipliers(model, residual, table["output_multiplier"])

    def schedule(self, step: int) -> float:
        steps, warmup = self.train["steps"], round(self.train["warmup"] * self.train["steps"])
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 - 0.5 * math.cos(math.pi * (steps - step) / (steps - warmup))

    def clip(self, model: LanguageModel) -> None:
        if self.train["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.train["clip"])


def set_multipliers(model: LanguageModel, residual: Any, output_multiplier: float) -> None:
    if residual:
        model.residual_attention_L.copy_(torch.tensor(residual["attention"], dtype=torch.float64))
        model.residual_ffn_L.copy_(torch.tensor(residual["ffn"], dtype=torch.float64))
    model.output_multiplier.fill_(output_multiplier)


def losses(exported: str, batches: str, seed: int, dtype: str, folded: bool) -> list[float]:
    config = json.loads(Path(batches).with_name("model.json").read_text())
    model = LanguageModel(ModelConfig(**config)).to(getattr(torch, dtype))
    reader = FromPython if exported.endswith(".py") else FromJson
    read = reader(Path(exported), model, seed, folded)
    scheduler = torch.optim.lr_scheduler.LambdaLR(read.optimizer, read.schedule)
    seen = []
    for tokens_ST in torch.from_numpy(numpy.load(batches)):
        loss, ce = model.loss(tokens_ST[:, :-1], tokens_ST[:, 1:], read.train["z_loss"])
        loss.backward()
        read.clip(model)
        read.optimizer.step()
        scheduler.step()
        read.optimizer.zero_grad()
        seen.append(ce.item())
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    seed, *rest = sys.argv[1:]
    runs = zip(*[iter(rest)] * 4, strict=True)
    print(
        json.dumps(
            [
                losses(exported, batches, int(seed), dtype, folded == "folded")
                for batches, dtype, folded, exported in runs
            ]
        )
    )
