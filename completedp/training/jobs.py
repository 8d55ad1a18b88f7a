"""Trainings as jobs of the run engine: the training function and its arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from completedp import trust
from completedp.config import DataConfig, Model, TrainConfig
from completedp.errors import UserError
from completedp.models import content_of, kind_of
from completedp.plan import Plan
from completedp.resolved import Resolved
from completedp.runs.job import Job

if TYPE_CHECKING:
    from completedp.lm.data import Corpus

# An interruption costs at most a twentieth of a run. A checkpoint is three times as large as the weights.
CHECKPOINTS_PER_RUN = 20


def user_code(model: Model, train: TrainConfig) -> dict[str, str]:
    """The user's own functions, by the key that names them in a file."""
    named = {}
    if train.loop:
        named["train.loop"] = train.loop
    if code := kind_of(model).code(model):
        named["model.source"] = code
    return named


def user_paths(model: Model, train: TrainConfig) -> list[Path]:
    """Folders of the user's own modules for the workers: the current folder, if there can be any."""
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
    """A training by the built-in loop, or by the user's loop if `train` names one.

    Every training function takes the keywords model, data, train, split, cache and device, as plain JSON
    types. Only the built-in loop takes `digest` (of the corpus to train on, None if unknown) and `arguments`.
    Raises `UserError` for user code that was not allowed, because a worker imports whatever a job names.
    """
    for key, name in user_code(model, train).items():
        trust.check(key, name)
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


def plan_job(
    plan: Plan,
    *,
    data: DataConfig,
    seed: int,
    folder: Path | None,
    cache: Path,
    device: str,
    parallel: str | None = None,
    digest: str | None = None,
) -> Job:
    """A plan as a job that is evaluated on the report split.

    Checkpoints go to `folder`, if one is given. `digest` is the corpus's, None if unknown. Raises `UserError`
    for the user's own loop in two cases. With a folder, because such a loop keeps no checkpoints. With an
    external model, because such a loop does not know the base that the values were carried from.
    """
    own = kind_of(plan.model).run_arguments(plan.base, plan.parameterization)
    if plan.train.loop and (folder is not None or own):
        raise UserError(
            f"the plan is to be trained by {plan.train.loop}, and this verb has the built-in loop: take the "
            "values by completedp export or completedp.parametrize, or take train.loop out of the plan"
        )
    arguments: dict[str, Any] = {} if plan.train.loop else {"parallel": parallel, **own}
    if folder is not None:
        arguments["checkpoints"] = str(folder / "checkpoints")
        arguments["checkpoint_steps"] = max(1, plan.train.steps // CHECKPOINTS_PER_RUN)
    return training_job(
        plan.model,
        data,
        plan.train,
        plan.resolved,
        trial=0,
        seed=seed,
        split="report",
        cache=cache,
        device=device,
        digest=digest,
        **arguments,
    )


def plan_jobs(
    runs: Iterable[tuple[Plan, int]], *, cache: Path, device: str, digest: str | None = None
) -> list[Job]:
    """Each plan with its seed as a job without checkpoints. A job's number is its position."""
    shared: dict[str, Any] = {"folder": None, "cache": cache, "device": device, "digest": digest}
    return [
        dataclasses.replace(plan_job(plan, data=plan.data, seed=seed, **shared), trial=i)
        for i, (plan, seed) in enumerate(runs)
    ]


def kept_corpus(plan: Plan, data: DataConfig, cache: Path) -> Corpus | None:
    """The corpus that the plan's recipe was tuned on, if its source is gone and the cache still has it.

    Else None. Raises `UserError` if the cached corpus is damaged.
    """
    from completedp.lm.data import cached_corpus
    from completedp.lm.sources import is_gone

    if plan.corpus is None or plan.train.loop or data != plan.data or not is_gone(data.source):
        return None
    return cached_corpus(data, plan.model.vocab_size, plan.train.eval_tokens, cache, plan.corpus)
