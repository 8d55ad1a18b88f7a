"""How many graphs torch.compile makes for trials of different hyperparameters.

python benchmarks/compilations.py [--trials 20]

A trial sets a value of every kind anew, globally, for a module type and over the depth. The first one
compiles the graphs of training and of evaluation; the others should compile nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
import time
from pathlib import Path

from torch._dynamo.utils import counters

from completedp import files
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.lm.train import language_model
from completedp.resolved import resolve
from completedp.scale import Ratios

RESULTS = Path(__file__).parent / "results"
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    config = load_preset("tiny")
    train = dataclasses.replace(config.train, tokens=STEPS * config.train.batch, compile=True)
    rng = random.Random(0)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        parts = {"model": vars(config.model), "data": vars(config.data), "train": vars(train)}
        task = language_model(**parts, split="select", cache=cache, device=arguments.device)
        for trial in range(arguments.trials):
            began = time.perf_counter()
            values = resolve(
                hparams(rng, config.model.depth), config.model.inventory(config.model), Ratios()
            )
            loss = task(values, trial, lambda step, loss: None).loss
            seconds = time.perf_counter() - began
            rows.append(
                {"loss": loss, "seconds": seconds, "graphs": counters["stats"]["unique_graphs"]}
            )
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": f"python benchmarks/compilations.py --trials {arguments.trials}",
        "graphs_after_the_first_trial": rows[0]["graphs"],
        "graphs_after_the_last": rows[-1]["graphs"],
        "rows": rows,
    }
    files.write_json(RESULTS / "compilations.json", result)


def hparams(rng: random.Random, depth: int) -> HParams:
    """Every kind of value, none as in another trial."""

    def octave() -> float:
        return float(2 ** rng.uniform(-1, 1))

    kinds = ("lr", "weight_decay", "beta1", "beta2", "eps", "init_scale")
    return HParams.from_dict(
        {
            "global": {
                "lr": 0.005 * octave(),
                "weight_decay": 0.1 * octave(),
                "beta1": 1 - 0.1 * octave(),
                "beta2": 1 - 0.05 * octave(),
                "eps": 1e-8 * octave(),
                "init_scale": octave(),
                "residual_attention": octave(),
                "residual_ffn": octave(),
            },
            "types": {
                **{kind: {"q": octave(), "ffn_down": octave()} for kind in kinds},
                "residual": {"attention": octave(), "ffn": octave()},
            },
            "depth": {
                "lr": [octave() for _ in range(depth)],
                "residual": [octave() for _ in range(depth)],
            },
        }
    )


if __name__ == "__main__":
    main()
