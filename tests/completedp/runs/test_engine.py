from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_tasks import HERE, job

from completedp import interrupts
from completedp.errors import UserError
from completedp.runs import engine
from completedp.runs.curves import read_curve
from completedp.runs.engine import run
from completedp.runs.job import Died, Event, Executor, Finished, Job, Outcome
from completedp.runs.local import InProcessExecutor, LocalExecutor


class Jobs:
    """A source that keeps what it is told."""

    def __init__(self, *jobs: Job) -> None:
        self.left = list(jobs)
        self.handed: list[int] = []
        self.outcomes: dict[int, Outcome] = {}
        self.aside: dict[int, str] = {}
        self.total = len(jobs)

    def next(self) -> Job | None:
        if not self.left:
            return None
        self.handed.append(self.left[0].trial)
        return self.left.pop(0)

    def finished(self, outcome: Outcome) -> None:
        assert outcome.trial not in self.outcomes
        self.outcomes[outcome.trial] = outcome

    def set_aside(self, trial: int, reason: str) -> None:
        assert trial not in self.aside
        self.aside[trial] = reason

    @property
    def done(self) -> bool:
        return len(self.outcomes) + len(self.aside) == self.total


class Dying(Executor):
    """Every job dies; `capacity` at a time."""

    capacity = 2

    def __init__(self, finishing: tuple[int, ...] = ()) -> None:
        self.running: list[Job] = []
        self.submitted: list[int] = []
        self._finishing = finishing
        self.closed = False

    def submit(self, job: Job) -> None:
        assert len(self.running) < self.capacity
        self.running.append(job)
        self.submitted.append(job.trial)

    def poll(self, timeout: float) -> list[Event]:
        return self.polled(self.running.pop(0).trial)

    def polled(self, trial: int) -> list[Event]:
        if trial in self._finishing:
            outcome = Outcome(
                trial=trial,
                status="completed",
                loss=1.0,
                steps=1,
                tokens=1,
                seconds=0.1,
                seed=0,
            )
            return [Finished(outcome=outcome)]
        return [Died(trial=trial, reason=f"death of {trial}")]

    def began(self, trial: int) -> bool:
        return True

    def kill(self, trial: int) -> None: ...

    def close(self) -> None:
        self.closed = True


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


SEARCH = """
import json, signal, sys
from pathlib import Path
for number in (signal.SIGTERM, signal.SIGHUP):  # what runs these tests may ignore it, as nohup does
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path += [sys.argv[1]]
from toy_tasks import HERE, job
from completedp.runs.engine import run
from completedp.runs.local import LocalExecutor
from completedp.runs.sweep import ListSource
place = Path(sys.argv[2])
source = ListSource([job(i, "announce", path=str(place / f"pid{i}"), seconds=0.05, steps=int(sys.argv[3]))
                     for i in range(4)])
with LocalExecutor(2, logs=place / "logs", paths=[HERE]) as executor:
    done = run(source, executor, curves=place / "curves", on_interrupt=lambda: print("told", flush=True))
print(json.dumps([done, sorted(source.outcomes)]))
"""


@pytest.fixture
def search(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A coordinator at work on two of four jobs, in a process group of its own as a shell gives it."""
    command = [sys.executable, "-c", SEARCH, str(HERE), str(tmp_path), str(request.param)]
    with subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        limit = time.monotonic() + 20
        while not all((tmp_path / f"pid{i}").exists() for i in range(2)):
            assert time.monotonic() < limit
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("search", [30], indirect=True)
def test_ctrl_c_once_finishes_the_running_jobs(search: subprocess.Popen[str]) -> None:
    os.killpg(search.pid, signal.SIGINT)
    out, _ = search.communicate(timeout=20)
    assert search.returncode == 0
    assert out.splitlines() == ["told", "[false, [0, 1]]"]


@pytest.mark.parametrize("search", [10_000], indirect=True)
def test_ctrl_c_twice_stops_at_once(search: subprocess.Popen[str], tmp_path: Path) -> None:
    os.killpg(search.pid, signal.SIGINT)
    assert search.stdout is not None
    assert search.stdout.readline() == "told\n"
    start = time.monotonic()
    os.killpg(search.pid, signal.SIGINT)
    _, err = search.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert "KeyboardInterrupt" in err
    for i in range(2):
        pid = int((tmp_path / f"pid{i}").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("search", [30], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_warning_finishes_the_running_jobs_and_may_come_twice(
    search: subprocess.Popen[str], number: signal.Signals
) -> None:
    """A scheduler sends SIGTERM to every process, and torchrun or a shell passes it on."""
    os.killpg(search.pid, number)
    os.killpg(search.pid, number)
    out, _ = search.communicate(timeout=20)
    assert search.returncode == 0
    assert out.splitlines() == ["told", "[false, [0, 1]]"]


@pytest.mark.parametrize("search", [10_000], indirect=True)
def test_a_second_warning_stops_at_once(search: subprocess.Popen[str]) -> None:
    os.kill(search.pid, signal.SIGTERM)
    assert search.stdout is not None
    assert search.stdout.readline() == "told\n"
    time.sleep(interrupts.SAME_WARNING)
    os.kill(search.pid, signal.SIGTERM)
    _, err = search.communicate(timeout=20)
    assert "KeyboardInterrupt" in err


def test_when_the_time_is_over_one_press_is_the_second(tmp_path: Path) -> None:
    executor = Dying(finishing=(0, 1))

    def press(_: Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    source = Jobs(job(0), job(1), job(2))
    calls = iter([False, True, True, True])
    with pytest.raises(KeyboardInterrupt):
        run(
            source,
            executor,
            curves=tmp_path,
            interrupted=lambda: next(calls),
            on_event=lambda event: press(event) if len(source.outcomes) == 2 else None,
        )


def test_a_press_that_somebody_swallowed_still_ends(tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        interrupts.listen()
        with contextlib.suppress(KeyboardInterrupt):  # as a library does around an import
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(Jobs(job(0)), Dying(finishing=(0,)), curves=tmp_path)
        interrupts.listen()
        assert run(Jobs(job(0)), Dying(finishing=(0,)), curves=tmp_path)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_press_that_meets_a_destructor_prints_nothing() -> None:
    program = (
        "import os, signal\n"
        "from completedp import interrupts\n"
        "class Thing:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
        "interrupts.listen()\n"
        "Thing()\n"
        "try:\n"
        "    with interrupts.deferred(): print('went on')\n"
        "except KeyboardInterrupt: print('remembered')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("remembered\n", "")


def test_under_nohup_a_closed_terminal_is_no_press(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.deferred() as pressed:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not pressed.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            assert pressed.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


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
