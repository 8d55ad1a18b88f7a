"""One training run of a plan in a folder of its own: outcome, curve, weights; resumed if interrupted.

The folder holds `curve.jsonl` (one `{"step", "loss"}` a line, written as the steps are reported),
`checkpoints/` while the run goes on, `lock`, and at its end, unless it diverged, `model.safetensors`.
`outcome.json` is written last: where it is the run is finished, wherever a kill fell.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from completedp import files
from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.plan import Plan
from completedp.runs.job import Job, Outcome, Progress
from completedp.runs.journal import sync
from completedp.runs.lock import Lock
from completedp.runs.runner import run_job, train_function

_OUTCOME = "outcome.json"
TASK = "completedp.lm.train:language_model"
# A twentieth of a run is the most that an interruption costs; a checkpoint is three times the weights.
CHECKPOINTS_A_RUN = 20


def run_name(plan: Plan, data: DataConfig, seed: int, stem: str) -> str:
    """A name that only the same run has, so that no other run's results are replaced."""
    content = files.digest({"plan": plan.to_dict(), "data": dataclasses.asdict(data), "seed": seed})
    return f"{stem}-seed{seed}-{content.removeprefix('sha256:')[:8]}"


def plan_job(
    plan: Plan, *, data: DataConfig, seed: int, folder: Path | None, cache: Path, device: str
) -> Job:
    """The plan as a job: evaluated on the report split, its checkpoints in `folder` where one is given."""
    arguments: dict[str, Any] = {
        "model": dataclasses.asdict(plan.model),
        "data": dataclasses.asdict(data),
        "train": dataclasses.asdict(plan.train),
        "split": "report",
        "cache": str(cache),
        "device": device,
    }
    if folder is not None:
        arguments["checkpoints"] = str(folder / "checkpoints")
        arguments["checkpoint_steps"] = max(1, plan.train.steps // CHECKPOINTS_A_RUN)
    return Job(trial=0, task=TASK, arguments=arguments, resolved=plan.resolved, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run's end. `before`: an earlier call had finished it, and this one has trained nothing."""

    outcome: Outcome
    before: bool


def run(job: Job, folder: Path, on_progress: Callable[[Progress], None]) -> Ended:
    """Run the job here and write its folder; where that holds the finished job, give its outcome again.

    Raises `UserError` where the folder cannot be written, is being written by another process, or holds
    another finished run.
    """
    identity = _identity(job)  # refusals of the data come before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); give another place"
        ) from None
    with Lock(folder / "lock", "run"):
        outcome = _finished(folder, identity)
        before = outcome is not None
        if outcome is None:
            outcome = _train(job, folder, on_progress)
            files.write_json(folder / _OUTCOME, {"run": identity, **outcome.to_dict()})
            sync(folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Ended(outcome=outcome, before=before)


def _identity(job: Job) -> str:
    """A digest of all that the run's numbers depend on: the one that its checkpoints carry."""
    from completedp.lm.train import LanguageModelTask

    task = train_function(job)
    assert isinstance(task, LanguageModelTask), "made by `plan_job`"
    return files.digest(task.run_content(job.resolved, job.seed))


def _finished(folder: Path, identity: str) -> Outcome | None:
    path = folder / _OUTCOME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("run") == identity:
            return Outcome.from_dict(data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: not the outcome of a run; remove it, or give another place"
        ) from None
    raise UserError(
        f"{folder}: holds the finished run of other values, data or seed; give another place, or "
        "remove it"
    )


def _train(job: Job, folder: Path, on_progress: Callable[[Progress], None]) -> Outcome:
    with _Curve(folder / "curve.jsonl") as curve:

        def report(progress: Progress) -> None:
            curve.add(progress.step, progress.loss)
            on_progress(progress)

        outcome = run_job(job, on_progress=report)
    if outcome.status == "completed":
        _keep_weights(folder)
    return outcome


def _keep_weights(folder: Path) -> None:
    """The last checkpoint's weights, already on the disk, are the run's too; the checkpoint stays, so
    that a run killed right after goes on from it."""
    from completedp.lm.checkpoint import newest

    last = newest(folder / "checkpoints")
    assert last is not None, "a completed run ends with a checkpoint"
    kept = folder / "model.safetensors"
    kept.unlink(missing_ok=True)  # of a run that was killed before its outcome was written
    try:
        os.link(last / kept.name, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(last / kept.name, kept)
        sync(kept)


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
