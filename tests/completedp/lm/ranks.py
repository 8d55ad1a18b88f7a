"""The program of every process in `test_parallel.py`. It runs the cases of a JSON file in torchrun's group.

    torchrun --nproc-per-node 2 ranks.py cases.json results.json

A case has a job's `arguments`, its `resolved` values and `seed`. With `double` it trains in float64. With
`stop` it ends after that step. With `ctrl_c`, rank 1 alone is interrupted at that step. Each rank writes
`results.json.<rank>`. For every case this holds the losses (the evaluation's last), metrics, full weights,
the number of elements that the rank holds, and the AdamW groups with the names of the parameters in them.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import torch

from completedp.launch import end
from completedp.lm import train
from completedp.lm.parallel import leave
from completedp.optimizer import adamw
from completedp.resolved import Resolved


class Stopped(Exception):
    """Ends a run from its report."""


def result_of(case: dict[str, Any]) -> dict[str, Any]:
    task = train.language_model(**case["arguments"])
    if case.get("double"):
        task.model.double()
    losses: list[float] = []
    made: list[torch.optim.AdamW] = []

    def remembered(*arguments: Any) -> torch.optim.AdamW:
        made.append(adamw(*arguments))
        return made[0]

    train.adamw = remembered  # type: ignore[assignment]

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step == case.get("stop"):
            raise Stopped
        if step == case.get("ctrl_c") and task.group.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)

    metrics = {}
    with suppress(Stopped, KeyboardInterrupt):
        result = task(Resolved.from_dict(case["resolved"]), case["seed"], report)
        losses.append(result.loss)
        metrics = dict(result.metrics)
    parameters = dict(task.model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = [
        {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
        for group in made[0].param_groups
    ]
    return {
        "losses": losses,
        "metrics": metrics,
        "weights": {
            name: task.group.full_tensor(parameter.detach()).double().flatten().tolist()
            for name, parameter in parameters.items()
        },
        "elements": sum(getattr(p, "_local_tensor", p).numel() for p in parameters.values()),
        "groups": groups,
    }


def main(cases: str, results: str) -> None:
    torch.set_num_threads(1)
    with open(cases, encoding="utf-8") as file:
        outcome = {name: result_of(case) for name, case in json.load(file).items()}
    with open(f"{results}.{os.environ['RANK']}", "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    leave()
    end(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
