"""A training of some model as a `Job` of the run engine: which training function, with which arguments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from completedp.config import DataConfig, ForeignModel, Model, TrainConfig
from completedp.resolved import Resolved
from completedp.runs.job import Job

TASK = "completedp.lm.train:language_model"
FOREIGN_TASK = "completedp.adapters.task:foreign_model"


def user_paths(model: Model, train: TrainConfig) -> list[Path]:
    """Where workers find the user's own modules: here, as this process does."""
    return [Path.cwd()] if train.loop or isinstance(model, ForeignModel) else []


def training_job(
    model: Model,
    data: DataConfig,
    train: TrainConfig,
    resolved: Resolved,
    *,
    trial: int,
    seed: int,
    split: Literal["select", "report"],
    cache: Path,
    device: str,
    digest: str | None = None,
    **arguments: Any,
) -> Job:
    """By the built-in loop, or by the user's where `train` names one. Every factory takes the same keywords,
    as plain JSON types: model, data, train, split, cache and device; `digest`, of the corpus to train on
    where it is known, and `arguments` are the built-in loop's own."""
    if not train.loop:
        arguments["digest"] = digest
    built_in = FOREIGN_TASK if isinstance(model, ForeignModel) else TASK
    return Job(
        trial=trial,
        task=train.loop or built_in,
        arguments={
            "model": dataclasses.asdict(model),
            "data": dataclasses.asdict(data),
            "train": dataclasses.asdict(train),
            "split": split,
            "cache": str(cache),
            "device": device,
            **arguments,
        },
        resolved=resolved,
        seed=seed,
    )
