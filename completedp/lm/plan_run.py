"""One training run of a plan in a folder of its own: outcome, curve, weights; resumed if interrupted.

The folder holds `curve.jsonl` (one `{"step", "loss"}` a line, written as the steps are reported),
`checkpoints/` while the run goes on, and at its end `outcome.json` and, unless it diverged,
`model.safetensors`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from completedp import files
from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.plan import Plan
from completedp.runs.job import Job, Outcome, Progress
from completedp.runs.journal import sync_folder
from completedp.runs.runner import run_job, train_function

TASK = "completedp.lm.train:language_model"
# A twentieth of a run is the most that an interruption costs; a checkpoint is three times the weights.
CHECKPOINTS_A_RUN = 20


def run_name(plan: Plan, data: DataConfig, seed: int, stem: str) -> str:
    """A name that only the same run has, so that no other run's results are replaced."""
    content = files.digest({"plan": plan.to_dict(), "data": dataclasses.asdict(data), "seed": seed})
    return f"{stem}-seed{seed}-{content.removeprefix('sha256:')[:8]}"


def plan_job(
    plan: Plan, *, data: DataConfig, seed: int, folder: Path, cache: Path, device: str
) -> Job:
    """The plan as a job: evaluated on the report split, its checkpoints in `folder`."""
    arguments: dict[str, Any] = {
        "model": dataclasses.asdict(plan.model),
        "data": dataclasses.asdict(data),
        "train": dataclasses.asdict(plan.train),
        "split": "report",
        "cache": str(cache),
        "device": device,
        "checkpoints": str(folder / "checkpoints"),
        "checkpoint_steps": max(1, plan.train.steps // CHECKPOINTS_A_RUN),
    }
    return Job(trial=0, task=TASK, arguments=arguments, resolved=plan.resolved, seed=seed)


def run(job: Job, folder: Path, on_progress: Callable[[Progress], None]) -> Outcome:
    """Run the job here and write its folder. Raises `UserError` where the folder cannot be written."""
    train_function(job)  # its refusals come before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); give another place"
        ) from None
    with _Curve(folder / "curve.jsonl") as curve:

        def report(progress: Progress) -> None:
            curve.add(progress.step, progress.loss)
            on_progress(progress)

        outcome = run_job(job, on_progress=report)
    if outcome.status == "completed":
        _keep_weights(folder)
    files.write_json(folder / "outcome.json", outcome.to_dict())
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return outcome


def _keep_weights(folder: Path) -> None:
    """The last checkpoint's weights, already on the disk, become the run's."""
    (last,) = (folder / "checkpoints").glob("step-*")
    os.replace(last / "model.safetensors", folder / "model.safetensors")
    sync_folder(folder)


class _Curve:
    """The curve's file. A resumed run drops what an interrupted one reported after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> _Curve:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, loss: float) -> None:
        if self._file is None:
            files.write_text(self._path, self._before(step))
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._file.write(json.dumps({"step": step, "loss": loss}, allow_nan=False) + "\n")

    def _before(self, step: int) -> str:
        if step == 1 or not self._path.exists():
            return ""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = (
            line for line in lines if line.endswith("\n")
        )  # a killed writer tears the last one
        return "".join(line for line in whole if json.loads(line)["step"] < step)
