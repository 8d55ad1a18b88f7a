"""One study from start to end: folder, lock, workers, tracker, display, recipe."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from completedp import files
from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.models import own_inventory
from completedp.resolved import resolve
from completedp.runs import engine
from completedp.runs.curves import read_curve
from completedp.runs.job import Event, Executor, Job, Progress
from completedp.runs.journal import Journal
from completedp.runs.lock import Lock
from completedp.scale import Ratios
from completedp.tracking import Tracker
from completedp.training.jobs import training_job
from search.display import Display, display_for
from search.figures import draw
from search.proposer import JobFactory, Proposer
from search.results import build_recipe, summarize
from search.space import Space
from search.study import Study
from search.study_folder import StudyFolder


def run(
    place: StudyFolder,
    executor: Executor,
    make_job: JobFactory,
    *,
    console: Console,
    hours: float = 0,
    forecast: float | None = None,
) -> dict[str, Any] | None:
    """Run a study to its end and return its summary, or None where it was interrupted first.

    Nothing new is begun after `hours` (0: no limit). `forecast` is how many seconds a run should take, None
    where nobody knows: a run that hangs is told by it (`completedp.runs.engine`).
    """
    with Lock(place.lock), Journal.open(place.journal) as journal:
        study = place.read()
        display = display_for(study, console)
        curve_of = functools.partial(read_curve, place.folder / "curves")
        source = None if study.done else Proposer(study, journal.append, make_job, curve_of)
        tracker = Tracker(place.root, place.folder, warn=display.say)  # last: it has a thread
        try:
            if source is not None and not _run_trials(
                place, source, executor, display, tracker, hours, forecast
            ):
                return None
            return _finish(place, study, journal)
        finally:
            tracker.close()


def _run_trials(
    place: StudyFolder,
    source: Proposer,
    executor: Executor,
    display: Display,
    tracker: Tracker,
    hours: float,
    forecast: float | None,
) -> bool:
    ends = time.monotonic() + hours * 3600

    def on_event(event: Event) -> None:
        display.event(event)
        if not isinstance(event, Progress):
            tracker.update()

    with display:
        return engine.run(
            source,
            executor,
            curves=place.folder / "curves",
            forecast=forecast,
            on_event=on_event,
            interrupted=lambda: hours > 0 and time.monotonic() > ends,
            on_interrupt=lambda: display.say(
                "beginning nothing new; what runs is finished first (Ctrl-C: stop at once)"
            ),
        )


def language_model_job(
    config: StudyConfig,
    cache: Path,
    device: str,
    trial: int,
    hparams: HParams,
    seed: int,
    split: Literal["select", "report"],
    digest: str | None = None,
) -> Job:
    """A run of the study's model at its own scale; `digest` is of its corpus, where that is known."""
    return training_job(
        config.model,
        config.data,
        config.train,
        resolve(hparams, own_inventory(config.model), Ratios()),
        trial=trial,
        seed=seed,
        split=split,
        cache=cache,
        device=device,
        digest=digest,
    )


def _finish(place: StudyFolder, study: Study, journal: Journal) -> dict[str, Any]:
    """Write recipe, summary and figures, then that the study is done."""
    journal.check()  # a folder that was moved away must not be made anew
    summary = _write_results(place, study)
    if not study.done:
        journal.append({"event": "done"})
    return summary


def report(place: StudyFolder, *, warn: Callable[[str], object]) -> dict[str, Any]:
    """Write a finished study's results again from its journal, and return the summary; where nothing can be
    written there it is the summary alone, and a warning."""
    study = place.read()
    if not study.done:
        raise UserError(
            f"study {place.name!r} is not done; go on with it by: completedp search --resume {place.name}"
        )
    if not os.access(place.folder, os.W_OK):
        warn(f"{place.folder}: cannot be written; recipe and figures are left as they are")
        return summarize(study, build_recipe(study))
    with Lock(place.lock):
        return _write_results(place, study)


def _write_results(place: StudyFolder, study: Study) -> dict[str, Any]:
    recipe = build_recipe(study)
    summary = summarize(study, recipe)
    recipe.write(place.folder / "recipe.yaml")
    files.write_json(place.folder / "summary.json", summary)
    best = study.best("module")
    drawn = Space.from_config(study.spec.config).to_hparams(best.values) if best else recipe.hparams
    draw(study, drawn, place.folder / "figures")
    return summary
