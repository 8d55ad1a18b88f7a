from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from toy_tasks import HERE, job

from completedp.errors import UserError
from completedp.runs.job import Event, Finished
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor, LocalExecutor
from completedp.runs.lock import Lock
from completedp.runs.sweep import run_all


def test_a_second_call_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    jobs = [job(0), job(1, "explode", at=2), job(2, n=5)]
    events: list[Event] = []
    first = run_all(jobs, InProcessExecutor(), tmp_path / "s")
    second = run_all(jobs, InProcessExecutor(), tmp_path / "s", on_event=events.append)
    assert first == second
    assert list(first) == [0, 1, 2]
    assert [o.status for o in first.values()] == ["completed", "diverged", "completed"]
    assert events == []


def test_a_call_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    jobs = [job(i) for i in range(4)]
    with pytest.raises(ZeroDivisionError):
        run_all(jobs, InProcessExecutor(), tmp_path, on_event=lambda _: 1 / 0)
    path = tmp_path / "journal.jsonl"
    assert len(read_records(path)) == 2
    with path.open("a") as file:
        file.write('{"event": "fini')
    events: list[Event] = []
    outcomes = run_all(jobs, InProcessExecutor(), tmp_path, on_event=events.append)
    assert list(outcomes) == [0, 1, 2, 3]
    assert [e.outcome.trial for e in events if isinstance(e, Finished)] == [1, 2, 3]


COORDINATOR = """
import sys
from pathlib import Path
sys.path += [sys.argv[1]]
from toy_tasks import HERE, job
from completedp.runs.local import LocalExecutor
from completedp.runs.sweep import run_all
place = Path(sys.argv[2])
with LocalExecutor(2, logs=place / "logs", paths=[HERE]) as executor:
    print(len(run_all([job(i, pause=0.02) for i in range(24)], executor, place / "s")))
"""


def test_killed_at_any_moment_nothing_is_lost_or_run_twice(tmp_path: Path) -> None:
    random = Random(0)
    command = [sys.executable, "-c", COORDINATOR, str(HERE), str(tmp_path)]
    journal = tmp_path / "s" / "journal.jsonl"
    kept: list[int] = []
    for attempt in range(100):
        patience = random.uniform(0.3, 0.8) * (1 + attempt / 10)  # a busy machine starts slowly
        with subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                out, _ = process.communicate(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        finished = [r["trial"] for r in read_records(journal) if r["event"] == "finished"]
        assert finished[: len(kept)] == kept
        kept = finished
    assert out == "24\n"
    trials = [r["trial"] for r in read_records(journal) if r["event"] == "finished"]
    assert sorted(trials) == list(range(24))
    assert trials[: len(kept)] == kept != []
    assert len(list((tmp_path / "s" / "curves").glob("*.jsonl"))) == 24


def test_a_job_set_aside_is_left_out_and_tried_again(tmp_path: Path) -> None:
    jobs = [job(0), job(1, "killed", flag=str(tmp_path / "flag"), times=4)]
    with LocalExecutor(1, logs=tmp_path / "logs", paths=[HERE]) as executor:
        assert list(run_all(jobs, executor, tmp_path / "s")) == [0]
        assert list(run_all(jobs, executor, tmp_path / "s")) == [0, 1]


def test_other_jobs_are_refused(tmp_path: Path) -> None:
    run_all([job(0)], InProcessExecutor(), tmp_path)
    with pytest.raises(UserError, match="results of other jobs"):
        run_all([job(0, n=4)], InProcessExecutor(), tmp_path)


def test_one_writer(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(UserError, match="is being written by process"):
        run_all([job(0)], InProcessExecutor(), tmp_path)
    assert not (tmp_path / "journal.jsonl").exists()
