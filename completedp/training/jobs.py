"""A training of some model as a `Job` of the run engine: which training function, with which arguments."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from completedp import trust
from completedp.config import DataConfig, Model, TrainConfig
from completedp.models import content_of, kind_of
from completedp.resolved import Resolved
from completedp.runs.job import Job


def user_code(model: Model, train: TrainConfig) -> dict[str, str]:
    """The user's own functions, by the keys under which a file names them."""
    named = {}
    if train.loop:
        named["train.loop"] = train.loop
    if code := kind_of(model).code(model):
        named["model.source"] = code
    return named


def user_paths(model: Model, train: TrainConfig) -> list[Path]:
    """Where workers find the user's own modules: here, as this process does."""
    return [Path.cwd()] if train.loop or kind_of(model).needs_working_folder else []


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
    where it is known, and `arguments` are the built-in loop's own. Raises `UserError` for code of the user's
    that nobody has asked for."""
    for key, name in user_code(model, train).items():
        trust.check(key, name)  # a worker imports what it is given
    if not train.loop:
        arguments["digest"] = digest
    return Job(
        trial=trial,
        task=train.loop or kind_of(model).task,
        arguments={
            "model": content_of(model),
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
