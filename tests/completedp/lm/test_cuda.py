"""On a GPU: the function that a CPU computes, in both precisions, compiled, resumed, in worker processes."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from completedp.config import ModelConfig
from completedp.lm.train import LanguageModelTask
from completedp.runs.job import Job
from completedp.runs.local import LocalExecutor, devices_of
from completedp.runs.runner import run_job
from completedp.runs.sweep import run_all

from .conftest import losses_of, resolved_for
from .test_train import GOLDEN_CASES


class Stopped(Exception):
    """Ends a run from its report."""


Make = Callable[..., LanguageModelTask]
Jobs = Callable[..., list[Job]]
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.timeout(300),
    # torch.compile's own deprecations, and its advice to use TF32.
    pytest.mark.filterwarnings("default"),
]
# Relative, of every loss of ten steps: float32 sums in another order; products of 8 bits.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}


@pytest.fixture(autouse=True)
def new_graphs() -> None:
    torch._dynamo.reset()


@pytest.fixture
def jobs(arguments: Callable[..., dict[str, Any]]) -> Jobs:
    """So many jobs on the GPU, of two seeds in turn."""

    def build(count: int, lr: float = 0.01, **changes: Any) -> list[Job]:
        made = arguments(device="cuda", **changes)
        values = resolved_for(ModelConfig(**made["model"]), lr=lr)
        task = "completedp.lm.train:language_model"
        return [
            Job(trial=i, task=task, arguments=made, resolved=values, seed=i % 2)
            for i in range(count)
        ]

    return build


def shape(made: LanguageModelTask) -> ModelConfig:
    assert isinstance(made.model_config, ModelConfig)
    return made.model_config


def values_of(made: LanguageModelTask) -> Any:
    return resolved_for(shape(made), types={"lr": {"q": 4.0}, "residual": {"ffn": 0.5}})


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_the_losses_of_a_cpu(task: Make, name: str) -> None:
    case = dict(GOLDEN_CASES[name])
    types = case.pop("types", {})
    cpu, gpu = task(**case), task(device="cuda", **case)
    values = resolved_for(shape(cpu), types=types)
    assert losses_of(gpu, values) == pytest.approx(losses_of(cpu, values), rel=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_and_compilation(task: Make, precision: str, compiled: bool) -> None:
    cpu = task()
    gpu = task(device="cuda", train={"precision": precision, "compile": compiled})
    values = values_of(cpu)
    wanted = losses_of(cpu, values)
    assert losses_of(gpu, values) == pytest.approx(wanted, rel=TOLERANCE[precision])


def test_other_values_compile_nothing(task: Make) -> None:
    made = task(device="cuda", train={"precision": "bfloat16", "compile": True})
    losses_of(made, values_of(made))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    for trial in range(3):
        parts = {"types": {"residual": {"ffn": 1 + trial / 3}}, "depth": {"lr": [1, 1 + trial]}}
        losses_of(made, resolved_for(shape(made), lr=0.01 * (1 + trial), **parts), seed=trial)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_a_diverged_run_is_told_apart(jobs: Jobs) -> None:
    (job,) = jobs(1, lr=1e6, train={"tokens": 256 * 60, "warmup": 0.0})
    outcome = run_job(job)
    assert outcome.status == "diverged"
    assert outcome.steps < 60


@pytest.mark.parametrize("last", [3, 8])
def test_resume_is_exact(task: Make, tmp_path: Path, last: int) -> None:
    changes: dict[str, Any] = {"device": "cuda", "train": {"clip": 0.5}}
    whole = task(**changes)
    values = values_of(whole)
    wanted = losses_of(whole, values)
    kept = {"checkpoints": str(tmp_path), "checkpoint_steps": 2, **changes}

    def report(step: int, loss: float) -> None:
        if step > last:
            raise Stopped

    with pytest.raises(Stopped):
        task(**kept)(values, 0, report)
    after = losses_of(task(**kept), values)
    assert after == wanted[-len(after) :]
    assert len(after) == 10 - last // 2 * 2 + 1


def test_workers_share_a_gpu(jobs: Jobs, tmp_path: Path) -> None:
    with LocalExecutor(3, logs=tmp_path / "logs", devices=devices_of("cuda")) as executor:
        # Another learning rate keeps the third worker busy; two folders, since one runs nothing twice.
        given = [*jobs(2), dataclasses.replace(jobs(1, lr=0.02)[0], trial=2)]
        first, second = (run_all(given, executor, tmp_path / name) for name in ("a", "b"))
    losses = [first[i].loss for i in range(3)]
    assert losses == [second[i].loss for i in range(3)], "a run is a function of values and seed"
    assert len(set(losses)) == 3


def test_a_search(tmp_path: Path) -> None:
    arguments = ["--device", "cuda", "--workers", "3", "--root", str(tmp_path), "--yes", "--json"]
    search = ["search", "--preset", "tiny", "--budget", "12", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", "completedp", *search],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcomes"] == {"completed": 12}
