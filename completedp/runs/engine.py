"""The one loop that trains: takes jobs from a source, keeps the executor full, tells it what ended."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from completedp import interrupts
from completedp.errors import UserError
from completedp.runs.curves import make_folder, write_curve
from completedp.runs.job import Died, Event, Executor, Finished, Job, Outcome

# A death may be the machine's passing trouble once or twice; the third time it is the job's own.
ATTEMPTS = 3
# So many jobs given up before any has finished: nothing can run here, and trying all would hide it.
HOPELESS = 3
# How soon a Ctrl-C is noticed while every worker trains.
POLL_SECONDS = 0.5
# A run is given up as hanging when it has reported nothing for as long as all of it should have taken, or
# three times as long as the longest one took, but not sooner than this: to start a worker, to import torch
# and to compile a model report nothing, on a busy machine for minutes.
LEAST_PATIENCE = 300.0
LONGEST_RUNS = 3.0
# Time that counts of one turn of the loop: where this process was stopped itself, as by Ctrl-Z or with its
# whole machine, its workers could not be heard.
MOST_OF_A_TURN = 10.0


class Source(Protocol):
    """Where jobs come from, and who keeps the journal. Called from the engine's thread only."""

    def next(self) -> Job | None:
        """The next job, on record before it is handed out; None where there is none for now."""

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
    """Run the source's jobs until it is done; returns whether it is, or was interrupted first.

    One job is always asked for ahead, so that a place that becomes free does not wait for its proposal (a
    second one, free within the same proposal, does).
    When a job ends, its curve is written to the folder `curves`, the source hears of it, the job asked for
    ahead takes its place, and `on_event` is called, in this order. A job that died is tried again,
    `ATTEMPTS` times in all, and then set aside; attempts are counted in this process only: the
    coordinator's own death is none.
    A job that hangs is ended, and counts as one that died. `forecast` is how many seconds the longest of
    them should take, None where nobody knows: then the first that finish say it.
    The first Ctrl-C, SIGTERM or SIGHUP (or `interrupted()` true) ends the handing out: `on_interrupt` is
    called once, what runs is finished, then this returns. The second raises `KeyboardInterrupt`, with the
    executor closed.
    Raises `UserError` where nothing can be run: a training function's own `UserError` before any job
    has finished, or `HOPELESS` jobs given up by then, or all that the source has. Those stay begun.
    """
    make_folder(curves)
    with interrupts.deferred() as pressed:
        loop = _Loop(source, executor, curves, forecast)

        def ends() -> bool:
            if interrupted is not None and interrupted():
                pressed.set()
            return pressed.is_set()

        try:
            told = False
            while True:
                if not ends():
                    loop.hand_out()
                elif not told and on_interrupt is not None:
                    on_interrupt()
                    told = True
                if not loop.running:
                    return source.done
                # A death can end the study; what has finished is kept first.
                for event in sorted(loop.poll(), key=lambda e: isinstance(e, Died)):
                    loop.handle(event)
                    if not ends():
                        loop.fill()
                    if on_event is not None:
                        on_event(event)
        except KeyboardInterrupt:
            executor.close()
            raise


class _Loop:
    """The state of a `run`: what is at work, what waits for a place, what has been tried."""

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
        # Jobs for another attempt, then the one asked for ahead.
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._finished = 0
        # Trials given up before any job has finished: a mistake that all have in common may be mended, and
        # then they are owed another attempt.
        self._held: dict[int, str] = {}

    def hand_out(self) -> None:
        """Fill the executor, and ask for one job more.

        With one place a proposal then knows of every job but the one that runs, whatever the timing: an
        interrupted study goes on as it would have.
        """
        while self.fill():
            job = self._source.next()
            if job is None:
                if self._held and not self.running:
                    raise self._hopeless()
                assert self.running or self._source.done, "the source waits for nothing"
                return
            self._waiting.append(job)

    def fill(self) -> bool:
        """Submit what waits while there are places; returns whether all of it was."""
        while self._waiting and len(self.running) < self._executor.capacity:
            job = self._waiting.popleft()
            self._executor.submit(job)
            self.running[job.trial] = job
            self._silent[job.trial] = 0.0
        return not self._waiting

    def poll(self) -> list[Event]:
        """What has happened; a job that hangs has been ended, and died."""
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
        """Seconds without a report after which a job hangs; None where nothing says how long one takes."""
        known = [self._forecast] if self._forecast is not None else []
        if self._longest is not None:
            known.append(LONGEST_RUNS * self._longest)
        return max(LEAST_PATIENCE, *known) if known else None

    def handle(self, event: Event) -> None:
        """Pass on an end; progress is only for those who watch."""
        if isinstance(event, Finished):
            outcome = event.outcome
            write_curve(self._curves, outcome)
            del self.running[outcome.trial], self._silent[outcome.trial]
            self._finished += 1
            self._longest = max(self._longest or 0.0, outcome.seconds)
            self._source.finished(outcome)
            for trial, reason in self._held.items():
                self._source.set_aside(trial, reason)
            self._held.clear()
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
        self._held[event.trial] = event.reason
        if len(self._held) == HOPELESS:
            raise self._hopeless()

    def _hopeless(self) -> UserError:
        *_, reason = self._held.values()
        return UserError(
            f"none of the first {len(self._held)} runs could be trained; the last one ended with: {reason}"
        )


def trial_of(event: Event) -> int:
    """The trial that an event is of."""
    return event.outcome.trial if isinstance(event, Finished) else event.trial
