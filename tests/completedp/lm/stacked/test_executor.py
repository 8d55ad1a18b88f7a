"""Worker processes that train a stack each, and the jobs that they take."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.lm.stacked.executor import StackedExecutor
from completedp.lm.stacked.stack import Stack
from completedp.lm.stacked.worker import StackServer, stack_key
from completedp.runs.job import Died, Event, Finished, Job, Progress
from completedp.runs.runner import run_job
from completedp.runs.worker import Link

from .test_stack import Arguments, assert_alike, job_of

TOYS = Path(__file__).parents[2] / "runs"
LONG = {"tokens": 200_000}


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[StackedExecutor]:
    with StackedExecutor(1, stack=2, logs=tmp_path / "logs", paths=[TOYS]) as made:
        yield made


def until(
    executor: StackedExecutor,
    enough: Callable[[list[Event]], object],
    before: list[Event] | None = None,
) -> list[Event]:
    """The events so far, after `before`. Two workers that import torch take a minute on a busy machine."""
    events = list(before or [])
    limit = time.monotonic() + 240
    while not enough(events):
        assert time.monotonic() < limit, events
        events += executor.poll(0.5)
    return events


def ends(events: list[Event]) -> list[Finished | Died]:
    return [event for event in events if not isinstance(event, Progress)]


def ended(count: int) -> Callable[[list[Event]], bool]:
    return lambda events: len(ends(events)) >= count


def told(*trials: int) -> Callable[[list[Event]], bool]:
    """Whether each of these trials has reported a step."""
    return lambda events: {e.trial for e in events if isinstance(e, Progress)} >= {*trials}


def toy(trial: int, **arguments: Any) -> Job:
    plain = {"task": "toy_tasks:steps", "arguments": arguments, "seed": 0}
    resolved = {"tensors": [], "residual": {}, "output_multiplier": 1.0}
    return Job.from_dict({"trial": trial, "resolved": resolved, **plain})


def pid(executor: StackedExecutor) -> int:
    worker = executor._slots[0].worker
    assert worker is not None
    return worker._process.pid


def test_jobs_end_as_alone_one_after_another(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    jobs = [job_of(arguments(), trial) for trial in range(4)]
    jobs[1] = job_of(arguments(model={"qk_norm": True}), 1, lr=1e30)
    jobs[2] = job_of(arguments(split="report"), 2)
    assert executor.capacity == 2
    events: list[Event] = []
    for submitted, job in enumerate(jobs, 1):
        events = until(executor, ended(submitted - executor.capacity), events)
        executor.submit(job)
    events = until(executor, ended(len(jobs)), events)
    outcomes = {e.outcome.trial: e.outcome for e in events if isinstance(e, Finished)}
    for job in jobs:
        assert_alike(outcomes[job.trial], run_job(job), 1e-5)
    assert {e.trial for e in events if isinstance(e, Progress)} == {0, 1, 2, 3}


def test_a_job_that_cannot_stack_waits_for_an_empty_worker(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    executor.submit(job_of(arguments(), 0))
    executor.submit(toy(1))
    executor.submit(job_of(arguments(), 2))
    assert [executor.began(trial) for trial in range(3)] == [True, False, False]
    events = until(executor, ended(3))
    order = [e.outcome.trial for e in ends(events) if isinstance(e, Finished)]
    assert order == [0, 1, 2]


def test_jobs_of_another_training_wait_until_they_can_stack(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    short, longer = arguments(), arguments(train={"tokens": 5120})
    for trial, given in enumerate([short, longer, longer]):
        executor.submit(job_of(given, trial))
    assert [executor.began(trial) for trial in range(3)] == [True, False, False]
    events = until(executor, ended(1))
    assert [executor.began(trial) for trial in range(3)] == [True, True, True]
    events = until(executor, ended(3), events)
    steps = {e.outcome.trial: e.outcome.steps for e in ends(events) if isinstance(e, Finished)}
    assert steps == {0: 10, 1: 20, 2: 20}


def test_workers_share_the_jobs_evenly(tmp_path: Path, arguments: Arguments) -> None:
    with StackedExecutor(2, stack=2, logs=tmp_path / "logs") as executor:
        assert executor.capacity == 4
        for trial in range(4):
            executor.submit(job_of(arguments(), trial))
            assert [len(slot.jobs) for slot in executor._slots] == [
                (trial + 2) // 2,
                (trial + 1) // 2,
            ]
        assert len(ends(until(executor, ended(4)))) == 4


def test_a_killed_worker_is_the_death_of_all_its_jobs(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    jobs = [job_of(arguments(train=LONG), trial) for trial in range(2)]
    for job in jobs:
        executor.submit(job)
    until(executor, told(0, 1))
    os.kill(pid(executor), signal.SIGKILL)
    died = ends(until(executor, ended(2)))
    assert {e.trial for e in died if isinstance(e, Died) and "SIGKILL" in e.reason} == {0, 1}
    executor.submit(jobs[1])
    until(executor, told(1))


def test_a_job_that_hangs_takes_the_others_of_its_worker_along(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    for trial in range(2):
        executor.submit(job_of(arguments(train=LONG), trial))
    executor.submit(toy(2))
    until(executor, told(0, 1))
    executor.kill(1)
    events = until(executor, ended(2))
    (died,) = [e for e in events if isinstance(e, Died)]
    assert died == Died(trial=0, reason="its worker was ended, because trial 1 hung there")
    executor.submit(toy(3, pause=30.0))
    executor.submit(toy(4))
    executor.kill(4)
    assert executor.began(4), "it waits no more"
    assert executor.poll(0.1) == []


def test_a_mistake_in_one_job_leaves_the_others(
    executor: StackedExecutor, arguments: Arguments
) -> None:
    good, bad = job_of(arguments(train={"tokens": 25_600}), 0), job_of(arguments(), 1)
    bad = dataclasses.replace(bad, arguments=good.arguments)
    few = dataclasses.replace(bad.resolved, tensors=bad.resolved.tensors[1:])
    executor.submit(good)
    executor.submit(dataclasses.replace(bad, resolved=few))
    first, second = ends(until(executor, ended(2)))
    assert isinstance(first, Died)
    assert (first.trial, first.mistake) == (1, True)
    assert "without a row: embedding.weight" in first.reason
    assert isinstance(second, Finished)
    assert second.outcome.status == "completed"


class Told(Link):
    """A link without a socket: it keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[Finished | Died] = []

    def progress(self, progress: Progress) -> None: ...

    def ended(self, end: Finished | Died) -> None:
        self.ends.append(end)


def test_an_exception_in_a_step_is_the_death_of_all(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Told()
    server = StackServer(link, 2)
    for trial in range(2):
        server._begin(job_of(arguments(), trial))

    def fails(stack: Stack) -> None:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "advance", fails)
        server._advance()
    assert link.ends == [Died(trial=t, reason="RuntimeError: no memory left") for t in range(2)]
    job = job_of(arguments(), 2)
    server._begin(job)
    while len(link.ends) == 2:
        server._advance()
    end = link.ends[-1]
    assert isinstance(end, Finished)
    assert_alike(end.outcome, run_job(job), 1e-5)


def test_jobs_stack_if_only_values_seed_and_split_differ(arguments: Arguments) -> None:
    key = stack_key(job_of(arguments(), 0))
    assert key is not None
    assert key == stack_key(job_of(arguments(split="report"), 1, seed=9))
    for other in (
        arguments(train={"tokens": 5120}),
        arguments(model={"width": 48}),
        arguments(device="auto"),
    ):
        assert stack_key(job_of(other, 0)) not in (None, key)
    for refused in (arguments(checkpoints="/there"), arguments(parallel="ddp")):
        assert stack_key(job_of(refused, 0)) is None
    assert stack_key(toy(0)) is None


def test_a_stack_of_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stack is 0"):
        StackedExecutor(1, stack=0, logs=tmp_path)
