"""What crosses the border of a training run: a job goes in, an outcome comes out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from completedp import reading
from completedp.errors import UserError, located, shown
from completedp.reading import Field
from completedp.records import check_record
from completedp.resolved import Resolved

Status = Literal["completed", "diverged", "stopped"]


def _is_curve(points: object) -> bool:
    if not isinstance(points, list | tuple):
        return False
    last = 0
    for point in points:
        if not (isinstance(point, list | tuple) and len(point) == 2):
            return False
        step, loss = point
        if not (reading.is_count(step) and step >= last and reading.is_number(loss)):
            return False
        last = step
    return True


CURVE = Field(_is_curve, "pairs of a step, which does not fall, and a finite loss")
_OUTCOME: Mapping[str, Field] = {
    "seconds": reading.SECONDS,
    "metrics": reading.NUMBERS,
    "curve": CURVE,
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training run, as plain data: it can be a JSON file and run on another machine.

    `task` is `package.module:factory`; `factory(**arguments)` gives a `TrainFunction`, kept alive by a
    worker for later jobs with the same task and arguments.
    """

    trial: int
    task: str
    arguments: Mapping[str, Any]
    resolved: Resolved
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "trial": self.trial,
            "task": self.task,
            "arguments": dict(self.arguments),
            "resolved": self.resolved.to_dict(),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: object, where: str = "the job") -> Job:
        """The inverse of `to_dict`. Raises `UserError` that begins with `where` for what is none."""
        record = check_record(cls, data, where)
        resolved = Resolved.from_dict(record["resolved"], f"{where}: resolved")
        return cls(**{**record, "resolved": resolved})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the engine must know of a training function: its length in steps, and when it has diverged.

    `uniform_loss` is the loss of a uniform guess (nats a token), inf where there is none.
    `tokens_per_step` prices a run that ends before its result: a diverged or stopped one.
    """

    steps: int
    warmup_steps: int = 0
    uniform_loss: float = math.inf
    tokens_per_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training function returns. `loss` in nats a token on its evaluation split."""

    loss: float
    tokens: int
    metrics: Mapping[str, float] = field(default_factory=dict)


class Report(Protocol):
    """Called by a training function after each step, counted from 1, with its training loss in nats a
    token.

    Raises `Diverged` or `Stopped`, which the function lets through.
    """

    def __call__(self, step: int, loss: float) -> None: ...


@runtime_checkable
class ResumableReport(Report, Protocol):
    """A `Report` that a checkpoint can carry, so that a resumed run is judged like an uninterrupted one."""

    def state(self) -> dict[str, Any]:
        """What it knows of the steps reported, as plain JSON types."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a `state`, in place of any step reported."""


class TrainFunction(Protocol):
    """Any training loop: it trains with the resolved rows and the seed, reports, and returns a result."""

    @property
    def limits(self) -> Limits: ...

    def __call__(self, resolved: Resolved, seed: int, report: Report) -> Result: ...


class Diverged(Exception):
    """The hyperparameters made the run fail: says at which step and why."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"diverged at step {step}: {reason}")
        self.step = step
        self.reason = reason


class Stopped(Exception):
    """Somebody asked the run to end early."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended. `loss` is None unless completed; `curve` holds (step, training loss) pairs, finite.

    Raises `UserError` for fields of other types: a training loop may report anything, and what a journal
    takes it must be able to give back.
    """

    trial: int
    status: Status
    loss: float | None
    steps: int
    tokens: int
    seconds: float
    seed: int
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        where = f"the outcome of trial {shown(self.trial)}"
        check_record(Outcome, vars(self), where, _OUTCOME)
        if (self.loss is None) == (self.status == "completed"):
            raise UserError(
                f"{where}: status is {self.status!r} and loss {self.loss}; expected a loss of a completed "
                "run, and of no other"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: object, where: str = "the outcome") -> Outcome:
        """The inverse of `to_dict`. Raises `UserError` that begins with `where` for what is none."""
        record = check_record(cls, data, where, _OUTCOME)
        points = record.get("curve", ())
        curve = tuple((step, float(loss)) for step, loss in points)
        with located(where):
            return cls(**{**record, "curve": curve})


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A running job's latest reported step."""

    trial: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job's outcome has arrived."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Died:
    """A job ended without an outcome: out of memory, a killed worker, a bug. Not the hyperparameters'
    fault, so it may be tried again. `reason` is what is known, the last line of a traceback for one.
    `mistake`: the training function raised `UserError`, which another attempt would only repeat."""

    trial: int
    reason: str
    mistake: bool = False


Event = Progress | Finished | Died


class Executor(Protocol):
    """Where jobs run. The engine submits at most `capacity` at a time."""

    @property
    def capacity(self) -> int: ...

    def submit(self, job: Job) -> None:
        """Start a job; returns at once."""

    def poll(self, timeout: float) -> list[Event]:
        """What happened, waiting up to `timeout` seconds for the first event."""

    def began(self, trial: int) -> bool:
        """Whether a submitted job has a worker, and does not wait in a queue for one."""

    def cancel(self, trial: int) -> None:
        """Ask a running job to end; its outcome then has status `stopped`."""

    def kill(self, trial: int) -> None:
        """End a running job that hears nothing, with its worker; `poll` tells no more of it."""

    def close(self) -> None:
        """End every worker; running jobs are lost."""
