"""An executor on a Ray cluster: one task a job, one trial per GPU or a fraction of one, or one CPU core.

Ray's own retries are off: a task that is lost with its worker or node is a `Died`, and the engine decides, as
everywhere else. Installed by the extra `ray`. Every node needs this package and sees the same root folder.
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

# Losses are small, but a cluster's store takes a third of the memory unless told otherwise.
LOCAL_STORE_BYTES = 100_000_000


class RayExecutor(Executor):
    """Jobs as Ray tasks on the cluster of `RAY_ADDRESS`, or on one begun here for as long as this lives.

    `device` is `cpu`, where a job takes one core, or `cuda`, where it takes `gpus` of one (a fraction
    shares it). `workers` bounds how many run at a time, 0: as many as the cluster holds. `paths` are
    folders where tasks may live besides the installed packages.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        gpus: float = 1.0,
        workers: int = 0,
        paths: Sequence[Path] = (),
    ) -> None:
        self._ray = _import_ray()
        self._need = {"CPU": 1.0} if device == "cpu" else {"GPU": gpus}
        self._workers = workers
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect()
        if self.capacity == 0:
            raise UserError(
                f"the Ray cluster has no node with {self._need}; add one, or give another --device"
            )
        self._paths = [str(path) for path in paths]
        # A process that has begun on one GPU stays on it, whatever it is told for the next task: one each.
        # Ray does so itself only where the decorator, not the options, names the GPUs.
        remote = self._ray.remote if device == "cpu" else self._ray.remote(max_calls=1)
        self._task = remote(_train).options(
            num_cpus=self._need.get("CPU", 0),
            num_gpus=self._need.get("GPU", 0),
            max_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"} | _inherited_path()},
        )
        self._mailbox = self._ray.remote(_Mailbox).options(num_cpus=0).remote()
        self._running: dict[Any, int] = {}
        self._heard: set[int] = set()

    def _connect(self) -> None:
        address = os.environ.get("RAY_ADDRESS")
        local = (
            {}
            if address
            else {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
        )
        try:
            self._ray.init(address=address, log_to_driver=False, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster at RAY_ADDRESS={address} ({error}); start one by: ray start --head"
            ) from None

    @property
    def capacity(self) -> int:
        """What the living nodes hold now: it falls with a node, and rises with a new one."""
        held = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                held += int(min(has.get(name, 0.0) / much for name, much in self._need.items()))
        return min(held, self._workers) if self._workers else held

    def submit(self, job: Job) -> None:
        self._heard.discard(job.trial)
        self._running[self._task.remote(job, self._mailbox, self._paths)] = job.trial

    def poll(self, timeout: float) -> list[Event]:
        refs = list(self._running)
        if not refs:
            return []
        done, _ = self._ray.wait(refs, num_returns=1, timeout=timeout)
        if done:  # and whatever else has ended by now
            done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        events: list[Event] = [Progress(**p) for p in self._news()]
        return events + [self._end(ref) for ref in done]

    def _news(self) -> list[dict[str, Any]]:
        """The latest step of each running trial, as far as the mailbox answers."""
        exceptions = self._ray.exceptions
        try:
            latest = self._ray.get(self._mailbox.take.remote(), timeout=PROGRESS_SECONDS)
        except exceptions.RayActorError:
            # It was lost with its node; those who run keep the old one and stay silent.
            self._mailbox = self._ray.remote(_Mailbox).options(num_cpus=0).remote()
            return []
        except exceptions.GetTimeoutError:
            return []
        running = set(self._running.values())
        news = [progress for progress in latest if progress["trial"] in running]
        self._heard |= {progress["trial"] for progress in news}
        return news

    def _end(self, ref: Any) -> Event:
        trial = self._running.pop(ref)
        try:
            end: Finished | Died = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return Died(trial=trial, reason=describe(error))
        return end

    def began(self, trial: int) -> bool:
        # Others may hold what the cluster has; only a step says that the job is at work.
        return trial in self._heard

    def cancel(self, trial: int) -> None:
        self._mailbox.cancel.remote(trial)

    def kill(self, trial: int) -> None:
        for ref in [ref for ref, running in self._running.items() if running == trial]:
            self._ray.cancel(ref, force=True)
            del self._running[ref]

    def close(self) -> None:
        for ref in self._running:
            self._ray.cancel(ref, force=True)
        self._running.clear()
        if self._ours:
            self._ray.shutdown()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Mailbox:
    """An actor between the coordinator and the jobs: steps one way, cancellations the other."""

    def __init__(self) -> None:
        self._latest: dict[int, dict[str, Any]] = {}
        self._cancelled: set[int] = set()

    def progress(self, progress: dict[str, Any]) -> bool:
        """Take a step; whether its trial is to end."""
        self._latest[progress["trial"]] = progress
        return progress["trial"] in self._cancelled

    def take(self) -> list[dict[str, Any]]:
        latest, self._latest = self._latest, {}
        return list(latest.values())

    def cancel(self, trial: int) -> None:
        self._cancelled.add(trial)


class _Link:
    """A job's side of the mailbox. It never makes training wait: an answer is read when it is there."""

    def __init__(self, ray: Any, mailbox: Any) -> None:
        self._ray = ray
        self._mailbox = mailbox
        self._next = 0.0
        self._asked: Any = None
        self._cancelled = False

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._asked is not None and self._ray.wait([self._asked], timeout=0)[0]:
            try:
                self._cancelled = self._ray.get(self._asked)
            except self._ray.exceptions.RayError:
                self._next = float("inf")  # the mailbox is gone; the job is not the worse for it
            self._asked = None
        if self._asked is None and now >= self._next:
            self._next = now + PROGRESS_SECONDS
            self._asked = self._mailbox.progress.remote(dataclasses.asdict(progress))

    def cancelled(self) -> bool:
        return self._cancelled


def _inherited_path() -> dict[str, str]:
    path = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": path} if path else {}


def _train(job: Job, mailbox: Any, paths: list[str]) -> Finished | Died:
    """The task."""
    sys.path += [path for path in paths if path not in sys.path]
    link = _Link(_import_ray(), mailbox)
    return attempt(job, link.progress, link.cancelled)


def _import_ray() -> Any:
    with needs("ray", "--executor ray", "'completedp[ray]'"):
        import ray
    return ray
