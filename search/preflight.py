"""Before anything runs: the choice of a preset, the check of the budget, and its cost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sysconfig
from pathlib import Path

from completedp.config import DataConfig, StudyConfig
from completedp.errors import UserError
from completedp.lm import sources
from completedp.lm.data import Corpus
from completedp.models import external_model, reference_model
from completedp.training.forecast import MOST_EPOCHS, Forecast, mean_seconds
from search.space import Space
from search.study import SMALLEST_BUDGET, Study, confirmation_runs

BYTES_PER_BPE_TOKEN = 4  # roughly, for English text and a 32k vocabulary
PROXY_50M_TOKENS = 1.6e9  # of one run of the preset
# Steps of all runs together from which compiling pays on two CPU cores. It takes each worker half a minute,
# and saves a quarter of a step of `tiny`, 2 to 3 ms.
MANY_STEPS = 100_000


def check_budget(budget: int) -> None:
    """Raises `UserError` for a budget below the smallest one."""
    if budget < SMALLEST_BUDGET:
        raise UserError(
            f"--budget is {budget}; expected at least {SMALLEST_BUDGET} runs: 4 confirm the result on "
            "fresh seeds and 8 search"
        )


def check_stack(stack: int, config: StudyConfig) -> None:
    """Raises `UserError` if `stack` is no number of runs in a worker, or the study's runs do not stack."""
    if stack < 1:
        raise UserError(f"stack is {stack}; expected 1 or more runs in a worker")
    if stack == 1:
        return
    if config.train.loop is not None:
        raise UserError(
            f"stack is {stack}, but the runs are trained by {config.train.loop}, and only the built-in loop "
            "stacks them: leave it at 1"
        )
    reference_model(
        config.model,
        f"stack is {stack}, but only runs of the reference model stack, not of {{source}}: leave it at 1",
    )


def choose_preset(device: str, data: DataConfig) -> tuple[str, str]:
    """The preset that `auto` stands for, and the reason in words."""
    if device == "cpu":
        return "tiny", "there is no GPU: a run must take seconds on one core"
    size = sources.size(data.source)
    enough = PROXY_50M_TOKENS * BYTES_PER_BPE_TOKEN / MOST_EPOCHS
    if size >= enough:
        return (
            "proxy-50m",
            f"a GPU, and {size / 1e9:.1f} GB of text (enough for {MOST_EPOCHS} epochs)",
        )
    return "small", (
        f"a GPU, but {size / 1e9:.2f} GB of text: proxy-50m needs {enough / 1e9:.1f} GB "
        f"for at most {MOST_EPOCHS} epochs"
    )


def with_compilation(
    config: StudyConfig, *, budget: int, device: str, wanted: bool | None
) -> StudyConfig:
    """The study with `train.compile` as `wanted`. None also sets it where that saves time on this machine."""
    if wanted is None:
        many = budget * config.train.steps >= MANY_STEPS
        ours = external_model(config.model) is None and config.train.loop is None
        wanted = config.train.compile or (device == "cpu" and ours and many and can_compile())
    return dataclasses.replace(config, train=dataclasses.replace(config.train, compile=wanted))


def can_compile() -> bool:
    """Whether this machine has what torch needs to compile for CPUs: a C++ compiler and Python's headers."""
    compilers = [os.environ.get("CXX", "g++"), "clang++"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return any(map(shutil.which, compilers)) and headers.exists()


def forecast(
    config: StudyConfig, *, runs: int, workers: int, train_tokens: int | None, device: str
) -> Forecast:
    """The cost of `runs` runs. `train_tokens` is the size of the train split, None if unknown."""
    return Forecast(
        runs=runs,
        workers=workers,
        epochs=config.train.tokens / train_tokens if train_tokens else None,
        seconds_per_run=mean_seconds([(config.model, config.train)], device),
    )


def describe(study: Study, corpus: Corpus | None, cost: Forecast) -> list[str]:
    """The lines printed before a search starts or goes on."""
    config, budget = study.spec.config, study.budget
    space = Space.from_config(config)
    confirming = confirmation_runs(budget)
    searching, on_global, on_ladder = study.search_limit, study.global_limit, study.ladder_limit
    stale = budget - searching - confirming - on_ladder
    before = f" + {float(stale):.4g} that judged before" if stale else ""
    a_run, total = "unknown time", "unknown"
    if cost.seconds_per_run is not None and cost.seconds is not None:
        minutes = cost.seconds / 60
        total = f"about {minutes / 60:.1f} h" if minutes > 90 else f"about {minutes:.0f} min"
        a_run = f"about {cost.seconds_per_run:.0f} s"
    epochs = "" if cost.epochs is None else f"{cost.epochs:.2f} epochs, "
    climbing = f"{float(on_ladder):.4g} for finalists at larger scales + " if on_ladder else ""
    frozen = f" (frozen: {', '.join(config.search.frozen)})" if config.search.frozen else ""
    loop = f"what {config.train.loop} reads"
    compiled = "compiled, " if config.train.compile else ""
    return [
        f"data: {loop if corpus is None else corpus.summary(config.data.source)}",
        f"space: {len(space.part('global'))} global values, {len(space.part('type'))} module-type and "
        f"{len(space.part('depth'))} depth multipliers{frozen}",
        f"budget: {budget} runs = {on_global} global + {float(searching - on_global):.4g} per module + "
        f"{climbing}{confirming} to confirm on fresh seeds{before}; strategy {config.search.strategy}",
        f"a run: {config.train.tokens:,} tokens, {epochs}{compiled}{a_run}; {cost.runs} runs, "
        f"{cost.workers} at a time, {total}",
    ]
