"""One study from start to end: folder, lock, workers, tracker, display, recipe."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from completedp import files, plotting, root_layout
from completedp.config import StudyConfig
from completedp.errors import UserError, first_line
from completedp.hparams import HParams
from completedp.lm.stacked.executor import StackedExecutor
from completedp.models import grown_inventory, kind_of, own_inventory
from completedp.resolved import resolve
from completedp.runs import engine
from completedp.runs.job import Event, Executor, Job, Progress
from completedp.runs.journal import Journal
from completedp.runs.local import LocalExecutor, default_workers, devices_of
from completedp.runs.lock import Lock
from completedp.scale import Ratios
from completedp.tracking import Tracker
from completedp.training.jobs import training_job, user_paths
from search.ax_experiment import AxExperiment
from search.confirm import values_by_arm
from search.display import Display
from search.figures import draw
from search.phases import Split
from search.proposer import JobFactory, Proposer
from search.request import Request
from search.results import PARAMETERIZATION, build_recipe, summarize
from search.scales import PROXY, at_scale
from search.space import Space
from search.study import Study
from search.study_folder import StudyFolder

MakeDisplay = Callable[[Study], Display]


def train(
    request: Request,
    folder: StudyFolder,
    *,
    workers: int | None,
    executor: Executor | None,
    stack: int = 1,
    display: MakeDisplay,
    hours: float = 0,
    forecast: float | None = None,
) -> dict[str, Any] | None:
    """Run the requested study, which has begun in `folder`. See `run` for the rest.

    The runs train in `workers` processes here (None: one per core or GPU), `stack` runs in each, or in
    `executor`. The executor is closed at the end.
    """
    config, device = request.config, request.device
    make_job = functools.partial(
        language_model_job,
        config,
        request.cache,
        device.split(":")[0],
        digest=folder.read().spec.data.get("digest"),
    )
    executor = executor or _local_executor(
        workers or default_workers(device),
        stack,
        logs=folder.path / root_layout.LOGS,
        paths=user_paths(config.model, config.train),
        devices=devices_of(device),
    )
    with closing(executor):
        return run(
            folder,
            executor,
            make_job,
            display=display,
            hours=hours,
            # The time of the user's own loop is not known beforehand. A run of a stack takes as long as all
            # of them one after another, at most.
            forecast=None if config.train.loop or forecast is None else forecast * stack,
        )


def _local_executor(workers: int, stack: int, **given: Any) -> LocalExecutor:
    if stack == 1:
        return LocalExecutor(workers, **given)
    return StackedExecutor(workers, stack=stack, **given)


def run(
    folder: StudyFolder,
    executor: Executor,
    make_job: JobFactory,
    *,
    display: MakeDisplay,
    hours: float = 0,
    forecast: float | None = None,
) -> dict[str, Any] | None:
    """Run a study to its end and return its summary, or None if it was interrupted first.

    Nothing new is begun after `hours` (0: no limit). `forecast` is the number of seconds that a run should
    take, None if unknown. It tells a run that hangs from a slow one (`completedp.runs.engine`).
    """
    ends = time.monotonic() + hours * 3600
    with Lock(folder.lock), Journal.open(folder.journal) as journal:
        study = folder.read()
        shown = display(study)
        source = Proposer(study, journal.append, make_job)
        plotting.available()  # imported now: the tracker's thread and an import must not meet
        tracker = Tracker(folder.root, folder.path, warn=shown.say)  # last, because it has a thread

        def on_event(event: Event) -> None:
            shown.event(event)
            if not isinstance(event, Progress):
                tracker.update()

        with closing(tracker):
            with shown:
                done = engine.run(
                    source,
                    executor,
                    curves=folder.curves,
                    forecast=forecast,
                    on_event=on_event,
                    interrupted=lambda: hours > 0 and time.monotonic() > ends,
                    on_interrupt=lambda: shown.say(
                        "beginning nothing new; what runs is finished first (Ctrl-C: stop at once)"
                    ),
                )
            if not done:
                return None
            journal.check()  # a folder that was moved away must not come back
            summary = _write_results(folder, study, shown.say)
            if not study.done:  # another search may have finished it before the lock was ours
                journal.append({"event": "done"})
            _write_experiment(folder, study, shown.say)
            return summary


def language_model_job(
    config: StudyConfig,
    cache: Path,
    device: str,
    trial: int,
    hparams: HParams,
    seed: int,
    split: Split,
    ratios: Ratios = PROXY,
    digest: str | None = None,
) -> Job:
    """A run of the study's model, with the values carried by Complete(d)P to `ratios` of the study's scale.

    `digest` is the digest of the study's corpus, None if unknown.
    """
    at = at_scale(config, ratios)
    inventory, base = own_inventory(config.model), dict[str, Any]()
    if ratios != PROXY:
        inventory = grown_inventory(at.model, config.model, hparams)
        base = kind_of(at.model).run_arguments(config.model, PARAMETERIZATION)
    return training_job(
        at.model,
        at.data,
        at.train,
        resolve(hparams, inventory, at.scale.ratios_to(config.scale)),
        trial=trial,
        seed=seed,
        split=split,
        cache=cache,
        device=device,
        digest=digest,
        **base,
    )


def report(folder: StudyFolder, *, warn: Callable[[str], object]) -> dict[str, Any]:
    """Write a finished study's results again from its journal, and return the summary.

    If the folder cannot be written, it warns and only returns the summary. Raises `UserError` for a study
    that is not done.
    """
    study = folder.read()
    if not study.done:
        raise UserError(
            f"study {folder.name!r} is not done; go on with it by: completedp search --resume {folder.name}"
        )
    if not os.access(folder.path, os.W_OK):
        warn(f"{folder.path}: cannot be written; recipe and figures are left as they are")
        return summarize(study, build_recipe(study))
    with Lock(folder.lock):
        summary = _write_results(folder, study, warn)
        # Writing it takes seconds for a few hundred trials, and most finished studies have it.
        if not folder.experiment.exists():
            _write_experiment(folder, study, warn)
        return summary


def _write_results(
    folder: StudyFolder, study: Study, warn: Callable[[str], object]
) -> dict[str, Any]:
    recipe = build_recipe(study)
    summary = summarize(study, recipe)
    recipe.write(folder.recipe)
    files.write_json(folder.path / root_layout.SUMMARY, summary)
    # The figures show the per-module arm even if the confirmation refused it.
    values = values_by_arm(study.confirmations)
    tuned = values.get("module", values["global"])
    hparams = Space.from_config(study.spec.config).to_hparams(tuned)
    if plotting.available():
        draw(study, hparams, folder.path / root_layout.FIGURES)
    else:
        warn(f"no figures: {plotting.MISSING}; then 'completedp report {folder.name}' draws them")
    return summary


def _write_experiment(folder: StudyFolder, study: Study, warn: Callable[[str], object]) -> None:
    """Write the file that Ax opens. A failure of Ax is only a warning, and no other result waits for it."""
    try:
        AxExperiment(study).save(folder.experiment)
    except Exception as error:
        warn(
            f"{folder.experiment}: Ax could not write it ({first_line(error)}); all other results are "
            f"there, and 'completedp report {folder.name}' tries again"
        )
