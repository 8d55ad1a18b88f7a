"""The one training loop: takes jobs from a source, keeps the executor full, and reports the ends."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from completedp import files, interrupts
from completedp.errors import UserError
from completedp.runs.curves import write_curve
from completedp.runs.job import Died, Event, Executor, Finished, Job, Outcome

# Two deaths may be passing trouble of the machine. The third one is the job's own fault.
ATTEMPTS = 3
# Jobs given up before any has finished, after which the engine stops: nothing can run here.
HOPELESS = 3
# Seconds until a Ctrl-C is noticed while every worker trains.
POLL_SECONDS = 0.5
# A run hangs if it has reported nothing for the longest of three times: its whole forecast, `LONGEST_RUNS`
# times the longest run so far, and `LEAST_PATIENCE` seconds. Starting a worker, importing torch and compiling
# a model report nothing, for minutes on a busy machine.
LEAST_PATIENCE = 300.0
LONGEST_RUNS = 3.0
# The most seconds that one turn of the loop counts: if this process itself was stopped, as by Ctrl-Z or with
# its machine, it could not hear its workers.
MOST_OF_A_TURN = 10.0


class Source(Protocol):
    """The origin of jobs, which also keeps the journal. Called only from the engine's thread."""

    def next(self) -> Job | None:
        """The next job, recorded before it is handed out; None if there is none for now."""

    def finished(self, outcome: Outcome) -> None:
        """Record that a job has ended. Its curve is already on the disk."""

    def set_aside(self, trial: int, reason: str) -> None:
        """Record that a job has been given up."""

    @property
    def done(self) -> bool:
        """Whether no job is left to hand out or to wait for."""


def run(
    source: Source,
    executor: Executor,
    *,
    curves: Path,
    forecast: float | None = None,
    on_event: Callable[[Event], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
    on_interrupt: Callable[[], None] | None = None,
) -> bool:
    """Run the source's jobs. Returns True if the source is done, False after an interruption.

    One job is always requested ahead, so that a free place need not wait for a proposal. (A second place that
    becomes free during the same proposal waits.) When a job ends, its curve is written to the folder
    `curves`, the source is told, the job requested ahead takes the free place, and `on_event` is called, in
    this order.

    A job that died is tried `ATTEMPTS` times in all and then set aside. Attempts are counted in this process
    only, so the coordinator's own death is none. A job that hangs is ended and counts as dead. `forecast` is
    the time in seconds that the longest job should take. If it is None, the first finished jobs show it.

    After the first Ctrl-C, SIGTERM or SIGHUP (or once `interrupted()` is true) no job is handed out any more:
    `on_interrupt` is called once, running jobs finish, and this returns. The second press raises
    `KeyboardInterrupt` with the executor closed.

    Raises `UserError` if nothing can run: before any job has finished, a training function has raised
    `UserError`, or `HOPELESS` jobs or all of the source's have been given up. These jobs stay open.
    """
    with files.writing(curves):
        curves.mkdir(parents=True, exist_ok=True)
    with interrupts.deferred() as pressed:
        loop = _Loop(source, executor, curves, forecast)

        def stopping() -> bool:
            if interrupted is not None and interrupted():
                pressed.set()
            return pressed.is_set()

        try:
            told = False
            while True:
                if not stopping():
                    loop.hand_out()
                elif not told and on_interrupt is not None:
                    on_interrupt()
                    told = True
                if not loop.running:
                    return source.done
                # A death can end the study, so finished jobs are recorded first.
                for event in sorted(loop.poll(), key=lambda e: isinstance(e, Died)):
                    loop.handle(event)
                    if not stopping():
                        loop.fill()
                    if on_event is not None:
                        on_event(event)
        except KeyboardInterrupt:
            executor.close()
            raise


class _Loop:
    """The state of a `run`: jobs at work, jobs that wait for a place, and attempts so far."""

    def __init__(
        self, source: Source, executor: Executor, curves: Path, forecast: float | None
    ) -> None:
        self.running: dict[int, Job] = {}
        self._forecast = forecast
        self._longest: float | None = None
        self._silent: dict[int, float] = {}
        self._turned = time.monotonic()
        self._source = source
        self._executor = executor
        self._curves = curves
        # Jobs for another attempt, then the job requested ahead.
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._finished = 0
        # Reasons of the trials given up before any job has finished. They are set aside only after a job has
        # finished: a mistake that all share may be fixed, and then they get another attempt.
        self._given_up: dict[int, str] = {}

    def hand_out(self) -> None:
        """Fill the executor, and request one more job.

        With one place, a proposal then knows the result of every job but the running one, whatever the
        timing. So an interrupted study goes on exactly as it would have.
        """
        while self.fill():
            job = self._source.next()
            if job is None:
                if self._given_up and not self.running:
                    raise self._hopeless()
                assert self.running or self._source.done, "the source waits for nothing"
                return
            self._waiting.append(job)

    def fill(self) -> bool:
        """Submit waiting jobs while there are free places; returns whether none waits any more."""
        while self._waiting and len(self.running) < self._executor.capacity:
            job = self._waiting.popleft()
            self._executor.submit(job)
            self.running[job.trial] = job
            self._silent[job.trial] = 0.0
        return not self._waiting

    def poll(self) -> list[Event]:
        """The executor's events. A job that hangs is ended here and counts as dead."""
        events = self._executor.poll(POLL_SECONDS)
        now = time.monotonic()
        turn, self._turned = min(now - self._turned, MOST_OF_A_TURN), now
        for trial in self.running:
            self._silent[trial] += turn if self._executor.began(trial) else 0.0
        for event in events:
            if (trial := trial_of(event)) in self._silent:
                self._silent[trial] = 0.0
        patience = self._patience()
        hanging = [
            t for t, silent in self._silent.items() if patience is not None and silent > patience
        ]
        for trial in hanging:
            self._executor.kill(trial)
            reason = f"it hung: nothing was reported for {patience:.0f} s"
            events.append(Died(trial=trial, reason=reason))
        return events

    def _patience(self) -> float | None:
        """Seconds without a report after which a job hangs; None if nothing tells how long a job takes."""
        known = [self._forecast] if self._forecast is not None else []
        if self._longest is not None:
            known.append(LONGEST_RUNS * self._longest)
        return max(LEAST_PATIENCE, *known) if known else None

    def handle(self, event: Event) -> None:
        """Record an end. Progress events are only for `on_event`."""
        if isinstance(event, Finished):
            outcome = event.outcome
            write_curve(self._curves, outcome)
            del self.running[outcome.trial], self._silent[outcome.trial]
            self._finished += 1
            self._longest = max(self._longest or 0.0, outcome.seconds)
            self._source.finished(outcome)
            for trial, reason in self._given_up.items():
                self._source.set_aside(trial, reason)
            self._given_up.clear()
        elif isinstance(event, Died):
            self._died(event)

    def _died(self, event: Died) -> None:
        job = self.running.pop(event.trial)
        del self._silent[event.trial]
        self._deaths[event.trial] += 1
        if event.mistake and not self._finished:
            raise UserError(event.reason)
        if self._deaths[event.trial] < ATTEMPTS and not event.mistake:
            self._waiting.appendleft(job)
            return
        if self._finished:
            self._source.set_aside(event.trial, event.reason)
            return
        self._given_up[event.trial] = event.reason
        if len(self._given_up) == HOPELESS:
            raise self._hopeless()

    def _hopeless(self) -> UserError:
        *_, reason = self._given_up.values()
        return UserError(
            f"none of the first {len(self._given_up)} runs could be trained; the last reason: {reason}"
        )


def trial_of(event: Event) -> int:
    """The trial of an event."""
    return event.outcome.trial if isinstance(event, Finished) else event.trial
