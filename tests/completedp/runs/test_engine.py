from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import Dying, Jobs
from toy_tasks import HERE, job

from completedp.errors import UserError
from completedp.runs import engine
from completedp.runs.curves import read_curve
from completedp.runs.engine import run
from completedp.runs.job import Died, Event, Finished, Job, Outcome
from completedp.runs.local import InProcessExecutor, LocalExecutor


@pytest.fixture
def two(tmp_path: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(2, logs=tmp_path / "logs", paths=[HERE]) as executor:
        yield executor


def test_every_job_runs_and_its_curve_is_there_before_the_source_hears(tmp_path: Path) -> None:
    class Checking(Jobs):
        def finished(self, outcome: Outcome) -> None:
            assert read_curve(tmp_path / "curves", outcome.trial) == outcome.curve != ()
            super().finished(outcome)

    source = Checking(*(job(i) for i in range(3)))
    events: list[Event] = []
    assert run(source, InProcessExecutor(), curves=tmp_path / "curves", on_event=events.append)
    assert list(source.outcomes) == [0, 1, 2]
    assert [e.outcome.trial for e in events if isinstance(e, Finished)] == [0, 1, 2]
    lines = (tmp_path / "curves" / "1.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, "loss": 2.0}


def test_divergence_is_an_end_like_another(tmp_path: Path) -> None:
    source = Jobs(job(0, "explode", at=2))
    assert run(source, InProcessExecutor(), curves=tmp_path)
    assert source.outcomes[0].status == "diverged"


def test_two_killed_workers_and_the_job_still_finishes(two: LocalExecutor, tmp_path: Path) -> None:
    source = Jobs(job(0), job(1, "killed", flag=str(tmp_path / "flag"), times=2))
    assert run(source, two, curves=tmp_path / "curves")
    assert set(source.outcomes) == {0, 1}
    assert source.handed == [0, 1]


def test_a_third_death_sets_the_job_aside(two: LocalExecutor, tmp_path: Path) -> None:
    source = Jobs(job(0), job(1, "killed", flag=str(tmp_path / "flag"), times=99), job(2))
    deaths: list[Event] = []
    assert run(source, two, curves=tmp_path / "curves", on_event=deaths.append)
    assert set(source.outcomes) == {0, 2}
    assert "SIGKILL" in source.aside[1]
    assert sum(isinstance(e, Died) for e in deaths) == 3
    assert not (tmp_path / "curves" / "1.jsonl").exists()


def test_a_death_is_tried_again_before_anything_new(tmp_path: Path) -> None:
    executor = Dying(finishing=(0, 3))
    source = Jobs(job(0), job(1), job(2), job(3))
    assert run(source, executor, curves=tmp_path)
    assert executor.submitted == [0, 1, 2, 1, 2, 1, 2, 3]
    assert source.aside == {1: "death of 1", 2: "death of 2"}


def test_nothing_can_run_here(tmp_path: Path) -> None:
    source, executor = Jobs(*(job(i) for i in range(9))), Dying()
    with pytest.raises(UserError, match=r"none of the first 3 runs .* death of 2"):
        run(source, executor, curves=tmp_path)
    assert len(set(executor.submitted)) <= 4
    assert source.aside == {}, "owed another attempt, when what they have in common is mended"


def test_less_than_three_jobs_and_none_can_run(tmp_path: Path) -> None:
    source = Jobs(job(0), job(1))
    with pytest.raises(UserError, match=r"none of the first 2 runs .* death of 1"):
        run(source, Dying(), curves=tmp_path)
    assert source.aside == {}


def test_deaths_before_the_first_end_are_set_aside_after_it(tmp_path: Path) -> None:
    source = Jobs(*(job(i) for i in range(4)))
    assert run(source, Dying(finishing=(2, 3)), curves=tmp_path)
    assert source.aside == {0: "death of 0", 1: "death of 1"}


def test_what_has_finished_is_kept_where_a_death_ends_all(tmp_path: Path) -> None:
    class Together(Dying):
        def poll(self, timeout: float) -> list[Event]:
            self.running.clear()
            return [Died(trial=0, reason="wrong", mistake=True), *self.polled(1)]

    source = Jobs(job(0), job(1))
    assert run(source, Together(finishing=(1,)), curves=tmp_path)
    assert set(source.outcomes) == {1}
    assert source.aside == {0: "wrong"}


def test_a_mistake_before_anything_finished_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="corpus: too short"):
        run(Jobs(job(0, "mistaken"), job(1)), InProcessExecutor(), curves=tmp_path)


def test_a_mistake_later_is_set_aside_at_once(tmp_path: Path) -> None:
    source = Jobs(job(0), job(1, "mistaken"), job(2))
    deaths: list[Event] = []
    assert run(source, InProcessExecutor(), curves=tmp_path, on_event=deaths.append)
    assert source.aside == {1: "corpus: too short; give a longer one"}
    assert sum(isinstance(e, Died) for e in deaths) == 1


def test_one_job_is_asked_for_ahead(tmp_path: Path) -> None:
    """When a place becomes free its next job begins before anybody hears of the end or is asked again."""
    log: list[str] = []

    class Asked(Jobs):
        def next(self) -> Job | None:
            job = super().next()
            log.append(f"ask {job.trial if job else None}")
            return job

        def finished(self, outcome: Outcome) -> None:
            super().finished(outcome)
            log.append(f"end {outcome.trial}")

    class One(Dying):
        capacity = 1

        def submit(self, job: Job) -> None:
            super().submit(job)
            log.append(f"begin {job.trial}")

    numbers = (0, 1, 2)
    source = Asked(*map(job, numbers))
    executor = One(finishing=numbers)
    assert run(source, executor, curves=tmp_path, on_event=lambda _: log.append("told"))
    assert log[:6] == ["ask 0", "begin 0", "ask 1", "end 0", "begin 1", "told"]
    assert log[6:11] == ["ask 2", "end 1", "begin 2", "told", "ask None"]
    assert log[11:] == ["end 2", "told", "ask None"]


def test_a_source_that_must_wait_is_asked_again(two: LocalExecutor, tmp_path: Path) -> None:
    class Pairs(Jobs):
        """Hands out the second job only once the first has finished."""

        def next(self) -> Job | None:
            return None if self.handed and not self.outcomes else super().next()

    source = Pairs(job(0, pause=0.05), job(1))
    assert run(source, two, curves=tmp_path / "curves")
    assert list(source.outcomes) == [0, 1]


def test_interrupted_finishes_what_runs_and_hands_out_nothing_new(
    two: LocalExecutor, tmp_path: Path
) -> None:
    source = Jobs(*(job(i, n=5, pause=0.02) for i in range(6)))
    told: list[int] = []
    assert not run(
        source,
        two,
        curves=tmp_path / "curves",
        interrupted=lambda: bool(source.outcomes),
        on_interrupt=lambda: told.append(len(source.outcomes)),
    )
    assert set(source.outcomes) == set(source.handed[:-1])  # the last was asked for ahead
    assert 2 <= len(source.handed) < 6
    assert len(told) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_PATIENCE", 1.5)
    monkeypatch.setattr(engine, "POLL_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_run_that_hangs_is_ended_and_tried_again(two: LocalExecutor, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    source = Jobs(job(0), job(1, "hangs", flag=str(flag), times=2))
    events: list[Event] = []
    assert run(source, two, curves=tmp_path / "curves", forecast=0.1, on_event=events.append)
    assert set(source.outcomes) == {0, 1}
    died = [event for event in events if isinstance(event, Died)]
    assert [event.trial for event in died] == [1, 1]
    assert died[0].reason == "it hung: nothing was reported for 2 s"


@pytest.mark.usefixtures("impatient")
def test_a_run_that_always_hangs_is_set_aside_with_the_reason(
    two: LocalExecutor, tmp_path: Path
) -> None:
    """Nobody had a forecast: the run that finished says how long one takes."""
    flag = tmp_path / "flag"
    source = Jobs(job(0), job(1, "hangs", flag=str(flag), times=99), job(2))
    assert run(source, two, curves=tmp_path / "curves")
    assert set(source.outcomes) == {0, 2}
    assert source.aside == {1: "it hung: nothing was reported for 2 s"}


@pytest.mark.usefixtures("impatient")
def test_a_slow_run_that_reports_is_left_alone(two: LocalExecutor, tmp_path: Path) -> None:
    source = Jobs(job(0, "steps", n=6, pause=0.7))
    assert run(source, two, curves=tmp_path / "curves", forecast=0.1)
    assert not source.aside
    assert not [t for t in source.handed if source.handed.count(t) > 1]


@pytest.mark.usefixtures("impatient")
def test_time_in_which_the_coordinator_was_stopped_does_not_count(
    two: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z: its workers stood still with it."""
    monkeypatch.setattr(engine, "MOST_OF_A_TURN", 0.1)
    source = Jobs(job(0, "steps", n=3, pause=0.4))
    began = time.monotonic()

    def sleep(_: Event) -> None:
        if time.monotonic() - began < 5:
            time.sleep(3)

    assert run(source, two, curves=tmp_path / "curves", forecast=0.1, on_event=sleep)
    assert source.outcomes[0].status == "completed"


def test_a_folder_that_is_gone_is_not_made_anew(two: LocalExecutor, tmp_path: Path) -> None:
    study = tmp_path / "study"

    def move(_: Event) -> None:
        if study.exists():
            study.rename(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="was deleted or moved"):
        run(Jobs(job(0), job(1), job(2)), two, curves=study / "curves", on_event=move)
    assert not study.exists()


def test_an_interrupt_closes_the_executor(tmp_path: Path) -> None:
    def interrupt(_: Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    executor = Dying(finishing=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        run(Jobs(job(0), job(1)), executor, curves=tmp_path, on_event=interrupt)
    assert executor.closed


def test_the_handler_before_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(Jobs(job(0)), InProcessExecutor(), curves=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
