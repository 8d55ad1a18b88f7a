"""Many trainings of one recipe's plans: their cost is announced, they run, and a folder keeps their outcomes.

`speedup`, `transfer-check` and the benchmarks of carried recipes call it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from completedp import root_layout
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.lm.data import Corpus
    from completedp.plan import Plan
    from completedp.recipe import Recipe
    from completedp.runs.job import Event, Outcome
    from completedp.training.forecast import Forecast

Say = Callable[[str], object]


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A plan to be trained with a seed. `name` begins its line of progress."""

    plan: Plan
    seed: int
    name: str


def train_all(
    wanted: Sequence[Training],
    recipe: Recipe,
    folder: Path,
    *,
    root: Path,
    device: str = "auto",
    workers: int | None = None,
    dry_run: bool = False,
    yes: bool = False,
    say: Say = print,
    warn: Say = _warn,
) -> dict[int, Outcome] | None:
    """Train the runs that `folder` does not have yet, and return each outcome by its position in `wanted`.

    All plans are of one recipe. An interruption leaves outcomes out, and the next call goes on. A dry run
    trains nothing and returns None. If the text has changed, its runs are new ones.

    Raises `UserError` for a device that is not there and for a corpus that cannot be read. Unless `yes` is
    given, it also raises if the runs will be long or will read their text often.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp.lm.train import pick_device
    from completedp.runs.local import LocalExecutor, default_workers, devices_of
    from completedp.runs.sweep import identity, run_all, unfinished
    from completedp.training.jobs import plan_jobs, user_paths

    first = wanted[0].plan
    chosen = str(pick_device(device))
    count = workers or default_workers(chosen)
    corpus = _corpus(first, root)
    digest = None if corpus is None else corpus.digest
    if corpus is not None:
        say(f"data: {corpus.summary(first.data.source)}")
    if None not in (first.corpus, digest) and first.corpus != digest:
        warn(
            f"the text of {recipe.data.source!r} is not the one the recipe was tuned on (digest {digest}, "
            f"the recipe has {first.corpus})"
        )
    jobs = plan_jobs(
        ((training.plan, training.seed) for training in wanted),
        cache=root_layout.data_cache(root),
        device=chosen.split(":")[0],
        digest=digest,
    )
    left = unfinished(jobs, folder)
    runs = len({identity(job) for job in jobs})
    say(f"{runs} runs, {runs - len(left)} of them finished before")
    longest = None
    if left:
        plans = [wanted[job.trial].plan for job in left]
        cost = _cost(plans, corpus, count, chosen)
        say(_announcement(plans, cost, chosen))
        longest = _longest(plans, cost)
        if cost.doubts and not (yes or dry_run):
            raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    if dry_run:
        return None
    with LocalExecutor(
        count,
        logs=folder / root_layout.LOGS,
        paths=user_paths(first.model, first.train),
        devices=devices_of(chosen),
    ) as executor:
        return run_all(jobs, executor, folder, forecast=longest, on_event=_progress(wanted, say))


def _corpus(plan: Plan, root: Path) -> Corpus | None:
    """The corpus of the built-in loop, None for the user's loop. Raises `UserError` if it cannot be read."""
    from completedp.lm.data import prepare
    from completedp.training.jobs import kept_corpus

    if plan.train.loop is not None:
        return None
    cache = root_layout.data_cache(root)
    if (corpus := kept_corpus(plan, plan.data, cache)) is not None:
        return corpus
    return prepare(plan.data, plan.model.vocab_size, plan.train.eval_tokens, cache)


def _cost(plans: Sequence[Plan], corpus: Corpus | None, workers: int, device: str) -> Forecast:
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


def _announcement(plans: Sequence[Plan], cost: Forecast, device: str) -> str:
    epochs = "" if cost.epochs is None else f"up to {cost.epochs:.2g} epochs, "
    minutes = "" if cost.seconds is None else f": about {cost.seconds / 60:.0f} min"
    flops = sum(plan.flops for plan in plans)
    return f"{flops:.3g} FLOPs, {epochs}{cost.workers} at a time on {device}{minutes}"


def _longest(plans: Sequence[Plan], cost: Forecast) -> float | None:
    """Seconds of the largest plan's run. None if unknown, as for the user's own loop."""
    if cost.seconds_per_run is None or any(plan.train.loop for plan in plans):
        return None
    flops = [plan.flops for plan in plans]
    return cost.seconds_per_run * max(flops) * len(flops) / sum(flops)


def _progress(wanted: Sequence[Training], say: Say) -> Callable[[Event], None]:
    """Say one line per finished run."""
    from completedp.runs.job import Finished

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            outcome, training = event.outcome, wanted[event.outcome.trial]
            loss = outcome.status if outcome.loss is None else f"loss {outcome.loss:.4f}"
            say(f"{training.name}, seed {training.seed}: {loss}, {outcome.seconds:.0f} s")

    return on_event
