"""A worker process: runs the jobs that its coordinator sends, one after another, until the socket closes.

`python -m completedp.runs.worker FD FOLDER [PATH ...]`: FD is the inherited end of a socket pair, FOLDER must
hold this package, and each PATH may hold tasks. Ctrl-C and similar signals are blocked at the start, because
the coordinator decides what they mean. Messages are lines of JSON:

    to the worker      {"job": {…}}
    to the coordinator {"progress": {…}}   {"finished": {…}}   {"died": {"trial", "reason", "mistake"}}

This module imports only the standard library. The task imports what it needs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from completedp.runs.job import Died, Finished, Job, Progress
from completedp.runs.runner import attempt

# A person reads the display, so more than two messages a second would only load the coordinator.
PROGRESS_SECONDS = 0.5


class Link:
    """The worker's end of the socket.

    A thread reads the socket, so that the coordinator's end is noticed at once even during a long step, a
    compilation or an evaluation: an orphan must not go on training.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._next_progress: dict[int, float] = {}
        threading.Thread(target=self._read, name="coordinator", daemon=True).start()

    def next_job(self) -> Job:
        """Wait for a job."""
        return self._jobs.get()

    def jobs(self) -> Iterator[Job]:
        """The jobs that have come by now."""
        while not self._jobs.empty():
            yield self._jobs.get()

    def progress(self, progress: Progress) -> None:
        """Send a step, at most one of a trial every `PROGRESS_SECONDS`. While the coordinator is too busy to
        read, steps are dropped, so that training need not wait."""
        now, due = time.monotonic(), self._next_progress.get(progress.trial, 0.0)
        if now >= due and select.select([], [self._connection], [], 0)[1]:
            self._next_progress[progress.trial] = now + PROGRESS_SECONDS
            self._send({"progress": dataclasses.asdict(progress)})

    def ended(self, end: Finished | Died) -> None:
        """Send the outcome, or the death."""
        trial = end.outcome.trial if isinstance(end, Finished) else end.trial
        self._next_progress.pop(trial, None)
        if isinstance(end, Finished):
            self._send({"finished": end.outcome.to_dict()})
        else:
            self._send({"died": dataclasses.asdict(end)})

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._jobs.put(Job.from_dict(json.loads(line)["job"]))
        finally:
            os._exit(0)  # at once: the main thread may be anywhere


def serve(link: Link) -> None:
    """Run jobs forever. The link ends the process."""
    while True:
        job = link.next_job()
        link.ended(attempt(job, link.progress))


def link_to(fd: int, folder: str, paths: Sequence[str] = ()) -> Link:
    """The link of this process to its coordinator. `paths` are searched last, because a user's folder may
    have names of ours or of the standard library's."""
    sys.path += paths
    found = Path(__file__).resolve().parents[2]
    if found != Path(folder):
        sys.exit(
            f"completedp was found in {found}, expected it in {folder}; remove or rename the other one"
        )
    return Link(socket.socket(fileno=fd))


if __name__ == "__main__":
    serve(link_to(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
