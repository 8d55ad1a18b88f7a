"""What does a training step of a run cost in a stack, and alone?

    python benchmarks/engine/stacked.py --batches 512 2048 --stacks 1 2 4 8

Runs of `tiny`'s shape on one thread, each with other values and another seed. Stacks and the solo run take
turns, `--rounds` times. Printed: CPU milliseconds of a step and member, the median over the rounds of each
round's median.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks import result
from completedp.config import ModelConfig, StudyConfig
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.lm.stacked.stack import Stack
from completedp.lm.train import LanguageModelTask, RunArguments
from completedp.models import own_inventory
from completedp.resolved import Resolved, resolve
from completedp.runs.job import Job
from completedp.scale import Ratios

Time = Callable[[], float]


def main() -> None:
    parser = result.parser(__doc__, "stacked.json")
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--stacks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in arguments.batches:
            run = run_of(batch, arguments.steps, Path(folder))
            times = {"solo": solo(run)}
            times |= {f"stack of {k}": stacked(run, k) for k in arguments.stacks}
            rounds = [{name: one() for name, one in times.items()} for _ in range(arguments.rounds)]
            row = {name: statistics.median(r[name] for r in rounds) for name in times}
            rows.append({"batch": batch, "milliseconds": row})
            print(json.dumps(rows[-1]), flush=True)
    result.write(arguments.out, {"torch": torch.__version__, "rows": rows})


def run_of(batch: int, steps: int, cache: Path) -> RunArguments[ModelConfig]:
    """A short run of the preset `tiny` with this batch in tokens."""
    config = tiny()
    train = dataclasses.replace(
        config.train, tokens=steps * batch, batch=batch, eval_tokens=8 * config.model.context
    )
    return RunArguments(
        model=config.model,
        data=config.data,
        train=train,
        split="select",
        cache=str(cache),
        device="cpu",
    )


def tiny() -> StudyConfig:
    return load_preset("tiny")


def values(trial: int) -> Resolved:
    """Learning rates that differ between all module types, so that few groups can be merged."""
    config = tiny()
    inventory = own_inventory(config.model)
    types = {kind: 2 ** (0.1 * (i + trial)) for i, kind in enumerate(inventory.module_types)}
    return resolve(HParams(global_=config.values, types={"lr": types}), inventory, Ratios())


def solo(run: RunArguments[ModelConfig]) -> Time:
    task, resolved = LanguageModelTask(run), values(0)

    def one() -> float:
        ends: list[float] = []
        task(resolved, 0, lambda step, loss: ends.append(time.process_time()))
        return step_milliseconds(ends)

    return one


def stacked(run: RunArguments[ModelConfig], members: int) -> Time:
    stack = Stack(run, members)
    jobs = [Job(trial=i, task="", arguments={}, resolved=values(i), seed=i) for i in range(members)]

    def one() -> float:
        for job in jobs:
            stack.start(job, run)
        ends: list[float] = []
        while stack.members:
            stack.advance()
            ends.append(time.process_time())
        return step_milliseconds(ends[:-1]) / members  # the last one evaluates

    return one


def step_milliseconds(ends: Sequence[float]) -> float:
    return 1e3 * statistics.median(after - before for before, after in pairwise(ends))


if __name__ == "__main__":
    main()
