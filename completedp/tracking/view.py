"""A view: one folder's runs in MLflow, brought in line with the folder by one operation, `sync`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from completedp.runs.job import Outcome
from completedp.runs.journal import TrialRecord
from completedp.tracking.store import RUN_STATUS, Store, milliseconds

Kind = Literal["study", "run"]
# Whether somebody still writes the folder.
State = Literal["running", "ended"]


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """The result of one pass over a study or a trained plan.

    It counts the MLflow runs that were written, found whole, and removed. `busy`: a running search or
    training keeps this view itself. `fault`: the reason why the folder could not be read.
    """

    kind: Kind
    name: str
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    busy: bool = False
    fault: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the name under the key `study` or `run`."""
        fields = asdict(self)
        return {fields.pop("kind"): fields.pop("name"), **fields}


class View(ABC):
    """Remembers what the database holds of its folder, so that a pass costs only what is new."""

    kind: ClassVar[Kind]

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._removed = 0

    @abstractmethod
    def sync(self, state: State) -> SyncResult:
        """One pass. State `ended` says that nothing writes the folder any more."""

    def _result(self, *, written: int = 0, unchanged: int = 0) -> SyncResult:
        return SyncResult(
            kind=self.kind,
            name=self._folder.name,
            written=written,
            unchanged=unchanged,
            removed=self._removed,
        )

    def _finish(
        self, run_id: str, ended: Outcome | TrialRecord, end: float, digest: str, **logged: Any
    ) -> None:
        """End a run at `end`, and log the rest. The tags come last, because they make the run whole."""
        assert ended.status is not None, "a run that has ended"
        status = RUN_STATUS.get(ended.status, "FAILED")
        self._store.client.set_terminated(run_id, status, end_time=milliseconds(end))
        tags = {"completedp.status": ended.status, "completedp.record": digest}
        if ended.reason:
            tags["reason"] = ended.reason
        self._store.log(run_id, tags=tags, **logged)

    def _delete(self, run: Any) -> None:
        self._store.client.delete_run(run.info.run_id)
        self._removed += 1


def curve_metrics(
    curve: Sequence[tuple[int, float]], start: float, end: float, last: int = 1
) -> list[tuple[str, float, int, int]]:
    """The points of a curve as metrics (key, value, time in ms, step).

    The steps up to the last one of the curve, or `last` if that is later, are spread evenly from `start` to
    `end`, in seconds since the epoch.
    """
    last = max([last, *(step for step, _ in curve)])
    return [
        ("train_loss", loss, milliseconds(start + (end - start) * step / last), step)
        for step, loss in curve
    ]
