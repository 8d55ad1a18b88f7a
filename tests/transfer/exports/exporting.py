"""Shared by the tests of exported files: the tool's own run, and a run of a foreign trainer's process."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from completedp.config import DataConfig
from completedp.lm.data import TrainBatches
from completedp.lm.train import LanguageModelTask, RunArguments
from completedp.plan import Plan
from completedp.recipe import Recipe
from transfer.exports import FORMATS
from transfer.planning.planner import make_plan
from transfer.planning.target import TargetRequest, target_for

SEED = 3
STEPS = 50


def carried(recipe: Recipe, **options: Any) -> Plan:
    target = target_for(recipe, TargetRequest(width=64, depth=3, batch=320, tokens=320 * STEPS))
    return make_plan(recipe, target.scale, target.model, **options)


def of_model(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with another model."""
    model = dataclasses.replace(recipe.model, **values)
    return dataclasses.replace(recipe, model=model)


def of_train(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other settings of the training loop."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **values))


def own_losses(
    plan: Plan, text: Path, folder: Path, dtype: torch.dtype = torch.float32
) -> list[float]:
    """The losses of the tool's own run. Its batches stay in the folder for the foreign trainers."""
    run = RunArguments(
        model=plan.model,
        data=DataConfig(source=str(text)),
        train=plan.train,
        split="report",
        cache=str(folder / "cache"),
        device="cpu",
    )
    task = LanguageModelTask(run)
    task.model.to(dtype)
    losses: list[float] = []
    result = task(plan.resolved, SEED, lambda step, loss: losses.append(loss))
    assert (result.metrics["clipped_fraction"] > 0) == bool(plan.train.clip)
    batches = TrainBatches(
        tokens=task.corpus.split("train"),
        context=plan.model.context,
        sequences=plan.train.batch // plan.model.context,
        seed=SEED,
    )
    np.save(folder / "batches.npy", np.stack([batches.at(i) for i in range(plan.train.steps)]))
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(plan.model)))
    assert len(losses) == plan.train.steps
    return losses


def write(plan: Plan, name: str, folder: Path) -> Path:
    """The path of the exported file, in the foreign trainer's folder."""
    path = folder / FORMATS[name].file_name
    path.write_text(FORMATS[name].render(plan))
    return path


def run_trainer(script: str, *arguments: object) -> Any:
    """The JSON that a script beside this file prints, run in its own process."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
