"""The trainings of a verb that measures: announced with their cost, run, and kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from completedp.cli.options import data_cache
from completedp.cli.output import print_warnings
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.lm.data import Corpus
    from completedp.plan import Plan
    from completedp.recipe import Recipe
    from completedp.runs.job import Event, Job, Outcome
    from completedp.training.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class Training:
    """A plan trained with a seed; `name` is what its line on the terminal begins with."""

    plan: Plan
    seed: int
    name: str


def train_all(
    wanted: Sequence[Training],
    recipe: Recipe,
    folder: Path,
    *,
    device: str,
    workers: int | None,
    root: Path,
    dry_run: bool,
    yes: bool,
    stream: TextIO,
) -> dict[int, Outcome] | None:
    """The outcomes by place in `wanted`, all of one recipe, those of earlier calls on `folder` included; None
    of a dry run.

    An interruption leaves some out. A run is of one text: where that has changed, it is another. Raises
    `UserError` for a device that is not there, a corpus that cannot be read, and without `yes` for what will
    be long or reads its text often.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp.lm.train import pick_device
    from completedp.runs.local import LocalExecutor, default_workers, devices_of
    from completedp.runs.sweep import run_all, unfinished
    from completedp.training.jobs import user_paths
    from completedp.training.run_folder import plan_jobs

    chosen = str(pick_device(device))
    count = workers or default_workers(chosen)
    corpus = _corpus(wanted[0].plan, root)
    digest = None if corpus is None else corpus.digest
    if corpus is not None:
        print(f"data: {corpus.summary(wanted[0].plan.data.source)}", file=stream)
    _warn_of_another_text(recipe, wanted[0].plan.corpus, digest)
    jobs = plan_jobs(
        ((one.plan, one.seed) for one in wanted),
        cache=data_cache(root),
        device=chosen.split(":")[0],
        digest=digest,
    )
    left = unfinished(jobs, folder)
    print(_counted(jobs, left), file=stream)
    longest = None
    if left:
        plans = [wanted[job.trial].plan for job in left]
        cost = _announce(plans, corpus, count, chosen, stream)
        longest = _longest(plans, cost)
        if cost.doubts and not (yes or dry_run):
            raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    if dry_run:
        return None
    with LocalExecutor(
        count,
        logs=folder / "logs",
        paths=user_paths(wanted[0].plan.model, wanted[0].plan.train),
        devices=devices_of(chosen),
    ) as executor:
        return run_all(jobs, executor, folder, forecast=longest, on_event=_printed(wanted, stream))


def end_if_missing(wanted: Sequence[object], outcomes: dict[int, Outcome]) -> None:
    """Exit status 130 where an interruption, or the machine, has left runs out."""
    import typer

    if missing := len(wanted) - len(outcomes):
        print(f"{missing} runs are missing; the same command goes on", file=sys.stderr)
        raise typer.Exit(130)


def _counted(jobs: Sequence[Job], left: Sequence[Job]) -> str:
    from completedp.runs.sweep import identity

    runs = len({identity(job) for job in jobs})
    return f"{runs} runs, {runs - len(left)} of them finished before"


def _announce(
    plans: list[Plan], corpus: Corpus | None, workers: int, device: str, stream: TextIO
) -> Forecast:
    """Say what the plans cost."""
    cost = _cost(plans, corpus, workers, device)
    read = "" if cost.epochs is None else f"up to {cost.epochs:.2g} epochs, "
    print(
        f"{sum(plan.flops for plan in plans):.3g} FLOPs, {read}{workers} at a time on {device}"
        + ("" if cost.seconds is None else f": about {cost.seconds / 60:.0f} min"),
        file=stream,
        flush=True,
    )
    return cost


def _longest(plans: Sequence[Plan], cost: Forecast) -> float | None:
    """Seconds of the largest plan's run; None where nobody knows, as of a loop of the user's."""
    if cost.seconds_per_run is None or any(plan.train.loop for plan in plans):
        return None
    flops = [plan.flops for plan in plans]
    return cost.seconds_per_run * max(flops) * len(flops) / sum(flops)


def _corpus(plan: Plan, root: Path) -> Corpus | None:
    """What the built-in loop reads. Raises `UserError` where that cannot be read."""
    from completedp.lm.data import prepare
    from completedp.training.run_folder import kept_corpus

    if plan.train.loop is not None:
        return None
    cache = data_cache(root)
    if (corpus := kept_corpus(plan, plan.data, cache)) is not None:
        return corpus
    return prepare(plan.data, plan.model.vocab_size, plan.train.eval_tokens, cache)


def _warn_of_another_text(recipe: Recipe, tuned_on: str | None, digest: str | None) -> None:
    if None not in (tuned_on, digest) and tuned_on != digest:
        print_warnings(
            [
                f"the text of {recipe.data.source!r} is not the one the recipe was tuned on (digest "
                f"{digest}, the recipe has {tuned_on})"
            ]
        )


def _cost(plans: list[Plan], corpus: Corpus | None, workers: int, device: str) -> Forecast:
    """Of runs on one corpus."""
    from completedp.training.forecast import Forecast, mean_seconds

    epochs = None
    if corpus is not None:
        epochs = max(plan.scale.tokens for plan in plans) / corpus.tokens("train")
    return Forecast(
        runs=len(plans),
        workers=workers,
        epochs=epochs,
        seconds_per_run=mean_seconds([(plan.model, plan.train) for plan in plans], device),
    )


def _printed(wanted: Sequence[Training], stream: TextIO) -> Callable[[Event], None]:
    """A line a finished run."""
    from completedp.runs.job import Finished

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            outcome, one = event.outcome, wanted[event.outcome.trial]
            loss = outcome.status if outcome.loss is None else f"loss {outcome.loss:.4f}"
            print(
                f"{one.name}, seed {one.seed}: {loss}, {outcome.seconds:.0f} s",
                file=stream,
                flush=True,
            )

    return on_event
