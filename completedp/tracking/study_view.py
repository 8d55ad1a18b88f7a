"""One study's runs in MLflow: a parent run, and a nested run for each finished trial.

The journal is the truth and MLflow a copy: `StudyView.sync` brings the database in line with the journal,
whatever the database holds. A trial's run is whole when it has ended and carries the digest of its journal
record, which is written last. Any other run of the trial was left by a killed writer and is replaced.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from completedp import files, reading, root_layout
from completedp.errors import UserError
from completedp.runs.curves import read_curve
from completedp.runs.journal import TrialRecord, check_study, read_records, trials
from completedp.tracking.store import ENDED, Store, flatten, milliseconds, text
from completedp.tracking.view import State, SyncResult, View, curve_metrics

_NOTE = (
    "A completedp study. Each nested run is one training run; its parameters are the multipliers of the "
    "preset's values (for a β, of 1-β) that differ from 1. `train_loss` by step, `loss` the evaluation, in "
    "nats a token. This page is a copy: `completedp track` rebuilds it from the study's journal."
)


class StudyView(View):
    """One study's runs in the database."""

    kind = "study"

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(store, folder)
        self._client, self._experiment_id = store.client, store.experiment_id
        self._whole: set[int] = set()
        self._parent = ""
        self._steps_logged: set[int] = set()

    def sync(self, state: State) -> SyncResult:
        """One pass. With state `ended` the parent run ends too and gets its artifacts."""
        self._store.check()
        journal = self._folder / root_layout.JOURNAL
        records = read_records(journal)
        if not records:
            raise UserError(f"{journal}: there is no study any more")
        check_study(records[0], journal)
        ended = trials(records, journal).values()
        finished = {t.trial: t for t in ended if t.status is not None}
        if not self._parent:
            self._load(records[0], finished)
        missing = [number for number in finished if number not in self._whole]
        for number in missing:
            self._write_trial(finished[number])
            self._whole.add(number)
        self._write_progress(records, finished)
        if state == "ended":
            self._end_parent(records)
        return self._result(written=len(missing), unchanged=len(finished) - len(missing))

    def _load(self, first: Mapping[str, Any], finished: Mapping[int, TrialRecord]) -> None:
        """Find the study's runs, remove those that are not whole, and start the parent."""
        study_id = files.digest({"name": self._folder.name, "first": dict(first)})
        self._tags = {"completedp.study": text(self._folder.name), "completedp.study_id": study_id}
        parents: list[Any] = []
        children: list[Any] = []
        for run in self._store.runs("completedp.study_id", study_id):
            (children if "completedp.trial" in run.data.tags else parents).append(run)
        kept: dict[int, Any] = {}  # the first whole run of each trial
        for run in children:
            if "completedp.record" in run.data.tags and run.info.status in ENDED:
                kept.setdefault(int(run.data.tags["completedp.trial"]), run)
        parent = parents[0] if parents else None
        shown = {number: run.data.tags["completedp.record"] for number, run in kept.items()}
        if any(n not in finished or _digest(finished[n]) != d for n, d in shown.items()):
            parent, kept = None, {}  # the study was deleted and started again
        keep = {run.info.run_id for run in (parent, *kept.values()) if run}
        for run in parents + children:
            if run.info.run_id not in keep:
                self._delete(run)
        if parent is None:
            starts = [self._times(trial)[0] for trial in finished.values()]
            parent = self._client.create_run(
                self._experiment_id,
                run_name=text(self._folder.name),
                start_time=milliseconds(min(starts, default=time.time())),
                tags=self._tags,
            )
        self._parent = str(parent.info.run_id)
        self._whole = set(kept)
        self._describe_parent(first)
        for run in kept.values():
            if run.data.tags.get("mlflow.parentRunId") != self._parent:
                self._client.set_tag(run.info.run_id, "mlflow.parentRunId", self._parent)

    def _describe_parent(self, first: Mapping[str, Any]) -> None:
        """Log the study's configuration as parameters. To log them again changes nothing."""
        params = {"seed": first.get("seed"), **dict(flatten(first.get("config", {})))}
        tags = {
            "completedp.preset": str(first.get("digest")),
            "completedp.status": "running",
            "mlflow.note.content": _NOTE,
        }
        self._store.log(self._parent, params=params, tags=tags)
        self._client.update_run(self._parent, status="RUNNING")
        history = self._client.get_metric_history(self._parent, "best_loss")
        self._steps_logged = {metric.step for metric in history}

    def _times(self, trial: TrialRecord) -> tuple[float, float]:
        """Start and end in seconds since the epoch. The curve is written when the trial ends."""
        curve = self._folder / root_layout.CURVES / f"{trial.trial}.jsonl"
        when = curve if curve.exists() else self._folder / root_layout.JOURNAL
        end = when.stat().st_mtime
        return end - trial.seconds, end

    def _write_trial(self, trial: TrialRecord) -> None:
        start, end = self._times(trial)
        run = self._client.create_run(
            self._experiment_id,
            run_name=f"trial {trial.trial}",
            start_time=milliseconds(start),
            tags={
                **self._tags,
                "mlflow.parentRunId": self._parent,
                "completedp.trial": str(trial.trial),
                "completedp.phase": trial.phase,
            },
        )
        params = {"phase": trial.phase, "seed": trial.seed}
        # Coordinates are octaves: 0 is the preset's own value.
        params |= {k: f"{math.exp2(v):.4g}" for k, v in trial.values.items() if v != 0}
        curve = read_curve(self._folder / root_layout.CURVES, trial.trial)
        last = max([1, trial.steps, *(step for step, _ in curve)])
        metrics = curve_metrics(curve, start, end, last)
        if trial.loss is not None:
            metrics.append(("loss", trial.loss, milliseconds(end), last))
        run_id = str(run.info.run_id)
        self._finish(run_id, trial, end, _digest(trial), params=params, metrics=metrics)

    def _write_progress(
        self, records: Sequence[Mapping[str, Any]], finished: Mapping[int, TrialRecord]
    ) -> None:
        """Log the parent's curve: the best loss after each search trial, in the order of their ends."""
        now = milliseconds(time.time())
        best, metrics = math.inf, []
        order = [finished[r["trial"]] for r in records if r["event"] == "finished"]
        # Other runs have another scale or split, so their losses are not comparable.
        for step, trial in enumerate(t for t in order if t.phase in ("global", "module")):
            best = min(best, math.inf if trial.loss is None else trial.loss)
            if math.isfinite(best) and step not in self._steps_logged:
                metrics.append(("best_loss", best, now, step))
        budgets = [record["budget"] for record in records if "budget" in record]
        # A tag, because the budget can be raised and a parameter cannot change.
        self._store.log(self._parent, metrics=metrics, tags={"completedp.budget": str(budgets[-1])})
        self._steps_logged |= {step for *_, step in metrics}

    def _end_parent(self, records: Sequence[Mapping[str, Any]]) -> None:
        done = records[-1]["event"] == "done"
        end = milliseconds((self._folder / root_layout.JOURNAL).stat().st_mtime)
        metrics = [(key, value, end, 0) for key, value in self._summary()] if done else []
        for name in (
            root_layout.STUDY,
            root_layout.RECIPE,
            root_layout.SUMMARY,
            root_layout.FIGURES,
        ):
            path = self._folder / name
            if path.is_dir():
                self._client.log_artifacts(self._parent, str(path), artifact_path=name)
            elif path.exists():
                self._client.log_artifact(self._parent, str(path))
        status = "done" if done else "interrupted"
        self._store.log(self._parent, metrics=metrics, tags={"completedp.status": status})
        self._client.set_terminated(self._parent, "FINISHED" if done else "KILLED", end_time=end)

    def _summary(self) -> list[tuple[str, float]]:
        """The numbers of the study's summary, by dotted path."""
        path = self._folder / root_layout.SUMMARY
        if not path.exists():
            return []
        try:
            leaves = flatten(reading.read_object(path))
        except UserError as error:
            raise UserError(
                f"{error}; 'completedp report {self._folder.name}' writes it again"
            ) from None
        return [
            (key, float(v))
            for key, v in leaves
            if isinstance(v, int | float) and reading.is_number(v)
        ]


def _digest(trial: TrialRecord) -> str:
    """The identity of all that the view shows of a trial."""
    names = ("trial", "phase", "seed", "status", "loss", "steps", "seconds", "reason")
    shown = {name: getattr(trial, name) for name in names}
    return files.digest({"values": dict(trial.values), **shown})
