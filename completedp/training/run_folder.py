"""One training run of a plan in its own folder: outcome, curve and weights. It resumes if interrupted.

The folder holds `plan.yaml` and `run.json` (how the run was started), `curve.jsonl` (one `{"step", "loss"}`
a line, written as steps are reported), `lock`, and `checkpoints/` while the run goes on. A run that did not
diverge leaves `model.safetensors`. `outcome.json` is written last: a run whose folder has it is finished, no
matter when a process was killed. If several processes train together, only the leading one writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from completedp import files, reading, root_layout
from completedp.config import DataConfig
from completedp.errors import UserError
from completedp.plan import Plan
from completedp.records import build
from completedp.runs.curves import points_in
from completedp.runs.divergence import stride
from completedp.runs.job import Job, Outcome, Progress
from completedp.runs.journal import sync
from completedp.runs.lock import Lock
from completedp.runs.runner import run_job, train_function

if TYPE_CHECKING:
    from completedp.lm.throughput import Speedometer
    from completedp.lm.train import LanguageModelTask

_OUTCOME = "outcome.json"
RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """The end of a run. `before`: an earlier call had finished it, and this one trained nothing."""

    outcome: Outcome
    before: bool


def run(
    job: Job,
    folder: Path,
    on_progress: Callable[[Progress], None],
    *,
    plan: Plan | None = None,
    on_start: Callable[[], None] | None = None,
) -> RunEnd:
    """Run the job here and write its folder. If that holds the finished job, only return its outcome.

    If `plan` is given, the folder describes the run. `on_start` is called when this process owns the folder
    and training begins. If several processes train, only the leading one writes and calls back. Raises
    `UserError` if the folder cannot be written, if another process writes it, or if it holds another
    finished run.
    """
    from completedp.lm.parallel import join

    group = join(job.arguments["parallel"])
    with group.collective_errors():
        task = _task(job)  # refuses bad data before anything is written
    identity = files.digest(task.run_content(job.resolved, job.seed))
    with ExitStack() as held:
        outcome: Outcome | None = None
        with group.collective_errors():
            if group.is_main:
                with files.writing(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(Lock(folder / root_layout.LOCK, "run"))
                outcome = _finished(folder, identity)
                if plan is not None and outcome is None:
                    _describe(folder, plan, job, task, identity)
        before = bool(group.broadcast(outcome is not None))
        if before and not group.is_main:
            outcome = _finished(folder, identity)
        if outcome is None and group.is_main:
            if on_start is not None:
                on_start()
            outcome = _train(job, folder, on_progress)
            files.write_json(folder / _OUTCOME, {"run": identity, **outcome.to_dict()})
            sync(folder)
        elif outcome is None:
            outcome = run_job(job)
        if group.is_main:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return RunEnd(outcome=outcome, before=before)


@dataclass(frozen=True, kw_only=True)
class _Start:
    """The content of `run.json`: how a run was started. `plan` is the digest of its plan."""

    run: str
    plan: str
    seed: int
    data: dict[str, Any]
    device: str
    processes: int
    parallel: str | None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder describes it.

    `begun` and `ended` are times of its files in seconds since the epoch. `ended` means nothing without an
    outcome.
    """

    run: str
    digest: str
    plan: Mapping[str, Any]
    steps: int
    seed: int
    device: str
    processes: int
    parallel: str
    begun: float
    ended: float
    outcome: Outcome | None

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a run's folder. Raises `UserError` if it does not describe a run."""
        start, plan = folder / RUN, folder / "plan.yaml"
        try:
            said = build(_Start, reading.read_json(start), str(start))
            build(DataConfig, said.data, f"{start}: data")
            content = files.read_yaml(plan)
            steps = Plan.from_dict(content, str(plan)).train.steps
        except UserError as error:
            raise UserError(
                f"{folder}: not the folder of a run ({error}); remove it, or train into another one"
            ) from None
        return cls(
            run=said.run,
            digest=said.plan,
            plan={**content, "data": said.data},
            steps=steps,
            seed=said.seed,
            device=said.device,
            processes=said.processes,
            parallel=said.parallel or "none",
            begun=_modified(start),
            ended=_modified(folder / _OUTCOME),
            outcome=_finished(folder, said.run),
        )


def trained(root: Path) -> list[Path]:
    """The folders under a root that describe a run, by name."""
    return sorted(path.parent for path in root.glob(f"{root_layout.RUNS}/*/{RUN}"))


def read_points(folder: Path, steps: int) -> list[tuple[int, float]]:
    """The curve of a run under way, as thin as an outcome's.

    A point is (step, mean training loss in nats per token since the point before).
    """
    every = stride(steps)
    points: list[tuple[int, float]] = []
    pending: list[float] = []
    for step, loss in points_in(folder / "curve.jsonl"):
        pending.append(loss)
        if step % every == 0:
            points.append((step, sum(part / len(pending) for part in pending)))
            pending.clear()
    return points


def speedometer(job: Job) -> Speedometer:
    """The meter of a job's speed on the processes that train it."""
    return _task(job).speedometer


def _modified(path: Path) -> float:
    """The time of a file's last writing, in seconds since the epoch. 0 if there is no file."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _describe(folder: Path, plan: Plan, job: Job, task: LanguageModelTask, identity: str) -> None:
    """Write what a reader of the folder needs.

    An interrupted run of other values keeps its description: its checkpoint will refuse this run.
    """
    from completedp.lm.checkpoint import newest

    described = folder / RUN
    if newest(folder / "checkpoints") is not None:
        with contextlib.suppress(UserError):  # a damaged description is written anew
            if build(_Start, reading.read_json(described), str(described)).run != identity:
                return
    plan.write(folder / "plan.yaml")
    start = _Start(
        run=identity,
        plan=files.digest(plan.to_dict()),
        seed=job.seed,
        data=dict(job.arguments["data"]),
        device=task.device.type,
        processes=task.group.world_size,
        parallel=job.arguments["parallel"],
    )
    files.write_json(described, vars(start))


def _task(job: Job) -> LanguageModelTask:
    from completedp.lm.train import LanguageModelTask

    task = train_function(job)
    assert isinstance(task, LanguageModelTask), "made by `plan_job`"
    return task


def _finished(folder: Path, identity: str) -> Outcome | None:
    path = folder / _OUTCOME
    if not os.path.lexists(path):
        return None
    try:
        data = reading.read_object(path)
        run = data.pop("run", None)
        outcome = Outcome.from_dict(data, str(path))
    except UserError as error:
        raise UserError(
            f"{path}: not the outcome of a run ({error}); remove it, or give another place"
        ) from None
    if run != identity:
        raise UserError(
            f"{folder}: holds the finished run of other values, data or seed; give another place, or "
            "remove it"
        )
    return outcome


def _train(job: Job, folder: Path, on_progress: Callable[[Progress], None]) -> Outcome:
    with _Curve(folder / "curve.jsonl") as curve:

        def report(progress: Progress) -> None:
            curve.add(progress.step, progress.loss)
            on_progress(progress)

        outcome = run_job(job, on_progress=report)
    if outcome.status == "completed":
        _keep_weights(folder)
    return outcome


def _keep_weights(folder: Path) -> None:
    """Keep the last checkpoint's weights, which are on the disk already, as the run's weights.

    The checkpoint stays, so that a run that is killed right after this goes on from it.
    """
    from completedp.lm.checkpoint import newest

    last = newest(folder / "checkpoints")
    assert last is not None, "a completed run ends with a checkpoint"
    kept = folder / "model.safetensors"
    with files.writing(kept):
        kept.unlink(missing_ok=True)  # left by a run that was killed before its outcome was written
        try:
            os.link(last / kept.name, kept)
        except OSError:  # a file system without hard links
            _copy(last / kept.name, kept)


def _copy(source: Path, target: Path) -> None:
    """Copy the whole file or nothing."""
    copying = target.with_name(f".{target.name}")
    try:
        shutil.copyfile(source, copying)
        sync(copying)
        os.replace(copying, target)
    finally:
        copying.unlink(missing_ok=True)


def _line(step: int, loss: float) -> str:
    return json.dumps({"step": step, "loss": loss}, allow_nan=False) + "\n"


class _Curve:
    """The curve's file. A resumed run drops the lines that an interrupted one wrote after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Curve:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, step: int, loss: float) -> None:
        with files.writing(self._path):
            if self._file is None:
                files.write_text(self._path, self._before(step))
                # No buffer: its rest could not be written when the disk is full.
                self._file = self._path.open("ab", buffering=0)
            line = _line(step, loss).encode()
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _before(self, step: int) -> str:
        """The lines of earlier steps."""
        if step == 1:
            return ""
        return "".join(_line(s, loss) for s, loss in points_in(self._path) if s < step)
