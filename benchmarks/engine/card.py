"""How fast does a GPU train the presets, and how much more do several runs get out of one card?

    python benchmarks/engine/card.py --presets tiny small proxy-50m --shared small --workers 1 4 8

First each preset trains alone, eagerly and compiled. Printed: tokens a second, model FLOPs a second and
their share of the card's peak (MFU), memory, and seconds to the first losses (compilation). Then runs of
the preset `--shared` train in 1, 4 and 8 worker processes on the same card. The text is real. A run alone
reads it as bytes, because the training of a tokenizer says nothing about the card.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import result
from completedp.config import Model, TrainConfig
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.lm.train import language_model
from completedp.models import own_inventory
from completedp.resolved import Resolved, resolve
from completedp.runs.local import LocalExecutor, devices_of
from completedp.runs.sweep import run_all
from completedp.scale import Ratios
from completedp.training.jobs import training_job

# Enough to be steady, and short: a step of `tiny` takes milliseconds, one of `proxy-50m` a tenth of a second.
STEPS = {"tiny": 300, "small": 200, "proxy-50m": 30}
WAYS = {
    "tiny": (("float32", False), ("bfloat16", True)),
    "small": (("float32", False), ("bfloat16", False), ("bfloat16", True)),
    "proxy-50m": (("bfloat16", False), ("bfloat16", True)),
}


def main() -> None:
    parser = result.parser(__doc__, "card.json")
    parser.add_argument("--presets", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--shared", default="small", choices=list(STEPS))
    parser.add_argument("--workers", type=int, nargs="*", default=(1, 4, 8))
    arguments = parser.parse_args()
    content: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "speed": [],
        "shared": [],
    }
    with tempfile.TemporaryDirectory() as cache:
        for name in arguments.presets:
            for precision, compiled in WAYS[name]:
                row = speed(name, precision, compiled, cache)
                content["speed"].append(row)
                print(json.dumps(row), flush=True)
                result.write(arguments.out, content)
        for workers in arguments.workers:
            row = shared(arguments.shared, workers, Path(cache))
            content["shared"].append(row)
            print(json.dumps(row), flush=True)
            result.write(arguments.out, content)


def case(name: str, **changes: Any) -> tuple[Model, TrainConfig, Resolved]:
    """The preset's model, its training cut to `STEPS`, and its values."""
    config = load_preset(name)
    tokens = STEPS[name] * config.train.batch
    train = dataclasses.replace(config.train, tokens=tokens, **changes)
    values = resolve(HParams(global_=config.values), own_inventory(config.model), Ratios())
    return config.model, train, values


def speed(name: str, precision: str, compiled: bool, cache: str) -> dict[str, Any]:
    """One run alone on the card."""
    model, train, values = case(name, precision=precision, compile=compiled)
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    data = {"source": "embedded", "tokenizer": "bytes"}
    parts = {"model": vars(model), "data": data, "train": vars(train)}
    task = language_model(**parts, split="select", cache=cache, device="cuda")
    first: list[float] = []
    began = time.perf_counter()

    def report(step: int, loss: float) -> None:
        first.append(time.perf_counter() - began)

    found = task(values, 0, report)
    return {
        "preset": name,
        "precision": precision,
        "compiled": compiled,
        "steps": train.steps,
        "seconds_to_first_losses": first[0],
        "seconds": time.perf_counter() - began,
        "loss": found.loss,
        "peak_memory_GiB": torch.cuda.max_memory_allocated() / 2**30,
        **{k: found.metrics.get(k) for k in ("tokens_per_second", "flops_per_second", "mfu")},
    }


def shared(name: str, workers: int, cache: Path) -> dict[str, Any]:
    """Runs in `workers` processes at once; each has compiled its code before the clock starts."""
    model, train, values = case(name)
    data = load_preset(name).data
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalExecutor(workers, logs=Path(folder) / "logs", devices=devices_of("cuda")) as executor,
    ):
        took = []
        for part in range(2):
            jobs = [
                training_job(
                    model,
                    data,
                    train,
                    values,
                    trial=part * 1000 + i,
                    seed=part * 1000 + i,
                    split="select",
                    cache=cache,
                    device="cuda",
                )
                for i in range(workers * (part + 1))
            ]
            began = time.perf_counter()
            run_all(jobs, executor, Path(folder))
            took.append(time.perf_counter() - began)
    return {
        "preset": name,
        "workers": workers,
        "seconds_of_the_first_round": took[0],
        "runs": len(jobs),
        "seconds": took[1],
        "tokens_per_second": len(jobs) * train.tokens / took[1],
    }


if __name__ == "__main__":
    main()
