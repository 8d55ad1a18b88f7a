"""Processes of a group that run the cases of a JSON file, for `test_parallel.py`.

    python ranks.py 2 cases.json results.json
    python ranks.py 2 train ARGUMENTS             (`completedp train ARGUMENTS`)

They are forked, so that torch is imported once, and find each other as torchrun's do.

A case has a job's `arguments`, its `resolved` values and `seed`. With `double` it trains in float64. With
`stop` it ends after that step. With `ctrl_c`, rank 1 alone is interrupted at that step. Each rank writes
`results.json.<rank>`. For every case this holds the losses (the evaluation's last), metrics, full weights,
the number of elements that the rank holds, and the AdamW groups with the names of the parameters in them.
"""

import json
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp  # imported before the fork

from completedp.__main__ import main as completedp
from completedp.launch import end
from completedp.lm import train
from completedp.lm.parallel import leave
from completedp.optimizer import adamw
from completedp.resolved import Resolved

GRACE = 20  # s


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


def run(cases: str, results: str) -> None:
    torch.set_num_threads(1)
    with open(cases, encoding="utf-8") as file:
        outcome = {name: result_of(case) for name, case in json.load(file).items()}
    with open(f"{results}.{os.environ['RANK']}", "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    leave()
    end(0)


def main(count: str, *arguments: str) -> int:
    """0 if all ranks succeed. After the first failure the others have some seconds to end by themselves."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": count,
        # This process holds the store, as torchrun does.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    left = set()
    for rank in map(str, range(int(count))):
        if pid := os.fork():
            left.add(pid)
            continue
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        try:
            if arguments[0] == "train":
                sys.argv[1:] = arguments
                completedp()
            run(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    failed_at = None
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        left.discard(pid)
        if pid and status and failed_at is None:
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() > failed_at + GRACE:
            for other in left:
                os.kill(other, signal.SIGKILL)
            break
        if not pid:
            time.sleep(0.01)
    return 0 if failed_at is None else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
