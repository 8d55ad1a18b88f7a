"""Do two processes under torchrun train as one does, and are they the same to the bit after kill -9?

    python benchmarks/engine/parallel.py --steps 100

A small model with per-module values, accumulation and clipping trains on CPUs with gloo, by DDP and by
FSDP2. Printed for both: the largest relative difference of a training loss, and of the evaluation's,
between one process and two; whether a run of two processes that was killed at random steps and resumed has
the curve and the weights of an uninterrupted one, byte for byte; and how far the same run is off when one
process resumes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.hparams import HParams
from completedp.recipe import Recipe

BATCH = 256
VALUES = {
    "global": {"lr": 4e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "types": {
        "lr": {"unembedding": 6.0, "q": 0.3, "ffn_norm": 2.0},
        "beta2": {"unembedding": 3.0},
        "eps": {"k": 10.0},
        "residual": {"attention": 1.5},
    },
    "depth": {"lr": [1.5, 0.75]},
}


def main() -> None:
    parser = result.parser(__doc__, "parallel.json")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=2, help="in each run of two processes")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments of the kills")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments.steps, arguments.kills, arguments.seed)
    result.write(arguments.out, found)
    print(json.dumps(found, indent=1))
    sys.exit(0 if all(found["resume_bit_equal"].values()) else 1)


def measured(root: Path, steps: int, kills: int, seed: int) -> dict[str, Any]:
    write_recipe(root, steps)
    finish(train(root, "one", 1))
    rng = random.Random(seed)
    found: dict[str, Any] = {
        "steps": steps,
        "relative_loss_difference": {},
        "relative_evaluation_difference": {},
        "killed_after_step": {},
        "resume_bit_equal": {},
        "resumed_by_one_process": {},
    }
    for kind in ("ddp", "fsdp"):
        finish(train(root, kind, 2, kind))
        found["relative_loss_difference"][kind] = difference(root / kind, root / "one")
        ends = [outcome(root / name)["loss"] for name in (kind, "one")]
        found["relative_evaluation_difference"][kind] = abs(ends[0] / ends[1] - 1)
        killed = root / f"{kind}-killed"
        found["killed_after_step"][kind] = moments = []
        for kill in range(kills):
            at = rng.randrange(steps * kill // kills + 1, steps * (kill + 1) // kills)
            moments.append(killed_at(train(root, killed.name, 2, kind), killed, at))
            print(kind, "killed after step", moments[-1], flush=True)
        shutil.copytree(killed, root / f"{kind}-by-one")
        finish(train(root, killed.name, 2, kind))
        found["resume_bit_equal"][kind] = all(
            (killed / name).read_bytes() == (root / kind / name).read_bytes()
            for name in ("curve.jsonl", "model.safetensors")
        )
        finish(train(root, f"{kind}-by-one", 1))
        found["resumed_by_one_process"][kind] = difference(root / f"{kind}-by-one", root / kind)
    return found


def write_recipe(root: Path, steps: int) -> None:
    values = HParams.from_dict(VALUES)
    (root / "text.txt").write_text("".join(f"line {i * i}\n" for i in range(12_000)))
    Recipe(
        parameterization="completed-p",
        model=ModelConfig(width=32, depth=2, head_dim=16, ffn=88, vocab_size=256, context=32),
        data=DataConfig(source=str(root / "text.txt")),
        train=TrainConfig(tokens=BATCH * steps, batch=BATCH, microbatch=64, eval_tokens=1024),
        hparams=values,
        baseline=dataclasses.replace(values, types={}, depth={}),
        provenance={},
    ).write(root / "recipe.yaml")


def train(
    root: Path, name: str, processes: int, kind: str | None = None
) -> subprocess.Popen[bytes]:
    """Start or resume the run in the folder `name`."""
    verb = ["-m", "completedp", "train", "recipe.yaml", "--out", name, "--device", "cpu"]
    start = [sys.executable]
    if kind is not None:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        verb += ["--parallel", kind]
    log = (root / f"{name}.log").open("ab")
    return subprocess.Popen(
        start + verb,
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with status {process.returncode}")


def killed_at(process: subprocess.Popen[bytes], run: Path, step: int) -> int:
    """Kill -9 torchrun and its processes once the step is reported; returns the last reported step."""
    while last_step(run) < step:
        if process.poll() is not None:
            raise SystemExit(f"the run ended before step {step}: give more --steps")
        time.sleep(0.01)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    for pid in (process.pid, *(int(pid) for t in tasks for pid in t.read_text().split())):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    return last_step(run)


def curve(run: Path) -> list[dict[str, Any]]:
    path = run / "curve.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last_step(run: Path) -> int:
    return max((point["step"] for point in curve(run)), default=0)


def difference(run: Path, other: Path) -> float:
    """The largest relative difference of a training loss."""
    pairs = zip(curve(run), curve(other), strict=True)
    return max(abs(float(a["loss"]) / float(b["loss"]) - 1) for a, b in pairs)


def outcome(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "outcome.json").read_text())
    return data


if __name__ == "__main__":
    main()
