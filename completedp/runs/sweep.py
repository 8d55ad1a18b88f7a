"""A fixed list of jobs, run to its end and resumable: sweeps, speed-up runs, benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from completedp import files
from completedp.errors import UserError
from completedp.runs.curves import read_curve
from completedp.runs.engine import run
from completedp.runs.job import Event, Executor, Job, Outcome
from completedp.runs.journal import Journal, Record, exists, finished_record, read_records
from completedp.runs.lock import Lock


class ListSource:
    """A `Source` of given jobs, in their order. `outcomes` fills as they finish; `append` is the journal's,
    where there is one."""

    def __init__(self, jobs: Iterable[Job], append: Callable[[Record], None] | None = None) -> None:
        self._append = append or (lambda _: None)
        self._left = list(jobs)[::-1]
        self._open: set[int] = {job.trial for job in self._left}
        self.outcomes: dict[int, Outcome] = {}

    def next(self) -> Job | None:
        return self._left.pop() if self._left else None

    def finished(self, outcome: Outcome) -> None:
        self._append(finished_record(outcome))
        self._open.discard(outcome.trial)
        self.outcomes[outcome.trial] = outcome

    def set_aside(self, trial: int, reason: str) -> None:
        self._append({"event": "set_aside", "trial": trial, "reason": reason})
        self._open.discard(trial)

    @property
    def done(self) -> bool:
        return not self._open


def run_all(
    jobs: Sequence[Job],
    executor: Executor,
    directory: Path,
    *,
    on_event: Callable[[Event], None] | None = None,
) -> dict[int, Outcome]:
    """The outcome of every job by its trial number, those of earlier calls on `directory` included.

    Jobs that were set aside are left out here and tried again by the next call; so are those that an
    interruption (the first Ctrl-C) kept from starting. Raises `UserError` for a directory of other jobs.
    """
    assert len({job.trial for job in jobs}) == len(jobs), "two jobs with one trial number"
    directory.mkdir(parents=True, exist_ok=True)
    path, curves = directory / "journal.jsonl", directory / "curves"
    digest = files.digest([job.to_dict() for job in jobs])
    with Lock(directory / "lock", "sweep"):
        before = _finished_before(path, curves, digest) if exists(path) else {}
        opened = Journal.open(path) if exists(path) else Journal.create(path, {"digest": digest})
        with opened as journal:
            left = [job for job in jobs if job.trial not in before]
            source = ListSource(left, journal.append)
            run(source, executor, curves=curves, on_event=on_event)
    outcomes = before | source.outcomes
    return {job.trial: outcomes[job.trial] for job in jobs if job.trial in outcomes}


def _finished_before(path: Path, curves: Path, digest: str) -> dict[int, Outcome]:
    study, *records = read_records(path)
    if study.get("digest") != digest:
        raise UserError(
            f"{path.parent}: holds the results of other jobs ({study.get('digest')}, these are {digest}); "
            "give another directory, or remove this one"
        )
    finished = (record for record in records if record["event"] == "finished")
    return {record["trial"]: _outcome(record, curves) for record in finished}


def _outcome(record: Record, curves: Path) -> Outcome:
    fields = {name: value for name, value in record.items() if name != "event"}
    return Outcome.from_dict({**fields, "curve": read_curve(curves, record["trial"])})
