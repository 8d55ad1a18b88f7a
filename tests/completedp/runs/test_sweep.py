from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from toy_tasks import HERE, job

from completedp.errors import UserError
from completedp.runs.job import Event, Finished
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor, LocalExecutor
from completedp.runs.lock import Lock
from completedp.runs.sweep import identity, run_all, unfinished


def test_a_second_call_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    jobs = [job(0), job(1, "explode", at=2), job(2, n=5)]
    events: list[Event] = []
    first = run_all(jobs, InProcessExecutor(), tmp_path / "s")
    second = run_all(jobs, InProcessExecutor(), tmp_path / "s", on_event=events.append)
    assert first == second
    assert list(first) == [0, 1, 2]
    assert [o.status for o in first.values()] == ["completed", "diverged", "completed"]
    assert events == []


def test_what_an_earlier_version_has_finished_is_found() -> None:
    """It wrote this digest, of jobs that had `rungs`."""
    earlier = "sha256:5a795b21b8896dfc7f69ca2d2014cd089ceedabb90831d6b2fdf99981b14bf35"
    assert identity(job(0)) == identity(job(7)) == earlier


def test_a_call_cut_short_is_gone_on_with(tmp_path: Path) -> None:
    jobs = [job(i, seed=i) for i in range(4)]
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
from completedp.runs.sweep import run_all, unfinished
place = Path(sys.argv[2])
with LocalExecutor(2, logs=place / "logs", paths=[HERE]) as executor:
    print(len(run_all([job(i, seed=i, pause=0.02) for i in range(24)], executor, place / "s")))
"""


def test_killed_at_any_moment_nothing_is_lost_or_run_twice(tmp_path: Path) -> None:
    random = Random(0)
    command = [sys.executable, "-c", COORDINATOR, str(HERE), str(tmp_path)]
    journal = tmp_path / "s" / "journal.jsonl"
    kept: list[str] = []
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
        finished = [r["job"] for r in read_records(journal) if r["event"] == "finished"]
        assert finished[: len(kept)] == kept
        kept = finished
    assert out == "24\n"
    records = [r for r in read_records(journal) if r["event"] == "finished"]
    assert len({r["trial"] for r in records}) == len({r["seed"] for r in records}) == 24
    assert [r["job"] for r in records][: len(kept)] == kept != []
    curves = {path.stem for path in (tmp_path / "s" / "curves").glob("*.jsonl")}
    assert curves >= {str(r["trial"]) for r in records}


def test_a_job_set_aside_is_left_out_and_tried_again(tmp_path: Path) -> None:
    jobs = [job(0), job(1, "killed", flag=str(tmp_path / "flag"), times=4)]
    with LocalExecutor(1, logs=tmp_path / "logs", paths=[HERE]) as executor:
        assert list(run_all(jobs, executor, tmp_path / "s")) == [0]
        assert list(run_all(jobs, executor, tmp_path / "s")) == [0, 1]


def test_a_longer_list_runs_only_what_is_new(tmp_path: Path) -> None:
    """In any order, under any numbers; what is the same job twice runs once."""
    run_all([job(0), job(1, n=5)], InProcessExecutor(), tmp_path)
    events: list[Event] = []
    again = [job(0, n=5), job(1, n=4), job(2), job(3, n=4)]
    assert [job.trial for job in unfinished(again, tmp_path)] == [1]
    assert unfinished(again, tmp_path / "new") == again[:3]
    outcomes = run_all(again, InProcessExecutor(), tmp_path, on_event=events.append)
    assert [e.outcome.trial for e in events if isinstance(e, Finished)] == [1]
    assert [o.trial for o in outcomes.values()] == list(outcomes) == [0, 1, 2, 3]
    assert [o.steps for o in outcomes.values()] == [5, 4, 3, 4]
    assert [len(o.curve) for o in outcomes.values()] == [5, 4, 3, 4]


def test_one_writer(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock"), pytest.raises(UserError, match="is being written by process"):
        run_all([job(0)], InProcessExecutor(), tmp_path)
    assert not (tmp_path / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"job": None}, "job is None; expected text"),
        ({"tokens": "many"}, "tokens is 'many'"),
        ({"loss": []}, "loss is"),
        ({"metrics": {"x": "y"}}, "metrics is"),
        ({"speed": 3}, "unknown key 'speed'"),
        ({"seconds": 1e300}, "seconds is"),
    ],
)
def test_a_damaged_record_is_named_by_its_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    jobs = [job(0), job(1, n=5)]
    run_all(jobs, InProcessExecutor(), tmp_path)
    path = tmp_path / "journal.jsonl"
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, json.dumps(json.loads(last) | changes)]) + "\n")
    content = path.read_bytes()
    for read in (lambda: unfinished(jobs, tmp_path), lambda: run_all(jobs, None, tmp_path)):  # type: ignore[arg-type]
        with pytest.raises(
            UserError, match=f"journal.jsonl, line 3: the journal is damaged: .*{said}"
        ):
            read()
    assert path.read_bytes() == content


def test_records_that_lack_their_parts_and_damaged_curves_are_refused(tmp_path: Path) -> None:
    run_all([job(0)], InProcessExecutor(), tmp_path)
    path = tmp_path / "journal.jsonl"
    content = path.read_text()
    first, last = content.splitlines()
    for name in ("job", "trial", "status", "steps", "tokens", "seconds", "seed"):
        record = json.loads(last)
        del record[name]
        path.write_text(f"{first}\n{json.dumps(record)}\n")
        with pytest.raises(UserError, match=f"line 2: the journal is damaged: .*{name}"):
            unfinished([job(0)], tmp_path)
    path.write_text(content)
    (tmp_path / "curves" / "0.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"curves/0\.jsonl, line 1: "):
        unfinished([job(0)], tmp_path)
