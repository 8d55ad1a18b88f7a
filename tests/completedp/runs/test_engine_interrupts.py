"""Ctrl-C, SIGTERM and SIGHUP while jobs run: once lets them finish, twice stops at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import Dying, Jobs
from toy_tasks import HERE, job

from completedp import interrupts
from completedp.runs.engine import run
from completedp.runs.job import Event

SEARCH = """
import json, signal, sys
from pathlib import Path
for number in (signal.SIGTERM, signal.SIGHUP):  # what runs these tests may ignore it, as nohup does
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path += [sys.argv[1]]
from sources import Dying, Jobs
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
