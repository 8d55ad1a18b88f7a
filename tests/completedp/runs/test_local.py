from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_tasks import HERE, job

import completedp
from completedp.errors import UserError
from completedp.runs import local
from completedp.runs.job import Died, Event, Finished, Progress
from completedp.runs.local import (
    InProcessExecutor,
    LocalExecutor,
    default_workers,
    devices_of,
)

PACKAGE_FOLDER = Path(completedp.__file__).parent.parent


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def one(logs: Path) -> Iterator[LocalExecutor]:
    with LocalExecutor(1, logs=logs, paths=[HERE]) as executor:
        yield executor


def until_ends(executor: LocalExecutor | InProcessExecutor, count: int = 1) -> list[Event]:
    """Every event up to the count-th end of a job."""
    events: list[Event] = []
    limit = time.monotonic() + 20
    while sum(not isinstance(e, Progress) for e in events) < count:
        assert time.monotonic() < limit, events
        events += executor.poll(0.5)
    return events


def the_end(executor: LocalExecutor | InProcessExecutor) -> Event:
    return until_ends(executor)[-1]


def wait_for(true: Callable[[], object], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def state(pid: int) -> str:
    """The kernel's letter for a process: Z has ended, T is stopped; none is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether any thread is left: the first may be a zombie while another still holds the sockets."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return False
    return threads != [pid] or state(pid) not in ("", "Z")


def test_a_worker_is_kept_with_what_its_task_made(one: LocalExecutor) -> None:
    calls, pids = [], set()
    for trial in range(3):
        one.submit(job(trial))
        end = the_end(one)
        assert isinstance(end, Finished)
        assert end.outcome.trial == trial
        calls.append(end.outcome.metrics["calls"])
        pids.add(end.outcome.metrics["pid"])
    assert calls == [1, 2, 3]
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_two_workers_run_side_by_side(logs: Path, tmp_path: Path) -> None:
    with LocalExecutor(2, logs=logs, paths=[HERE]) as executor:
        assert executor.capacity == 2
        executor.submit(job(0, "meet", folder=str(tmp_path), mine="a", theirs="b"))
        executor.submit(job(1, "meet", folder=str(tmp_path), mine="b", theirs="a"))
        ends = [e for e in until_ends(executor, 2) if isinstance(e, Finished)]
    assert {e.outcome.trial for e in ends} == {0, 1}


def test_a_killed_worker_is_a_death_and_is_replaced(one: LocalExecutor, tmp_path: Path) -> None:
    one.submit(job(5, "announce", path=str(tmp_path / "pid"), seconds=30))
    wait_for((tmp_path / "pid").exists)
    wait_for((tmp_path / "pid").read_text)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    died = the_end(one)
    assert isinstance(died, Died)
    assert died.trial == 5
    assert "SIGKILL" in died.reason
    one.submit(job(6))
    assert isinstance(the_end(one), Finished)


def test_a_death_is_seen_though_a_child_holds_the_socket(
    one: LocalExecutor, tmp_path: Path
) -> None:
    one.submit(job(1, "forks", pid_file=str(tmp_path / "child")))
    start = time.monotonic()
    died = the_end(one)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert isinstance(died, Died)
    assert time.monotonic() - start < 3


def test_a_gpu_worker_does_not_outlive_an_exception(logs: Path) -> None:
    pids = set()
    with LocalExecutor(1, logs=logs, paths=[HERE], devices=["cuda:0"]) as executor:
        for _ in range(2):
            executor.submit(job(0))
            end = the_end(executor)
            assert isinstance(end, Finished)
            pids.add(end.outcome.metrics["pid"])
            executor.submit(job(1, "raises"))
            assert the_end(executor) == Died(trial=1, reason="RuntimeError: no memory left")
    assert len(pids) == 2


def test_a_worker_killed_while_idle_is_replaced_unseen(one: LocalExecutor) -> None:
    for wait in (0.0, 0.3):  # before and after `poll` could notice
        one.submit(job(1))
        end = the_end(one)
        assert isinstance(end, Finished)
        pid = int(end.outcome.metrics["pid"])
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: not alive(pid))
        if wait:
            assert one.poll(wait) == []
    one.submit(job(2))
    assert isinstance(the_end(one), Finished)


def test_an_exception_is_a_death_and_the_worker_lives_on(one: LocalExecutor, logs: Path) -> None:
    one.submit(job(0))
    first = the_end(one)
    one.submit(job(1, "raises"))
    assert the_end(one) == Died(trial=1, reason="RuntimeError: no memory left")
    one.submit(job(2))
    second = the_end(one)
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert first.outcome.metrics["pid"] == second.outcome.metrics["pid"]
    log = (logs / "worker-0.log").read_text()
    assert "Traceback" in log
    assert "at all" in log


def test_an_exit_is_a_death_with_the_last_words(one: LocalExecutor) -> None:
    one.submit(job(1, "exits"))
    died = the_end(one)
    assert died == Died(trial=1, reason="the worker exited with status 3: the last words")


def test_a_users_mistake_is_marked(one: LocalExecutor) -> None:
    one.submit(job(1, "mistaken"))
    reason = "corpus: too short; give a longer one"
    assert the_end(one) == Died(trial=1, reason=reason, mistake=True)


def test_progress_at_most_twice_a_second(one: LocalExecutor) -> None:
    one.submit(job(0, n=120, pause=0.01))
    events = until_ends(one)
    progress = [e for e in events if isinstance(e, Progress)]
    assert 2 <= len(progress) <= 4
    assert (progress[0].step, progress[0].steps) == (1, 120)


def test_poll_waits_no_longer_than_asked(one: LocalExecutor) -> None:
    start = time.monotonic()
    assert one.poll(0.2) == []
    assert 0.15 < time.monotonic() - start < 1.0


def test_a_worker_is_light_single_threaded_and_ours(
    one: LocalExecutor, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    one.submit(job(0, "environment"))
    assert isinstance(the_end(one), Finished)
    lines = (logs / "worker-0.log").read_text().splitlines()
    assert "heavy: []" in lines
    assert "threads: 1" in lines
    assert f"package: {completedp.__file__}" in lines
    one.submit(job(0, "torch_threads"))
    end = the_end(one)
    assert isinstance(end, Finished)
    assert end.outcome.loss == 1.0


def test_a_worker_inherits_no_descriptor_but_its_socket(logs: Path, tmp_path: Path) -> None:
    with LocalExecutor(2, logs=logs, paths=[HERE]) as executor, (tmp_path / "held").open("w"):
        executor.submit(job(0, "announce", path=str(tmp_path / "pid"), seconds=0.5))
        executor.submit(job(1, "environment"))
        until_ends(executor, 2)
    # stdin, stdout, stderr, the socket, and the listing itself
    assert "descriptors: 5" in (logs / "worker-1.log").read_text()


def test_folders_of_the_user_do_not_shadow_the_package(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search", "completedp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.py").write_text("raise SystemExit('not the standard library')")
    with LocalExecutor(1, logs=logs, paths=[tmp_path, HERE]) as executor:
        executor.submit(job(0))
        assert isinstance(the_end(executor), Finished)


def test_a_foreign_package_is_refused(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_package_folder", lambda: tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE_FOLDER))
    with LocalExecutor(1, logs=logs, paths=[HERE]) as executor:
        executor.submit(job(0))
        died = the_end(executor)
    assert isinstance(died, Died)
    assert f"completedp was found in {PACKAGE_FOLDER}, expected it in {tmp_path}" in died.reason


def test_each_worker_sees_its_gpu_only(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    devices = ["cuda:0", "cuda:1"]
    with LocalExecutor(2, logs=logs, paths=[HERE], devices=devices) as executor:
        executor.submit(job(0, "environment"))
        executor.submit(job(1, "environment"))
        until_ends(executor, 2)
    seen = [(logs / f"worker-{i}.log").read_text() for i in range(2)]
    assert "gpus: 4" in seen[0]
    assert "gpus: 7" in seen[1]


@pytest.mark.parametrize("stuck", [False, True])
def test_close_ends_the_workers_at_once(stuck: bool, logs: Path, tmp_path: Path) -> None:
    executor = LocalExecutor(1, logs=logs, paths=[HERE])
    executor.submit(job(0, "announce", path=str(tmp_path / "pid"), seconds=30))
    wait_for((tmp_path / "pid").exists)
    wait_for((tmp_path / "pid").read_text)
    pid = int((tmp_path / "pid").read_text())
    if stuck:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: state(pid) == "T")
    start = time.monotonic()
    executor.close()
    executor.close()
    assert time.monotonic() - start < 1.0
    assert not alive(pid)


COORDINATOR = """
import json, sys
from pathlib import Path
from completedp.runs.job import Job
from completedp.runs.local import LocalExecutor
executor = LocalExecutor(1, logs=Path(sys.argv[2]), paths=[Path(sys.argv[3])])
executor.submit(Job.from_dict(json.loads(sys.argv[1])))
while True:
    executor.poll(1.0)
"""


@pytest.mark.parametrize("silent", [True, False])
def test_an_orphan_ends_within_two_seconds(silent: bool, logs: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    task = job(0, "announce", path=str(pid_file), seconds=60 if silent else 0.001, steps=100_000)
    command = [sys.executable, "-c", COORDINATOR, json.dumps(task.to_dict()), str(logs), str(HERE)]
    with subprocess.Popen(command) as coordinator:
        wait_for(pid_file.exists)
        wait_for(pid_file.read_text)
        worker = int(pid_file.read_text())
        assert alive(worker)
        coordinator.kill()
    wait_for(lambda: not alive(worker), seconds=2.0)


def test_workers_below_one(logs: Path) -> None:
    with pytest.raises(UserError, match="workers is 0; expected 1 or more"):
        LocalExecutor(0, logs=logs)


def test_one_worker_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 6}, raising=False)
    assert default_workers("cpu") == 3
    assert default_workers("cuda:1") == 1


def test_in_process() -> None:
    seen: list[Progress] = []
    executor = InProcessExecutor(on_progress=seen.append)
    assert executor.poll(0.0) == []
    executor.submit(job(2))
    assert isinstance(the_end(executor), Finished)
    assert len(seen) == 3
    executor.submit(job(3, "raises"))
    assert the_end(executor) == Died(trial=3, reason="RuntimeError: no memory left")
    executor.submit(job(4, "mistaken"))
    died = the_end(executor)
    assert isinstance(died, Died)
    assert died.mistake


def test_the_devices_of_a_kind() -> None:
    assert devices_of("cpu") == ["cpu"]
    assert devices_of("cuda:3") == ["cuda:3"]


@pytest.mark.parametrize(
    ("content", "cores"),
    [("150000 100000\n", 1), ("400000 100000\n", 4), ("max 100000\n", None), ("", None)],
)
def test_a_containers_share_of_the_cores(tmp_path: Path, content: str, cores: int | None) -> None:
    path = tmp_path / "cpu.max"
    assert local._share_of_cores(path) > 10**6
    path.write_text(content)
    assert local._share_of_cores(path) == (cores or sys.maxsize)
