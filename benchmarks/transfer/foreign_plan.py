"""How much time and memory does it take to carry a recipe to a 7B Llama?

    python benchmarks/transfer/foreign_plan.py

The model is built on the meta device. Printed: seconds and MiB until every tensor has its values and its
group in the optimizer.
"""

from __future__ import annotations

import json
import resource
import statistics
import time

import torch

from benchmarks import result
from completedp.adapters.huggingface import build, config_at
from completedp.adapters.infer import inventory_of
from completedp.adapters.parametrized import apply_values
from completedp.hparams import HParams
from completedp.scale import Ratios

RUNS = 7
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32_000,
}
HPARAMS = HParams.from_dict(
    {
        "global": {"lr": 1e-2, "residual_ffn": 0.7},
        "types": {"lr": {"q": 0.5, "unembedding": 6.0}},
        "depth": {"lr": [1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.3, 1.0]},
    }
)


def main() -> None:
    arguments = result.parser(__doc__, "foreign_plan.json").parse_args()
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama", **LLAMA_7B)
    began = time.perf_counter()
    model, base = build(config), build(config_at(config, width=512, depth=8))
    building = time.perf_counter() - began
    before = peak_mib()
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        found = inventory_of(model, base)
        ratios = Ratios(width=8, depth=4, batch=4, tokens=32)
        values = apply_values(model, found, HPARAMS, ratios)
        optimizer = torch.optim.AdamW(values.param_groups())
        seconds.append(time.perf_counter() - began)
    content = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": len(values.tensors),
        "groups": len(optimizer.param_groups),
        "seconds": {
            "first": seconds[0],
            "median": statistics.median(seconds),
            "max": max(seconds),
        },
        "mib_beyond_the_model": peak_mib() - before,
        "seconds_of_building_both_models": building,
        "mib_in_all": peak_mib(),
    }
    result.write(arguments.out, content)
    print(json.dumps(content, indent=1))


def peak_mib() -> float:
    """The process's highest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
