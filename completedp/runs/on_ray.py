"""An executor on a Ray cluster. Each job is a task on a CPU core, a GPU, or a fraction of a GPU.

Ray's own retries are off: a task that is lost with its worker or node is a `Died`, and the engine decides.
The extra `ray` installs Ray. Every node needs this package and must see the same root folder.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from completedp.errors import UserError, needs
from completedp.runs.job import Died, Event, Executor, Finished, Job, Progress
from completedp.runs.runner import attempt, describe
from completedp.runs.worker import PROGRESS_SECONDS

with needs("ray", "--executor ray", "'completedp[ray]'"):
    import ray

# Losses are small, but by default a cluster's store takes a third of the memory.
LOCAL_STORE_BYTES = 100_000_000


class RayExecutor(Executor):
    """Jobs as Ray tasks on the cluster of `RAY_ADDRESS`, or on a local one that lives as long as this
    executor.

    With `device` `cpu` a job takes one core, with `cuda` it takes `gpus` GPUs (a fraction shares one). At
    most `workers` jobs run at a time, or as many as the cluster holds if it is 0. `paths` are folders that
    may hold tasks, searched after all packages.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        gpus: float = 1.0,
        workers: int = 0,
        paths: Sequence[Path] = (),
    ) -> None:
        self._resource, self._share = ("CPU", 1.0) if device == "cpu" else ("GPU", gpus)
        self._workers = workers
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect()
        if self.capacity == 0:
            raise UserError(
                f"the Ray cluster has no node with {self._share:g} {self._resource}; add one, or give "
                "another --device"
            )
        self._paths = [str(path) for path in paths]
        # A process that has begun on one GPU stays on it, whatever GPU its next task gets. So each process
        # runs one task. Ray ensures that itself only if the decorator, not the options, names the GPUs.
        remote = ray.remote if device == "cpu" else ray.remote(max_calls=1)
        self._task = remote(_train).options(
            num_cpus=1.0 if device == "cpu" else 0,
            num_gpus=0 if device == "cpu" else gpus,
            max_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"} | _inherited_path()},
        )
        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0).remote()
        self._running: dict[Any, int] = {}
        self._began: set[int] = set()

    @property
    def capacity(self) -> int:
        """The jobs that the living nodes can hold now. It falls and rises with the number of nodes."""
        nodes = (node["Resources"] for node in ray.nodes() if node["Alive"])
        places = sum(int(node.get(self._resource, 0.0) / self._share) for node in nodes)
        return min(places, self._workers) if self._workers else places

    def submit(self, job: Job) -> None:
        self._began.discard(job.trial)
        self._running[self._task.remote(job, self._mailbox, self._paths)] = job.trial

    def poll(self, timeout: float) -> list[Event]:
        refs = list(self._running)
        if not refs:
            return []
        done, _ = ray.wait(refs, num_returns=1, timeout=timeout)
        if done:  # and all others that have ended by now
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        events: list[Event] = [Progress(**p) for p in self._latest()]
        return events + [self._end(ref) for ref in done]

    def _latest(self) -> list[dict[str, Any]]:
        """The latest step of each running trial, or nothing if the mailbox does not answer."""
        try:
            latest = ray.get(self._mailbox.take.remote(), timeout=PROGRESS_SECONDS)
        except ray.exceptions.RayActorError:
            # It was lost with its node. Running jobs keep the old one and stay silent.
            self._mailbox = ray.remote(_Mailbox).options(num_cpus=0).remote()
            return []
        except ray.exceptions.GetTimeoutError:
            return []
        running = set(self._running.values())
        steps = [progress for progress in latest if progress["trial"] in running]
        self._began |= {progress["trial"] for progress in steps}
        return steps

    def _end(self, ref: Any) -> Event:
        trial = self._running.pop(ref)
        try:
            end: Finished | Died = ray.get(ref)
        except ray.exceptions.RayError as error:
            return Died(trial=trial, reason=describe(error))
        return end

    def began(self, trial: int) -> bool:
        # Other programs may hold the cluster's places, so only a step shows that the job is at work.
        return trial in self._began

    def kill(self, trial: int) -> None:
        for ref in [ref for ref, running in self._running.items() if running == trial]:
            ray.cancel(ref, force=True)
            del self._running[ref]

    def close(self) -> None:
        for ref in self._running:
            ray.cancel(ref, force=True)
        self._running.clear()
        if self._ours:
            ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Mailbox:
    """An actor between the jobs and the coordinator: it keeps each trial's latest step."""

    def __init__(self) -> None:
        self._latest: dict[int, dict[str, Any]] = {}

    def progress(self, progress: dict[str, Any]) -> None:
        self._latest[progress["trial"]] = progress

    def take(self) -> list[dict[str, Any]]:
        latest, self._latest = self._latest, {}
        return list(latest.values())


class _Link:
    """A job's side of the mailbox. Training never waits: an answer is read once it has come."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._next = 0.0
        self._sent: Any = None

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._sent is not None and ray.wait([self._sent], timeout=0)[0]:
            try:
                ray.get(self._sent)
            except ray.exceptions.RayError:
                self._next = float("inf")  # the mailbox is gone, and the job goes on without it
            self._sent = None
        if self._sent is None and now >= self._next:
            self._next = now + PROGRESS_SECONDS
            self._sent = self._mailbox.progress.remote(dataclasses.asdict(progress))


def _connect() -> None:
    address = os.environ.get("RAY_ADDRESS")
    local = {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, **({} if address else local))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster at RAY_ADDRESS={address} ({error}); start one by: ray start --head"
        ) from None


def _inherited_path() -> dict[str, str]:
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}


def _train(job: Job, mailbox: Any, paths: list[str]) -> Finished | Died:
    """The Ray task: run the job on a worker of the cluster."""
    sys.path += [path for path in paths if path not in sys.path]
    link = _Link(mailbox)
    return attempt(job, link.progress)
