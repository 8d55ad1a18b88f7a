"""The search for per-module hyperparameters. `search.run` and `search.resume` are its public functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from completedp.config import StudyConfig
    from completedp.recipe import Recipe
    from completedp.runs.job import Executor
    from search.display import OnProgress
    from search.request import Request

__all__ = ["resume", "run"]


def run(
    config: StudyConfig | str | Path,
    *,
    budget: int,
    root: Path | str = "mlruns",
    name: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    hours: float = 0,
    on_progress: OnProgress | None = None,
) -> Recipe:
    """Find per-module hyperparameters on a proxy, and confirm what they gain over the best global ones.

    As `completedp search`: the study is a folder `root`/studies/`name`, with journal, recipe and figures.

    Args:
        config: what is trained, and where to search; a preset's name and a path to a YAML file stand for one.
        budget: the cost of all training, confirmation included, in runs of `config`; 12 or more.
        root: folder of studies and of the MLflow database.
        name: the study's name; None: `study-<n>`.
        seed: of everything random, 0 or more.
        workers: runs at a time; None: one a core or GPU.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        executor: where runs train, in the place of `workers` processes here; it is closed at the end.
        hours: begin nothing new after so many hours; 0: no limit.
        on_progress: called as `on_progress(event, study)` when a run reports, finishes or dies, with the
            `completedp.runs.job` event and the `search.study.Study` that already knows of it.

    Raises:
        UserError: something given is wrong, or nothing could be trained; also if it was stopped, by `hours`
            or by the first Ctrl-C. Then `resume` goes on with it.
        KeyboardInterrupt: the second Ctrl-C. Runs that it ended are made again by `resume`.

    >>> import dataclasses, search
    >>> from completedp.lm.preset_files import load_preset
    >>> tiny = load_preset("tiny")
    >>> train = dataclasses.replace(tiny.train, tokens=32_768, eval_tokens=8192)
    >>> short = dataclasses.replace(tiny, train=train)
    >>> recipe = search.run(short, budget=12, root=root, device="cpu")
    >>> recipe.base
    Scale(width=32, depth=2, batch=2048, tokens=32768)
    >>> recipe.provenance["confirmed"]["verdict"]
    'too few seeds to conclude (2 pairs; 6 are needed)'
    """
    from search.request import device_for, new_study

    request = new_study(
        config,
        budget=budget,
        root=Path(root),
        name=name,
        seed=seed,
        device=device_for(device, remote=executor is not None),
    )
    return _trained(request, workers, executor, hours, on_progress)


def resume(
    name: str,
    *,
    root: Path | str = "mlruns",
    budget: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    hours: float = 0,
    on_progress: OnProgress | None = None,
) -> Recipe:
    """Go on with the study `name` of `root`; returns the recipe at once if it is done.

    `budget` raises its total. The other arguments and errors are those of `run`; a study that does not exist
    is a `UserError` too.
    """
    from search.request import device_for, going_on
    from search.study_folder import StudyFolder

    request = going_on(
        StudyFolder(root=Path(root), name=name),
        budget=budget,
        device=device_for(device, remote=executor is not None),
    )
    return _trained(request, workers, executor, hours, on_progress)


def _trained(
    request: Request,
    workers: int | None,
    executor: Executor | None,
    hours: float,
    on_progress: OnProgress | None,
) -> Recipe:
    import logging

    from completedp.errors import UserError
    from completedp.recipe import Recipe
    from search.display import Callback
    from search.study_run import train

    if workers is not None and workers < 1:  # before a study begins that nothing trains
        raise UserError(f"workers is {workers}; expected 1 or more, or None")
    # It tells a run that hangs from a slow one.
    forecast = None if request.study.done else request.forecast(workers=1).seconds_per_run
    folder = request.begin(logging.getLogger(__name__).warning)
    summary = train(
        request,
        folder,
        workers=workers,
        executor=executor,
        display=lambda study: Callback(study, on_progress),
        hours=hours,
        forecast=forecast,
    )
    if summary is None:
        raise UserError(
            f"study {folder.name!r} was stopped; go on with search.resume({folder.name!r}, root="
            f"{str(folder.root)!r})"
        )
    return Recipe.read(folder.recipe)
