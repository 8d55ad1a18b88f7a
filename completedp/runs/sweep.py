"""Lists of jobs, run to their end in a folder that keeps the outcomes: sweeps, speed-up runs, benchmarks.

A job is known by its content. One that an earlier call on the folder has finished is not run again, whatever
list it was in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from completedp import files, reading, root_layout
from completedp.runs.curves import read_curve
from completedp.runs.engine import run, trial_of
from completedp.runs.job import Event, Executor, Finished, Job, Outcome
from completedp.runs.journal import Journal, Record, exists, finished_record, read_records
from completedp.runs.lock import Lock


class ListSource:
    """A `Source` of given jobs, in their order. `outcomes` fills as they finish. `append` writes a record to
    the journal, if there is one."""

    def __init__(self, jobs: Iterable[Job], append: Callable[[Record], None] | None = None) -> None:
        self._append = append or (lambda _: None)
        self._waiting = list(jobs)[::-1]
        self._open: dict[int, Job] = {job.trial: job for job in self._waiting}
        self.outcomes: dict[int, Outcome] = {}

    def next(self) -> Job | None:
        return self._waiting.pop() if self._waiting else None

    def finished(self, outcome: Outcome) -> None:
        job = self._open.pop(outcome.trial)
        self._append({**finished_record(outcome), "job": identity(job)})
        self.outcomes[outcome.trial] = outcome

    def set_aside(self, trial: int, reason: str) -> None:
        self._append({"event": "set_aside", "trial": trial, "reason": reason})
        del self._open[trial]

    @property
    def done(self) -> bool:
        return not self._open


def identity(job: Job) -> str:
    """A digest of all of a job but its number.

    Jobs once had `rungs`, always empty in a sweep. They stay in the digest, so that what earlier versions
    have finished is found.
    """
    return files.digest({**job.to_dict(), "trial": None, "rungs": []})


def unfinished(jobs: Sequence[Job], directory: Path) -> list[Job]:
    """The jobs that no earlier call on `directory` has finished, each content once."""
    outcomes = _finished(directory)
    return [job for content, job in _by_content(jobs).items() if content not in outcomes]


def finished(jobs: Sequence[Job], directory: Path) -> dict[int, Outcome]:
    """The outcomes that earlier calls on `directory` have left, by the job's number."""
    return _of_jobs(jobs, _finished(directory))


def _of_jobs(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> dict[int, Outcome]:
    """The outcome of each job that has one. `outcomes` are by the job's identity."""
    return {
        job.trial: dataclasses.replace(outcomes[content], trial=job.trial)
        for job in jobs
        if (content := identity(job)) in outcomes
    }


def _by_content(jobs: Iterable[Job]) -> dict[str, Job]:
    """The first job with each content."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(identity(job), job)
    return first


def run_all(
    jobs: Sequence[Job],
    executor: Executor,
    directory: Path,
    *,
    forecast: float | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> dict[int, Outcome]:
    """The outcome of every job by its number, those of earlier calls on `directory` included.

    `forecast` is the time in seconds that the longest job should take, or None. In the folder jobs have other
    numbers, but events have those of `jobs`. The result lacks jobs that were set aside or, after an
    interruption (the first Ctrl-C), not started. The next call runs them.
    """
    assert len({job.trial for job in jobs}) == len(jobs), "two jobs with one trial number"
    with files.writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path, curves = directory / root_layout.JOURNAL, directory / root_layout.CURVES
    with Lock(directory / root_layout.LOCK, "sweep"):
        opened = Journal.open(path) if exists(path) else Journal.create(path, {})
        with opened as journal:
            outcomes = _finished(directory)
            missing = [job for content, job in _by_content(jobs).items() if content not in outcomes]
            used = (r["trial"] for r in read_records(path) if "trial" in r)
            first = 1 + max(used, default=-1)
            numbered = [dataclasses.replace(job, trial=i) for i, job in enumerate(missing, first)]

            def renumbered(event: Event) -> None:
                if on_event is not None:
                    on_event(_renumbered(event, missing[trial_of(event) - first].trial))

            source = ListSource(numbered, journal.append)
            run(source, executor, curves=curves, forecast=forecast, on_event=renumbered)
    done = source.outcomes
    outcomes |= {identity(job): done[job.trial] for job in numbered if job.trial in done}
    return _of_jobs(jobs, outcomes)


def _renumbered(event: Event, trial: int) -> Event:
    if isinstance(event, Finished):
        return Finished(outcome=dataclasses.replace(event.outcome, trial=trial))
    return dataclasses.replace(event, trial=trial)


def _finished(directory: Path) -> dict[str, Outcome]:
    """The outcomes in the folder, by the job's identity."""
    path = directory / root_layout.JOURNAL
    outcomes: dict[str, Outcome] = {}
    for number, record in enumerate(read_records(path), 1):
        if record["event"] == "finished":
            where = f"{path}, line {number}: the journal is damaged"
            reading.check_fields(record, {"job": reading.TEXT}, ("job",), where)
            outcomes[record["job"]] = _outcome(record, directory / root_layout.CURVES, where)
    return outcomes


def _outcome(record: Record, curves: Path, where: str) -> Outcome:
    fields = {name: value for name, value in record.items() if name not in ("event", "job")}
    return Outcome.from_dict({**fields, "curve": read_curve(curves, record["trial"])}, where)
