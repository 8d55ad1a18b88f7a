"""One plan trained in its own folder. `completedp.train` and the verb `train` call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from completedp import files, root_layout
from completedp.config import DataConfig, check_together
from completedp.models import content_of
from completedp.plan import Plan
from completedp.plan_check import read_plan

if TYPE_CHECKING:
    from completedp.runs.job import Job, Outcome, Progress
    from completedp.training.run_folder import RunEnd


@dataclass(frozen=True, kw_only=True)
class PlanRun:
    """A plan about to be trained. `corpus_note` is a line about the data for the user, or None."""

    plan: Plan
    job: Job
    folder: Path
    corpus_note: str | None

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        data: str | None,
        seed: int,
        root: Path,
        out: Path | None,
        device: str,
        parallel: str | None,
        stem: str,
    ) -> PlanRun:
        """Prepare a run. `data` replaces the plan's source, and `out` replaces the folder under `root`.

        `stem` begins the folder's name. Raises `UserError` for data that cannot be read, and for a plan that
        is trained by the user's own loop.
        """
        from completedp.lm import sources
        from completedp.training.jobs import kept_corpus, plan_job

        chosen = plan.data if data is None else dataclasses.replace(plan.data, source=data)
        check_together(plan.model, chosen, plan.train)
        folder = out or root / root_layout.RUNS / run_name(plan, chosen, seed, stem)
        cache = root_layout.data_cache(root)
        kept = kept_corpus(plan, chosen, cache)
        job = plan_job(
            plan,
            data=chosen,
            seed=seed,
            folder=folder,
            cache=cache,
            device=device,
            parallel=parallel,
            digest=None if kept is None else kept.digest,
        )
        note = kept.found if kept else sources.found(chosen.source, plan.model.vocab_size)
        return cls(plan=plan, job=job, folder=folder, corpus_note=note or None)

    def run(
        self,
        on_progress: Callable[[Progress], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> RunEnd:
        """Train, or return the outcome again if the folder holds the finished run."""
        from completedp.training import run_folder

        heard = on_progress or (lambda _: None)
        return run_folder.run(self.job, self.folder, heard, plan=self.plan, on_start=on_start)


def run_name(plan: Plan, data: DataConfig, seed: int, stem: str) -> str:
    """A name that no other run has, so that no other run's results are replaced."""
    # The corpus is left out because it is part of the recipe, whose digest the plan has.
    values = {**dataclasses.replace(plan, corpus=None).to_dict(), "model": content_of(plan.model)}
    digest = files.digest({"plan": values, "data": dataclasses.asdict(data), "seed": seed})
    return f"{stem}-seed{seed}-{digest.removeprefix('sha256:')[:8]}"


def train(
    plan: Plan | Path | str,
    *,
    data: str | None = None,
    seed: int = 0,
    root: Path | str = root_layout.DEFAULT,
    out: Path | None = None,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train a plan once on this machine, and return its outcome.

    The run's folder is `out`, or one under `root`/runs. A second call with the same arguments goes on from
    the last checkpoint of an interrupted run. It returns the outcome of a finished run again. The loss is in
    nats per token on the report split.

    Args:
        plan: A plan, or the path of a plan file.
        data: A source of text in place of the plan's: a path, a folder, or `hf:NAME`.
        seed: Decides the initial values and the order of the data.
        root: The folder of runs, studies and prepared corpora.
        out: The run's folder. None: one under `root`/runs.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        on_progress: Called with a `completedp.runs.job.Progress` for each reported step.

    Raises:
        UserError: The plan, the data or the device cannot be used, or another process writes the folder.

    Example:
        >>> outcome = completedp.train("plan.yaml", seed=1)
        >>> outcome.status, outcome.loss
    """
    stem = "plan"
    if not isinstance(plan, Plan):
        path = Path(plan)
        plan, stem = read_plan(path), path.stem
    prepared = PlanRun.of(
        plan,
        data=data,
        seed=seed,
        root=Path(root),
        out=out,
        device=device,
        parallel=None,
        stem=stem,
    )
    return prepared.run(on_progress).outcome
