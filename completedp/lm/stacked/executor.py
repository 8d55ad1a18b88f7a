"""An executor whose workers train a stack of jobs each."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from completedp.errors import UserError
from completedp.lm.stacked.worker import stack_key
from completedp.runs.job import Died, Event, Job
from completedp.runs.local import LocalExecutor, Slot


class StackedExecutor(LocalExecutor):
    """A `LocalExecutor` with up to `stack` jobs a worker, which train in one program.

    Jobs begin in the order in which they come. A job joins the worker with the fewest jobs among those whose
    jobs it can stack with; else it waits, and the jobs after it with it, until a worker is empty. A job that
    cannot stack has a worker for itself. The death of a worker is the death of all its jobs.
    """

    def __init__(
        self,
        workers: int,
        *,
        stack: int,
        logs: Path,
        devices: Sequence[str] = ("cpu",),
        paths: Sequence[Path] = (),
    ) -> None:
        if stack < 1:
            raise UserError(f"stack is {stack}; expected 1 or more")
        program = ("completedp.lm.stacked.worker", str(stack))
        super().__init__(workers, logs=logs, devices=devices, paths=paths, program=program)
        self._stack = stack
        self._waiting: deque[Job] = deque()
        self._lost: list[Event] = []

    @property
    def capacity(self) -> int:
        return self._stack * len(self._slots)

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._hand_out()

    def poll(self, timeout: float) -> list[Event]:
        lost, self._lost = self._lost, []
        events = lost + super().poll(0.0 if lost else timeout)
        self._hand_out()
        return events

    def began(self, trial: int) -> bool:
        return all(job.trial != trial for job in self._waiting)

    def kill(self, trial: int) -> None:
        self._waiting = deque(job for job in self._waiting if job.trial != trial)
        for slot in self._slots:
            if trial in slot.jobs:
                reason = f"its worker was ended, because trial {trial} hung there"
                self._lost += [Died(trial=t, reason=reason) for t in slot.jobs if t != trial]
        super().kill(trial)
        self._hand_out()

    def close(self) -> None:
        self._waiting.clear()
        super().close()

    def _hand_out(self) -> None:
        while self._waiting and (slot := self._slot_for(self._waiting[0])) is not None:
            self._send(slot, self._waiting.popleft())

    def _slot_for(self, job: Job) -> Slot | None:
        key = stack_key(job)
        fitting = (
            slot
            for slot in self._slots
            if not slot.jobs
            or (
                key is not None
                and len(slot.jobs) < self._stack
                and all(stack_key(other) == key for other in slot.jobs.values())
            )
        )
        return min(fitting, key=lambda slot: len(slot.jobs), default=None)
