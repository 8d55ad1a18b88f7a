"""One trained plan's run in MLflow: the growing curve, and at the end the losses, the speed and the plan.

The run's folder is the truth and MLflow a copy: `RunView.sync` brings the database in line with the folder. A
run is whole when it has ended and carries the digest of `outcome.json`, which is written last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from completedp import files
from completedp.runs.job import Outcome
from completedp.tracking.store import ENDED, Store, flatten, milliseconds, text
from completedp.tracking.view import State, SyncResult, View, curve_metrics
from completedp.training.run_folder import RunRecord, read_points

_NOTE = (
    "A training by `completedp train`. `train_loss` by step and `loss`, the evaluation on the report split, "
    "in nats a token; `mfu` is the share of the cards' peak FLOP/s if that is known. `plan.yaml` holds "
    "every tensor's values. This page is a copy: `completedp track` rebuilds it from the run's folder."
)

# Values of a plan that `plan.yaml` alone shows.
_HIDDEN = ("tensors", "residual", "coefficients")


class RunView(View):
    """One trained plan's run in the database."""

    kind = "run"

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(store, folder)
        self._run = ""
        self._whole = False
        self._metrics: dict[str, float] = {}
        self._last_step = 0

    def sync(self, state: State) -> SyncResult:
        """One pass. With state `ended` a run without an outcome is shown as interrupted."""
        self._store.check()
        record = RunRecord.read(self._folder)
        digest = "" if record.outcome is None else files.digest(record.outcome.to_dict())
        if not self._run:
            self._load(record, digest)
        if self._whole:
            return self._result(unchanged=1)
        if record.outcome is None:
            self._write_points(read_points(self._folder, record.steps), record.begun, time.time())
            running = state == "running"
            status, shown = ("RUNNING", "running") if running else ("KILLED", "interrupted")
            self._store.client.update_run(self._run, status=status)
            self._store.log(self._run, tags={"completedp.status": shown})
        else:
            self._write_end(record, record.outcome, digest)
            self._whole = True
        return self._result(written=1)

    def _load(self, record: RunRecord, digest: str) -> None:
        """Find the run, or make it. Remove doubles, and runs that show another outcome."""
        identity = files.digest({"name": self._folder.name, "run": record.run})
        kept: Any = None
        for run in self._store.runs("completedp.run_id", identity):
            if kept is None and run.data.tags.get("completedp.record", digest) == digest:
                kept = run
            else:
                self._delete(run)
        if kept is None:
            kept = self._store.client.create_run(
                self._store.experiment_id,
                run_name=text(self._folder.name),
                start_time=milliseconds(record.begun),
                tags={"completedp.run": text(self._folder.name), "completedp.run_id": identity},
            )
        self._run = str(kept.info.run_id)
        self._whole = bool(
            digest and "completedp.record" in kept.data.tags and kept.info.status in ENDED
        )
        if self._whole:
            return
        self._metrics = dict(kept.data.metrics)
        history = self._store.client.get_metric_history(self._run, "train_loss")
        self._last_step = max((metric.step for metric in history), default=0)
        params = {"plan": record.digest, "seed": record.seed, **dict(flatten(record.plan))}
        self._store.log(
            self._run,
            # MLflow refuses a new value for a parameter, so all that a resumed run may change is a tag.
            params={
                key: value
                for key, value in params.items()
                if key not in kept.data.params and not key.startswith(_HIDDEN)
            },
            tags={
                "completedp.parallel": record.parallel,
                "completedp.processes": str(record.processes),
                "completedp.device": record.device,
                "mlflow.note.content": _NOTE,
            },
        )

    def _write_points(self, points: Sequence[tuple[int, float]], start: float, end: float) -> None:
        """Log the points of the curve that are not in the database yet."""
        new = [m for m in curve_metrics(points, start, end) if m[3] > self._last_step]
        self._store.log(self._run, metrics=new)
        self._last_step = max([self._last_step, *(step for *_, step in new)])

    def _write_end(self, record: RunRecord, outcome: Outcome, digest: str) -> None:
        start, end = record.ended - outcome.seconds, record.ended
        self._write_points(outcome.curve, start, end)
        numbers = dict(outcome.metrics)
        if outcome.loss is not None:
            numbers["loss"] = outcome.loss
        self._store.client.log_artifact(self._run, str(self._folder / "plan.yaml"))
        metrics = [
            (key, value, milliseconds(end), outcome.steps)
            for key, value in numbers.items()
            if self._metrics.get(key) != value
        ]
        self._finish(self._run, outcome, end, digest, metrics=metrics)
