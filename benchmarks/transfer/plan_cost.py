"""Planned parameters and FLOPs against the instantiated model and torch's counter, and a 70B plan's time.

    python benchmarks/plan_cost.py

Torch counts products; those that the model's own norms make in backward to sum rows are taken out, as they
are no work of the architecture. The plan is made by the command line in a fresh process each time.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from completedp import files, flops
from completedp.config import ModelConfig
from completedp.hparams import HParams
from completedp.lm.model import LanguageModel
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe

RESULTS = Path(__file__).parent / "results"
RUNS = 7
BASE = ModelConfig(width=128, depth=2, head_dim=32, ffn=352, vocab_size=512, context=64)
GRID = [
    {"width": width, "depth": depth, "ffn": round(2.75 * width)}
    for width in (64, 128, 256, 512)
    for depth in (1, 3, 8)
]
CHANGES: list[dict[str, Any]] = [
    *GRID,
    {"queries_per_kv": 2},
    {"queries_per_kv": 4},
    {"activation": "gelu", "ffn": 512},
    {"qk_norm": False},
    {"context": 256},
    {"vocab_size": 4096},
    {"head_dim": 64},
    {"queries_per_kv": 4, "activation": "gelu", "qk_norm": False, "context": 128},
]


def main() -> None:
    rows = [compared(dataclasses.replace(BASE, **change)) for change in CHANGES]
    result = {
        "command": "python benchmarks/plan_cost.py",
        "shapes": len(rows),
        "worst_flops_percent": max(abs(row["flops_percent"]) for row in rows),
        "parameters_equal": all(row["parameters_equal"] for row in rows),
        "plan_70b_seconds": timed(),
        "rows": rows,
    }
    files.write_json(RESULTS / "plan_cost.json", result)
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


def compared(model_config: ModelConfig) -> dict[str, Any]:
    """One shape's planned numbers against the model's own."""

    def plain_norm(x_D: torch.Tensor, gain_D: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x_D, gain_D.shape, gain_D, 1e-6)

    with mock.patch("completedp.lm.model.rms_norm", plain_norm):
        model = LanguageModel(model_config)
        tokens_BT = torch.zeros(2, model_config.context, dtype=torch.long)
        # Only the plain kernel recomputes nothing in backward.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            logits_BTV = model(tokens_BT)
            logits_BTV.sum().backward()
    planned = flops.training_flops(model_config, tokens_BT.numel())
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "model": dataclasses.asdict(model_config),
        "flops_percent": 100 * (planned / counter.get_total_flops() - 1),
        "parameters_equal": flops.parameter_count(model_config) == parameters,
    }


def timed() -> dict[str, float]:
    """Seconds of `completedp transfer` to 70 billion parameters, a recipe of `proxy-50m`'s shape."""
    preset = load_preset("proxy-50m")
    types = {"lr": {"unembedding": 4.0, "q": 0.5}, "weight_decay": {"embedding": 2.0}}
    values = dataclasses.asdict(preset.values)
    recipe = Recipe(
        parameterization="completed-p",
        model=preset.model,
        data=preset.data,
        train=preset.train,
        hparams=HParams.from_dict({"global": values, "types": types}),
        baseline=HParams.from_dict({"global": values}),
        provenance={},
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "recipe.yaml"
        recipe.write(place)
        how = ["--parameters", "70e9", "--tensor-parallel", "8", "--out", f"{folder}/plan.yaml"]
        for _ in range(RUNS + 1):
            began = time.perf_counter()
            subprocess.run(
                ["completedp", "transfer", str(place), *how], check=True, capture_output=True
            )
            seconds.append(time.perf_counter() - began)
    seconds = seconds[1:]  # the first fills the file cache
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


if __name__ == "__main__":
    main()
