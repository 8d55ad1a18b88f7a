"""Executors on this machine: persistent worker processes, and this process itself."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import selectors
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from completedp import interrupts
from completedp.errors import UserError
from completedp.runs.job import Died, Event, Executor, Finished, Job, Outcome, Progress
from completedp.runs.runner import attempt

# Seconds that a worker has to exit after its socket has closed.
EXIT_SECONDS = 2.0
# Bytes at the end of a worker's log that are searched for its last line.
LOG_TAIL_BYTES = 4096
READ_BYTES = 1 << 16
# A container's CPU share (cgroup v2): "quota period" in microseconds, or "max period".
CPU_SHARE = Path("/sys/fs/cgroup/cpu.max")


def default_workers(device: str) -> int:
    """One worker a GPU, or one a CPU core that this process and its container may use.

    Measured: a single thread keeps a core near its peak for models below about 10M parameters, so one
    single-threaded process a core beats shared cores.
    """
    if device == "cuda":
        import torch

        return max(1, torch.cuda.device_count())
    if device == "cpu":
        affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
        return max(1, min(cores, _share_of_cores(CPU_SHARE)))
    return 1


def _share_of_cores(path: Path) -> int:
    """Whole cores of a container's quota, or no limit if it has none."""
    try:
        quota, period = path.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no cgroup of version 2, or "max": no limit
        return sys.maxsize


def devices_of(device: str) -> list[str]:
    """The devices that workers share in turn: every GPU for `cuda`, else the named one."""
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


class LocalExecutor(Executor):
    """Jobs in persistent worker processes on this machine.

    Workers are spawned when they are first needed, and are single-threaded on the CPU. They get `devices`
    round-robin: `cpu`, or `cuda:<index>`, which is then the only GPU that the worker sees. A worker keeps a
    task's training function for the next job. A worker that dies is replaced. The folder `logs` gets each
    one's output (`worker-<i>.log`). `paths` are folders that may hold tasks, searched after all packages.
    `program` is the module that a worker runs, and its first arguments.
    """

    def __init__(
        self,
        workers: int,
        *,
        logs: Path,
        devices: Sequence[str] = ("cpu",),
        paths: Sequence[Path] = (),
        program: Sequence[str] = ("completedp.runs.worker",),
    ) -> None:
        if workers < 1:
            raise UserError(f"workers is {workers}; expected 1 or more")
        logs.mkdir(parents=True, exist_ok=True)
        self._selector = selectors.DefaultSelector()
        self._slots = [
            Slot(
                program=tuple(program),
                log=logs / f"worker-{i}.log",
                device=devices[i % len(devices)],
                paths=tuple(paths),
            )
            for i in range(workers)
        ]

    @property
    def capacity(self) -> int:
        return len(self._slots)

    def submit(self, job: Job) -> None:
        slot = next((slot for slot in self._slots if not slot.jobs), None)
        assert slot is not None, "submitted more jobs than there are workers"
        self._send(slot, job)

    def _send(self, slot: Slot, job: Job) -> None:
        message = {"job": job.to_dict()}
        if slot.worker is None or slot.worker.ended or not slot.worker.send(message):
            self._retire(slot)  # it died while it was idle
            worker = slot.spawn()
            self._selector.register(worker.connection, selectors.EVENT_READ, slot)
            worker.send(message)  # if this one is dead already, `poll` tells
        slot.jobs[job.trial] = job

    def poll(self, timeout: float) -> list[Event]:
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            ended = [slot for slot in self._slots if slot.worker is not None and slot.worker.ended]
            events: list[Event] = []
            ready = [key.data for key, _ in self._selector.select(0.0 if ended else left)]
            for slot in ready:
                events += self._read(slot)
            # A forked child may hold a dead worker's socket open, so `select` does not see every end.
            for slot in (slot for slot in ended if slot not in ready):
                events += self._bury(slot)
            if events or left == 0.0:
                return events

    def began(self, trial: int) -> bool:
        return True

    def kill(self, trial: int) -> None:
        for slot in self._slots:
            if trial in slot.jobs:
                self._retire(slot)
                slot.jobs.clear()

    def close(self) -> None:
        for slot in self._slots:
            self._retire(slot)
            slot.jobs.clear()
        self._selector.close()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, slot: Slot) -> list[Event]:
        """The events of one worker. The end of its stream is its death."""
        assert slot.worker is not None
        lines = slot.worker.receive()
        if lines is None:
            return self._bury(slot)
        events = [self._event(slot, json.loads(line)) for line in lines]
        if slot.device != "cpu" and any(isinstance(e, Died) and not e.mistake for e in events):
            # A CUDA error stays in its process, which may keep memory.
            events += self._bury(slot, "another run in its worker died")
        return events

    def _event(self, slot: Slot, message: dict[str, Any]) -> Event:
        if "progress" in message:
            return Progress(**message["progress"])
        if "finished" in message:
            outcome = Outcome.from_dict(message["finished"])
            del slot.jobs[outcome.trial]
            return Finished(outcome=outcome)
        died = Died(**message["died"])
        del slot.jobs[died.trial]
        return died

    def _bury(self, slot: Slot, reason: str = "") -> list[Event]:
        """Drop a worker. That is the death of its jobs. Without a `reason` the worker has ended by itself."""
        assert slot.worker is not None
        reason = reason or slot.worker.cause_of_death()
        died: list[Event] = [Died(trial=trial, reason=reason) for trial in slot.jobs]
        slot.jobs.clear()
        self._retire(slot)
        return died

    def _retire(self, slot: Slot) -> None:
        if slot.worker is not None:
            self._selector.unregister(slot.worker.connection)
            slot.worker.end()
            slot.worker = None


@dataclasses.dataclass(eq=False)
class Slot:
    """A place for a worker: its program, log and device, the worker there, and its jobs by trial."""

    program: tuple[str, ...]
    log: Path
    device: str
    paths: tuple[Path, ...]
    worker: _Worker | None = None
    jobs: dict[int, Job] = dataclasses.field(default_factory=dict)

    def spawn(self) -> _Worker:
        self.worker = _Worker(self.program, self.log, _environment(self.device), self.paths)
        return self.worker


class _Worker:
    """A spawned process and this end of its socket."""

    def __init__(
        self,
        program: Sequence[str],
        log: Path,
        environment: dict[str, str],
        paths: Sequence[Path],
    ) -> None:
        self.connection, theirs = socket.socketpair()
        self._buffer = b""
        self._log = log
        command = [
            sys.executable,
            "-m",
            *program,
            str(theirs.fileno()),
            str(_package_folder()),
            *map(str, paths),
        ]
        with theirs, log.open("ab") as output:
            self._log_start = output.tell()
            # The worker inherits the mask, so these signals are blocked from its first instruction on: some
            # senders reach all processes of a group, and the coordinator alone decides what to do.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)
            try:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @property
    def ended(self) -> bool:
        """Whether the process has ended; its last messages may still be unread."""
        return self._process.poll() is not None

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message; returns whether the worker could receive it."""
        try:
            self.connection.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """The complete lines of one read, or None at the end of the stream."""
        try:
            data = self.connection.recv(READ_BYTES)
        except ConnectionResetError:
            return None
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return lines

    def cause_of_death(self) -> str:
        """The signal, or the exit status with the last line that the worker printed."""
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return f"the worker closed its socket (log: {self._log})"
        if code == -signal.SIGKILL:
            return "the worker was killed by SIGKILL: out of memory, or from outside"
        if code < 0:
            return f"the worker was ended by {signal.Signals(-code).name} (log: {self._log})"
        last = self._last_line()
        return f"the worker exited with status {code}" + (f": {last}" if last else "")

    def end(self) -> None:
        """Kill the process. It holds nothing that must be saved."""
        self.connection.close()
        self._process.kill()
        self._process.wait()

    def _last_line(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


@functools.cache
def _package_folder() -> Path:
    """The folder that holds this package."""
    return Path(__file__).resolve().parents[2]


def _environment(device: str) -> dict[str, str]:
    environment = dict(os.environ)
    installed = {sysconfig.get_path("purelib"), site.getusersitepackages()}
    folder = _package_folder()
    # PYTHONPATH comes before the standard library, so a whole site-packages must not be in it.
    own = [] if str(folder) in installed else [str(folder)]
    inherited = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    environment |= {
        "PYTHONPATH": os.pathsep.join([*own, *inherited]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if device == "cpu":
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment |= dict.fromkeys(threads, "1")
    elif device.startswith("cuda:"):
        environment["CUDA_VISIBLE_DEVICES"] = _visible(device)
    return environment


def _visible(device: str) -> str:
    """The driver's name of the GPU that this process counts as `cuda:<index>`."""
    index = device.removeprefix("cuda:")
    ours = os.environ.get("CUDA_VISIBLE_DEVICES")
    return index if ours is None else ours.split(",")[int(index)]


class InProcessExecutor(Executor):
    """One job at a time in this process, run inside `poll`: for a single training, and for tests.

    `on_progress` is called at every step, because `poll` returns only with the outcome.
    """

    capacity = 1

    def __init__(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        self._on_progress = on_progress
        self._job: Job | None = None

    def submit(self, job: Job) -> None:
        assert self._job is None, "one job at a time"
        self._job = job

    def poll(self, timeout: float) -> list[Event]:
        if self._job is None:
            return []
        try:
            return [attempt(self._job, self._on_progress)]
        finally:
            self._job = None

    def began(self, trial: int) -> bool:
        return True

    def kill(self, trial: int) -> None:
        assert self._job is None, "a job runs inside `poll`, which has returned"

    def close(self) -> None:
        self._job = None
