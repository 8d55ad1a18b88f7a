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
    stack: int = 1,
    compile: bool | None = None,
    device: str = "auto",
    executor: Executor | None = None,
    hours: float = 0,
    on_progress: OnProgress | None = None,
) -> Recipe:
    """Find per-module hyperparameters on a proxy, and confirm what they gain over the best global ones.

    The verb `completedp search` does the same. The study is the folder `root`/studies/`name`, with its
    journal, recipe and figures.

    Args:
        config: The model, the data, the training and the search: a configuration, the name of a preset, or
            the path of a YAML file.
        budget: The cost of all training, confirmation included, in runs of `config`. 12 or more.
        root: The folder of studies and of the MLflow database.
        name: The study's name. None: `study-<n>`.
        seed: Decides everything random. 0 or more.
        workers: Number of worker processes. None: one per core or GPU.
        stack: Number of runs that a worker trains at a time, as one program. For the reference model and the
            built-in loop.
        compile: Whether the runs are compiled. None: as `config` says, and where it saves time.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        executor: Trains the runs in place of `workers` processes here. It is closed at the end.
        hours: Begin nothing new after so many hours. 0: no limit.
        on_progress: Called as `on_progress(event, study)` when a run reports, finishes or dies. `event` is
            one of `completedp.runs.job`, and the `search.study.Study` already knows of it.

    Raises:
        UserError: An argument is wrong, or nothing could be trained. Also if `hours` or the first Ctrl-C
            stopped the study. Then `resume` goes on with it.
        KeyboardInterrupt: The second Ctrl-C. `resume` makes the runs that it ended again.

    >>> import dataclasses, search
    >>> from completedp.lm.preset_files import load_preset
    >>> tiny = load_preset("tiny")
    >>> train = dataclasses.replace(tiny.train, tokens=32_768, eval_tokens=8192)
    >>> short = dataclasses.replace(tiny, train=train)
    >>> recipe = search.run(short, budget=12, root=root, device="cpu")
    >>> recipe.base
    Scale(width=64, depth=2, batch=512, tokens=32768)
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
        remote=executor is not None,
        compile=compile,
    )
    return _trained(request, workers, stack, executor, hours, on_progress)


def resume(
    name: str,
    *,
    root: Path | str = "mlruns",
    budget: int | None = None,
    workers: int | None = None,
    stack: int = 1,
    device: str = "auto",
    executor: Executor | None = None,
    hours: float = 0,
    on_progress: OnProgress | None = None,
) -> Recipe:
    """Go on with the study `name` under `root`. If it is done, write its results again and return its recipe.

    `budget` is its new total, None to keep the present one. The other arguments and errors are those of
    `run`. Also raises `UserError` for a study that does not exist.
    """
    import logging

    from completedp.recipe import Recipe
    from search.request import device_for, going_on
    from search.study_folder import StudyFolder
    from search.study_run import report

    folder = StudyFolder(root=Path(root), name=name)
    study = folder.read()
    if study.done and budget in (None, study.budget):
        report(folder, warn=logging.getLogger(__name__).warning)
        return Recipe.read(folder.recipe)
    request = going_on(
        folder,
        budget=budget,
        device=device_for(device, remote=executor is not None),
    )
    return _trained(request, workers, stack, executor, hours, on_progress)


def _trained(
    request: Request,
    workers: int | None,
    stack: int,
    executor: Executor | None,
    hours: float,
    on_progress: OnProgress | None,
) -> Recipe:
    import logging

    from completedp.errors import UserError
    from completedp.recipe import Recipe
    from search.display import Callback
    from search.preflight import check_stack
    from search.study_run import train

    if workers is not None and workers < 1:  # before a study begins that nothing trains
        raise UserError(f"workers is {workers}; expected 1 or more, or None")
    check_stack(stack, request.config)
    if stack > 1 and executor is not None:
        raise UserError(
            f"stack is {stack}, but the given executor trains the runs; give one of both"
        )
    # Seconds that a run should take: they tell a run that hangs from a slow one.
    forecast = request.forecast(workers=1).seconds_per_run
    folder = request.begin(logging.getLogger(__name__).warning)
    summary = train(
        request,
        folder,
        workers=workers,
        stack=stack,
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
