"""One job, run in this process: from `Job` to `Outcome`."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping

from completedp import trust
from completedp.errors import UserError
from completedp.runs.divergence import Monitor
from completedp.runs.job import (
    Died,
    Diverged,
    Finished,
    Job,
    Limits,
    Outcome,
    Progress,
    Result,
    Status,
    TrainFunction,
)

# Training functions kept alive in a process. A study uses two (its select and its report split); a sweep
# over widths uses many, whose models and data must not pile up in memory.
KEPT_FUNCTIONS = 4


def run_job(
    job: Job,
    on_progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Train the job. A diverged run is an outcome; every other exception is raised.

    `on_progress` is called at every reported step. The outcome's `seconds` is the time of
    the training function's call, without the time to make the function.
    """
    train = train_function(job)
    running = RunningJob(job, train.limits, on_progress)
    try:
        result = train(job.resolved, job.seed, running.report)
    except Diverged as error:
        return running.diverged(error)
    return running.completed(result)


class RunningJob:
    """A job whose training goes on: its `report` judges each step, and its end becomes an `Outcome`."""

    def __init__(
        self, job: Job, limits: Limits, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.job = job
        self.report = Monitor(limits, on_step=_progress_of(job, limits.steps, on_progress))
        self._limits = limits
        self._start = time.perf_counter()

    def completed(self, result: Result) -> Outcome:
        """The outcome of a training function's result. Its loss may show that the run has diverged.

        Raises `UserError` if it is no result.
        """
        if not isinstance(result, Result):
            raise UserError(
                f"{self.job.task}: its training function returned {type(result).__name__}; expected a "
                "completedp.runs.job.Result"
            )
        steps = self.report.step or self._limits.steps
        if not math.isfinite(result.loss):
            reason = f"the evaluation loss is {result.loss}"
            return self._outcome("diverged", steps, result.tokens, result.metrics, reason=reason)
        loss = float(result.loss)
        return self._outcome("completed", steps, result.tokens, result.metrics, loss=loss)

    def diverged(self, error: Diverged) -> Outcome:
        """The outcome of a run that its report has ended."""
        tokens = error.step * self._limits.tokens_per_step
        return self._outcome("diverged", error.step, tokens, {}, reason=error.reason)

    def _outcome(
        self,
        status: Status,
        steps: int,
        tokens: float,
        metrics: Mapping[str, float],
        *,
        loss: float | None = None,
        reason: str | None = None,
    ) -> Outcome:
        return Outcome(
            trial=self.job.trial,
            status=status,
            loss=loss,
            steps=steps,
            tokens=int(tokens),
            seconds=time.perf_counter() - self._start,
            seed=self.job.seed,
            reason=reason,
            metrics={name: float(value) for name, value in metrics.items() if math.isfinite(value)},
            curve=self.report.curve,
        )


def attempt(
    job: Job,
    on_progress: Callable[[Progress], None] | None = None,
) -> Finished | Died:
    """`run_job` for an executor: an exception is a death."""
    try:
        return Finished(outcome=run_job(job, on_progress))
    except Exception as error:
        return death_by(error, job.trial)


def death_by(error: Exception, trial: int) -> Died:
    """A trial's death by an exception, whose traceback goes to stderr unless it is the user's mistake."""
    if isinstance(error, UserError):
        return Died(trial=trial, reason=str(error), mistake=True)
    traceback.print_exception(error)
    return Died(trial=trial, reason=describe(error))


def describe(error: Exception) -> str:
    """An exception in one line: its type and the first line of its text."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def train_function(job: Job) -> TrainFunction:
    """The job's training function, made once in a process for the same task and arguments.

    Raises `UserError` for a task that does not exist.
    """
    return _made(job.task, json.dumps(dict(job.arguments), sort_keys=True, allow_nan=False))


@functools.lru_cache(maxsize=KEPT_FUNCTIONS)
def _made(task: str, arguments: str) -> TrainFunction:
    factory, given = _factory(task), json.loads(arguments)
    try:
        inspect.signature(factory).bind(**given)
    except TypeError as error:
        raise UserError(
            f"{task} does not take the keywords {', '.join(given)} ({error}); give it these parameters"
        ) from None
    train = factory(**given)
    if not (callable(train) and isinstance(getattr(train, "limits", None), Limits)):
        raise UserError(
            f"{task} returned {type(train).__name__}; expected a training function: callable, with `limits`, "
            "a completedp.runs.job.Limits"
        )
    return train


def _factory(task: str) -> Callable[..., TrainFunction]:
    module_name, colon, name = task.partition(":")
    if not (module_name and colon and name):
        raise UserError(f"task is {task!r}; expected package.module:factory")
    trust.check("task", task)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"task {task!r}: there is no module {error.name!r}; check the name, and that its folder "
            "is on PYTHONPATH"
        ) from None
    if not hasattr(module, name):
        raise UserError(f"task {task!r}: module {module_name!r} has no {name!r}")
    factory: Callable[..., TrainFunction] = getattr(module, name)
    return factory


def _progress_of(
    job: Job, steps: int, on_progress: Callable[[Progress], None] | None
) -> Callable[[int, float], None] | None:
    if on_progress is None:
        return None
    return lambda step, loss: on_progress(
        Progress(trial=job.trial, step=step, steps=steps, loss=loss)
    )
