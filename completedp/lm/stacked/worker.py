"""A worker process that trains a stack of jobs, as `completedp.runs.worker` trains one.

`python -m completedp.lm.stacked.worker PLACES FD FOLDER [PATH ...]`: it trains up to PLACES jobs at a time.
The rest is as in `completedp.runs.worker`. Its coordinator sends it only jobs that can stack with each other,
or one at a time.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from completedp import trust
from completedp.runs.job import Finished, Job
from completedp.runs.runner import attempt, death_by
from completedp.runs.worker import Link, link_to

if TYPE_CHECKING:
    from completedp.lm.stacked.stack import Stack


def stack_key(job: Job) -> str | None:
    """Jobs with the same key can train in one stack. None: the job trains alone.

    They have the same architecture, data and training. Their split may differ.
    """
    alone = ("checkpoints", "parallel")
    if job.task != trust.LANGUAGE_MODEL or any(job.arguments.get(name) for name in alone):
        return None
    return json.dumps({**job.arguments, "split": None}, sort_keys=True)


class StackServer:
    """The jobs of one worker: a stack as long as there are members, and the ends of each."""

    def __init__(self, link: Link, places: int) -> None:
        self._link, self._places = link, places
        self._stack: Stack | None = None
        self._key: str | None = None
        self._at_work: set[int] = set()

    def serve(self) -> None:
        """Run jobs forever. The link ends the process."""
        while True:
            if not self._at_work:
                self._begin(self._link.next_job())
            for job in self._link.jobs():
                self._begin(job)
            self._advance()

    def _begin(self, job: Job) -> None:
        key = stack_key(job)
        if key is None:
            self._link.ended(attempt(job, self._link.progress))
            return
        try:
            self._start(job, key)
        except Exception as error:
            self._link.ended(death_by(error, job.trial))

    def _start(self, job: Job, key: str) -> None:
        from completedp.config import ModelConfig
        from completedp.lm.stacked.stack import Stack
        from completedp.lm.train import RunArguments

        run = RunArguments.read(ModelConfig, job.arguments)
        if self._stack is None or key != self._key:
            assert not self._at_work, "jobs that cannot stack with the ones at work"
            self._stack = None  # its memory is free before the next one takes its own
            self._stack, self._key = Stack(run, self._places), key
        self._stack.start(job, run, self._link.progress)
        self._at_work.add(job.trial)

    def _advance(self) -> None:
        if self._stack is None:
            return
        try:
            for outcome in self._stack.advance():
                self._at_work.discard(outcome.trial)
                self._link.ended(Finished(outcome=outcome))
        except Exception as error:
            # A step is of all members, so nothing tells whose fault it is.
            for trial in self._at_work:
                self._link.ended(death_by(error, trial))
            self._at_work.clear()
            self._stack = None


if __name__ == "__main__":
    link = link_to(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    StackServer(link, int(sys.argv[1])).serve()
