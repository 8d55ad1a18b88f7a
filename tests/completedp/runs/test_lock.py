from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from completedp.errors import UserError
from completedp.runs.lock import Lock

HOLD = """
import subprocess, sys
from pathlib import Path
from completedp.runs.lock import Lock
with Lock(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "30"], close_fds=False)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path), pytest.raises(UserError) as caught, Lock(path):
        pass
    assert f"study {tmp_path.name} is being written by process {os.getpid()}" in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    with Lock(path, "run"), pytest.raises(UserError, match=f"^run {tmp_path.name} is"):
        Lock(path, "run").__enter__()
    with Lock(path):
        pass


def test_a_holder_killed_gives_it_back_even_with_a_child_alive(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(UserError, match=f"process {holder.pid} "), Lock(path):
                pass
            holder.kill()
            holder.wait()
            os.kill(child, 0)
            with Lock(path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"), Lock(tmp_path / "none" / "lock"):
        pass
