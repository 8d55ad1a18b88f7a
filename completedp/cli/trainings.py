"""The trainings of a verb that measures: announced with their cost, run, and kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from completedp.cli.options import data_cache
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.lm.cost import Forecast
    from completedp.plan import Plan
    from completedp.runs.job import Event, Job, Outcome


@dataclass(frozen=True, kw_only=True)
class Training:
    """A plan trained with a seed; `name` is what its line on the terminal begins with."""

    plan: Plan
    seed: int
    name: str


def train_all(
    wanted: Sequence[Training],
    folder: Path,
    *,
    device: str,
    workers: int | None,
    root: Path,
    dry_run: bool,
    yes: bool,
    stream: TextIO,
) -> dict[int, Outcome] | None:
    """The outcomes by place in `wanted`, those of earlier calls on `folder` included; None of a dry run.

    An interruption leaves some out. Raises `UserError` for a device that is not there, a corpus that
    cannot be read, and without `yes` for what will be long or reads its text often.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp.lm.plan_run import plan_jobs
    from completedp.lm.tasks import user_paths
    from completedp.lm.train import pick_device
    from completedp.runs.local import LocalExecutor, default_workers, devices_of
    from completedp.runs.sweep import run_all, unfinished

    chosen = str(pick_device(device))
    count = workers or default_workers(chosen)
    jobs = plan_jobs(
        ((one.plan, one.seed) for one in wanted),
        cache=data_cache(root),
        device=chosen.split(":")[0],
    )
    left = unfinished(jobs, folder)
    print(_counted(jobs, left), file=stream)
    if left:
        doubts = _announce([wanted[job.trial].plan for job in left], count, chosen, root, stream)
        if doubts and not (yes or dry_run):
            raise UserError(f"{'; '.join(doubts)}: add --yes if that is meant")
    if dry_run:
        return None
    with LocalExecutor(
        count,
        logs=folder / "logs",
        paths=user_paths(wanted[0].plan.model, wanted[0].plan.train),
        devices=devices_of(chosen),
    ) as executor:
        return run_all(jobs, executor, folder, on_event=_printed(wanted, stream))


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
    plans: list[Plan], workers: int, device: str, root: Path, stream: TextIO
) -> list[str]:
    """Say what the plans cost; the doubts about it."""
    cost = _cost(plans, workers, device, root)
    read = "" if cost.epochs is None else f"up to {cost.epochs:.2g} epochs, "
    print(
        f"{sum(plan.flops for plan in plans):.3g} FLOPs, {read}{workers} at a time on {device}"
        + ("" if cost.seconds is None else f": about {cost.seconds / 60:.0f} min"),
        file=stream,
        flush=True,
    )
    return cost.doubts


def _cost(plans: list[Plan], workers: int, device: str, root: Path) -> Forecast:
    """Of runs on one corpus. Raises `UserError` where that cannot be read."""
    from completedp.lm.cost import Forecast, training_seconds
    from completedp.lm.data import prepare

    plan, epochs = plans[0], None
    if plan.train.loop is None:
        corpus = prepare(plan.data, plan.model.vocab_size, plan.train.eval_tokens, data_cache(root))
        epochs = max(plan.scale.tokens for plan in plans) / corpus.tokens("train")
    mean_flops = sum(plan.flops for plan in plans) / len(plans)
    return Forecast(
        runs=len(plans),
        workers=workers,
        epochs=epochs,
        seconds_per_run=training_seconds(mean_flops, device, plan.train.precision),
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
