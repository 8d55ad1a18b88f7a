"""The run of one trained plan in MLflow: its curve as it grows, and at its end losses, speed and the plan.

The run's folder is the truth and MLflow a copy: `RunView.sync` brings the database in line with the folder. A
run is whole when it has ended and carries the digest of `outcome.json`, the last thing written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from completedp import files
from completedp.tracking.store import ENDED, RUN_STATUS, Store, flatten, milliseconds, text
from completedp.training.run_folder import RunRecord, read_points

_NOTE = (
    "A training by `completedp train`. `train_loss` by step and `loss`, the evaluation on the report split, "
    "in nats a token; `mfu` is the share of the cards' peak FLOP/s where that is known. `plan.yaml` holds "
    "every tensor's values. This page is a copy: `completedp track` rebuilds it from the run's folder."
)


@dataclass(frozen=True, kw_only=True)
class SyncedRun:
    """What one pass did with a trained plan: runs written, found whole, and removed; `busy` if its training
    has the view."""

    run: str
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    busy: bool = False


class RunView:
    """One trained plan's run in the database. Remembers which steps are there: a pass costs what is new."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._run = ""
        self._whole = False
        self._removed = 0
        self._metrics: dict[str, float] = {}
        self._last_step = 0

    def sync(self, state: Literal["running", "ended"]) -> SyncedRun:
        """One pass. `ended`: nothing trains, so a run without an outcome was interrupted."""
        self._store.check()
        described = RunRecord.read(self._folder)
        record = "" if described.outcome is None else files.digest(described.outcome.to_dict())
        if not self._run:
            self._load(described, record)
        if self._whole:
            return SyncedRun(run=self._folder.name, unchanged=1, removed=self._removed)
        if described.outcome is None:
            self._write_points(
                read_points(self._folder, described.steps), described.begun, time.time()
            )
            status = "RUNNING" if state == "running" else "KILLED"
            shown = "running" if state == "running" else "interrupted"
            self._store.client.update_run(self._run, status=status)
            self._store.log(self._run, tags={"completedp.status": shown})
        else:
            self._write_end(described, record)
            self._whole = True
        return SyncedRun(run=self._folder.name, written=1, removed=self._removed)

    def _load(self, described: RunRecord, record: str) -> None:
        """Find the run, or make it; remove doubles and what shows another outcome."""
        identity = files.digest({"name": self._folder.name, "run": described.run})
        kept: Any = None
        for run in self._store.runs("completedp.run_id", identity):
            if kept is None and run.data.tags.get("completedp.record", record) == record:
                kept = run
            else:
                self._store.client.delete_run(run.info.run_id)
                self._removed += 1
        if kept is None:
            kept = self._store.client.create_run(
                self._store.experiment_id,
                run_name=text(self._folder.name),
                start_time=milliseconds(described.begun),
                tags={"completedp.run": text(self._folder.name), "completedp.run_id": identity},
            )
        self._run = str(kept.info.run_id)
        self._whole = bool(
            record and "completedp.record" in kept.data.tags and kept.info.status in ENDED
        )
        if self._whole:
            return
        self._metrics = dict(kept.data.metrics)
        history = self._store.client.get_metric_history(self._run, "train_loss")
        self._last_step = max((metric.step for metric in history), default=0)
        plan = flatten(described.plan)
        shown = {
            key: value
            for key, value in plan
            if not key.startswith(("tensors", "residual", "coefficients"))
        }
        params = {"plan": described.digest, "seed": described.seed, **shown}
        self._store.log(
            self._run,
            # MLflow refuses another value for a parameter; what a resumed run may change are tags.
            params={key: value for key, value in params.items() if key not in kept.data.params},
            tags={
                "completedp.parallel": described.parallel,
                "completedp.processes": str(described.processes),
                "completedp.device": described.device,
                "mlflow.note.content": _NOTE,
            },
        )

    def _write_points(self, points: Sequence[tuple[int, float]], start: float, end: float) -> None:
        """The curve's points that are not there yet, spread evenly over the time."""
        last = max([1, *(step for step, _ in points)])
        new = [(step, loss) for step, loss in points if step > self._last_step]
        self._store.log(
            self._run,
            metrics=[
                ("train_loss", loss, milliseconds(start + (end - start) * step / last), step)
                for step, loss in new
            ],
        )
        self._last_step = max([self._last_step, *(step for step, _ in new)])

    def _write_end(self, described: RunRecord, record: str) -> None:
        outcome = described.outcome
        assert outcome is not None, "the run has ended"
        start, end = described.ended - outcome.seconds, described.ended
        self._write_points(outcome.curve, start, end)
        numbers = dict(outcome.metrics)
        if outcome.loss is not None:
            numbers["loss"] = outcome.loss
        client = self._store.client
        client.log_artifact(self._run, str(self._folder / "plan.yaml"))
        status = RUN_STATUS.get(outcome.status, "FAILED")
        client.set_terminated(self._run, status, end_time=milliseconds(end))
        tags = {"completedp.status": outcome.status, "completedp.record": record}
        if outcome.reason:
            tags["reason"] = outcome.reason
        self._store.log(
            self._run,
            metrics=[
                (key, value, milliseconds(end), outcome.steps)
                for key, value in numbers.items()
                if self._metrics.get(key) != value
            ],
            tags=tags,
        )
