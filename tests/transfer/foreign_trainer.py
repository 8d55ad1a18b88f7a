"""A training loop of somebody else: torch, a model, and an exported file. No rule of ours is in it.

Usage: foreign_trainer.py BATCHES SEED FOLDED EXPORTED... Prints the losses of every step as JSON, a list
for each exported file.
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


def from_python(path: Path, model: torch.nn.Module, seed: int, folded: bool) -> Any:
    exported = types.SimpleNamespace(**runpy.run_path(str(path)))
    exported.initialize(model, seed, folded=folded)
    groups = exported.param_groups(model, folded=folded)
    return exported.TRAIN, groups, exported.residual_multipliers(), exported.OUTPUT_MULTIPLIER


def from_json(path: Path, model: torch.nn.Module, seed: int, folded: bool) -> Any:
    table = json.loads(path.read_text())
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
    return table["train"], groups, table["residual"], table["output_multiplier"]


def losses(exported: str, batches: str, seed: int, folded: bool) -> list[float]:
    config = json.loads(Path(batches).with_name("model.json").read_text())
    model = LanguageModel(ModelConfig(**config))
    read = from_python if exported.endswith(".py") else from_json
    train, groups, residual, output_multiplier = read(Path(exported), model, seed, folded)
    if not folded:
        model.residual_attention_L.copy_(torch.tensor(residual["attention"], dtype=torch.float64))
        model.residual_ffn_L.copy_(torch.tensor(residual["ffn"], dtype=torch.float64))
    model.output_multiplier.fill_(output_multiplier)
    optimizer = torch.optim.AdamW(groups, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    seen = []
    steps, warmup = train["steps"], round(train["warmup"] * train["steps"])
    for step, tokens_ST in enumerate(torch.from_numpy(numpy.load(batches))):
        factor = (
            (step + 1) / (warmup + 1)
            if step < warmup
            else 0.5 - 0.5 * math.cos(math.pi * (steps - step) / (steps - warmup))
        )
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        loss, ce = model.loss(tokens_ST[:, :-1], tokens_ST[:, 1:], train["z_loss"])
        optimizer.zero_grad()
        loss.backward()
        if train["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train["clip"])
        optimizer.step()
        seen.append(ce.item())
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    batches, seed, folded, *files = sys.argv[1:]
    print(json.dumps([losses(file, batches, int(seed), folded == "folded") for file in files]))
