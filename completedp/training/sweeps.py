"""Many trainings at once: their cost is announced, they run, and a folder keeps their outcomes.

`train_all` trains plans of one recipe, for `speedup`, `transfer-check` and the benchmarks of carried recipes.
`completedp proxy` has no recipe yet and puts its measurement together from the parts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from completedp import root_layout
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.config import Model, TrainConfig
    from completedp.lm.data import Corpus
    from completedp.plan import Plan
    from completedp.recipe import Recipe
    from completedp.runs.job import Event, Outcome
    from completedp.runs.local import LocalExecutor

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
    from completedp.models import training_flops
    from completedp.runs.sweep import identity, run_all, unfinished
    from completedp.training.jobs import plan_jobs

    first = wanted[0].plan
    machine = machine_for(device, workers)
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
        device=machine.kind,
        digest=digest,
    )
    left = unfinished(jobs, folder)
    runs = len({identity(job) for job in jobs})
    say(f"{runs} runs, {runs - len(left)} of them finished before")
    plans = [wanted[job.trial].plan for job in left]
    longest = announce(
        [(plan.model, plan.train) for plan in plans],
        corpus,
        machine,
        accepted=yes or dry_run,
        say=say,
    )
    if dry_run:
        return None
    with machine.executor(first.model, first.train, folder) as executor:
        names = [f"{training.name}, seed {training.seed}" for training in wanted]
        flops = [training_flops(t.plan.model, t.plan.train.tokens) for t in wanted]
        shown = progress(names, flops, Countdown([flops[job.trial] for job in left]), say)
        return run_all(jobs, executor, folder, forecast=longest, on_event=shown)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device and the number of runs that train on it at a time."""

    device: str
    workers: int

    @property
    def kind(self) -> str:
        """cpu or cuda, as jobs have it: any card does."""
        return self.device.split(":")[0]

    def executor(self, model: Model, train: TrainConfig, folder: Path) -> LocalExecutor:
        """Workers that train this model. Their logs are in the folder of the runs."""
        from completedp.runs.local import LocalExecutor, devices_of
        from completedp.training.jobs import user_paths

        return LocalExecutor(
            self.workers,
            logs=folder / root_layout.LOGS,
            paths=user_paths(model, train),
            devices=devices_of(self.device),
        )


def machine_for(device: str, workers: int | None) -> Machine:
    """This machine's device, with one run at a time per core or GPU if `workers` is None.

    Raises `UserError` for a device that is not there, and for fewer than one worker.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers take the cores
    from completedp.lm.train import pick_device
    from completedp.runs.local import default_workers

    chosen = str(pick_device(device))
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}; expected 1 or more")
    return Machine(device=chosen, workers=workers or default_workers(chosen))


def announce(
    trainings: Sequence[tuple[Model, TrainConfig]],
    corpus: Corpus | None,
    machine: Machine,
    *,
    accepted: bool,
    say: Say,
) -> float | None:
    """Say what the trainings cost, and return the seconds of the longest one.

    None if there are no trainings, and if their time is unknown, as for the user's own loop. Raises
    `UserError` if they will be long or will read their text often, unless that is `accepted`.
    """
    if not trainings:
        return None
    from completedp.models import training_flops
    from completedp.training.forecast import Forecast, mean_seconds

    flops = [training_flops(model, train.tokens) for model, train in trainings]
    tokens = max(train.tokens for _, train in trainings)
    cost = Forecast(
        runs=len(trainings),
        workers=machine.workers,
        epochs=None if corpus is None else tokens / corpus.tokens("train"),
        seconds_per_run=mean_seconds(trainings, machine.device),
    )
    epochs = "" if cost.epochs is None else f"up to {cost.epochs:.2g} epochs, "
    minutes = "" if cost.seconds is None else f": about {cost.seconds / 60:.0f} min"
    say(f"{sum(flops):.3g} FLOPs, {epochs}{cost.workers} at a time on {machine.device}{minutes}")
    if cost.doubts and not accepted:
        raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    if cost.seconds_per_run is None or any(train.loop for _, train in trainings):
        return None
    return cost.seconds_per_run * max(flops) * len(flops) / sum(flops)


class Countdown:
    """Counts the runs that are left to train, and the time for them, which goes by their FLOPs."""

    def __init__(self, flops: Sequence[float], now: Callable[[], float] = time.monotonic) -> None:
        self._runs, self._flops = len(flops), sum(flops)
        self._ended, self._spent = 0, 0.0
        self._now, self._began = now, now()

    def ended(self, flops: float) -> tuple[str, str]:
        """Count a run. Returns its place, as `3/6`, and the time left, as `, 4 min left`."""
        self._ended += 1
        self._spent += flops
        rest = self._flops - self._spent
        seconds = (self._now() - self._began) * rest / self._spent
        left = f", {seconds / 60:.0f} min left" if seconds >= 60 else f", {seconds:.0f} s left"
        return f"{self._ended}/{self._runs}", left if self._ended < self._runs else ""


def progress(
    names: Sequence[str], flops: Sequence[float], countdown: Countdown, say: Say
) -> Callable[[Event], None]:
    """Say one line per finished run. `names` and `flops` are by the job's number."""
    from completedp.runs.job import Finished

    def on_event(event: Event) -> None:
        if isinstance(event, Finished):
            outcome = event.outcome
            place, left = countdown.ended(flops[outcome.trial])
            loss = outcome.status if outcome.loss is None else f"loss {outcome.loss:.4f}"
            say(f"{place} {names[outcome.trial]}: {loss}, {outcome.seconds:.0f} s{left}")

    return on_event


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
