"""A source that keeps all it is told, and an executor whose jobs die, for the tests of the engine."""

from __future__ import annotations

from completedp.runs.job import Died, Event, Executor, Finished, Job, Outcome


class Jobs:
    """A source that keeps what it is told."""

    def __init__(self, *jobs: Job) -> None:
        self.left = list(jobs)
        self.handed: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        self.aside: dict[int, str] = {}
        self.total = len(jobs)

    def next(self) -> Job | None:
        if not self.left:
            return None
        self.handed.append(self.left[0].trial)
        return self.left.pop(0)

    def finished(self, outcome: Outcome) -> None:
        assert outcome.trial not in self.outcomes
        self.outcomes[outcome.trial] = outcome

    def set_aside(self, trial: int, reason: str) -> None:
        assert trial not in self.aside
        self.aside[trial] = reason

    @property
    def done(self) -> bool:
        return len(self.outcomes) + len(self.aside) == self.total


class Dying(Executor):
    """Every job dies; `capacity` at a time."""

    capacity = 2

    def __init__(self, finishing: tuple[int, ...] = ()) -> None:
        self.running: list[Job] = []
        self.submitted: list[int] = []
        self._finishing = finishing
        self.closed = False

    def submit(self, job: Job) -> None:
        assert len(self.running) < self.capacity
        self.running.append(job)
        self.submitted.append(job.trial)

    def poll(self, timeout: float) -> list[Event]:
        return self.polled(self.running.pop(0).trial)

    def polled(self, trial: int) -> list[Event]:
        if trial in self._finishing:
            outcome = Outcome(
                trial=trial,
                status="completed",
                loss=1.0,
                steps=1,
                tokens=1,
                seconds=0.1,
                seed=0,
            )
            return [Finished(outcome=outcome)]
        return [Died(trial=trial, reason=f"death of {trial}")]

    def began(self, trial: int) -> bool:
        return True

    def kill(self, trial: int) -> None: ...

    def close(self) -> None:
        self.closed = True
