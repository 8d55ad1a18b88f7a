"""How a process finds out that it is one of several, and that its packages are ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from completedp import launch

RANK_2_OF_4 = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}


def test_alone_unless_torchrun_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANK_2_OF_4:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # another launcher's, and by itself no group
    assert (launch.launched(), launch.processes(), launch.rank()) == (False, 1, 0)
    for name, value in RANK_2_OF_4.items():
        monkeypatch.setenv(name, value)
    assert (launch.launched(), launch.processes(), launch.rank()) == (True, 4, 2)


@pytest.mark.parametrize("safe", [False, True])
def test_a_search_folder_of_the_users_own(tmp_path: Path, safe: bool) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "__init__.py").write_text("raise ImportError('not ours')")
    done = subprocess.run(
        [sys.executable, "-m", "completedp", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **({"PYTHONSAFEPATH": "1"} if safe else {}),
        },
    )
    assert done.returncode == (0 if safe else 2), done.stderr
    if not safe:
        assert f"the package 'search' is {tmp_path / 'search'}" in done.stderr
        assert "PYTHONSAFEPATH=1" in done.stderr


LAST_WORDS = """
import atexit, sys
from completedp.cli.app import main

class Late:
    def __del__(self):
        sys.stderr.write("taken down")

late = Late()
atexit.register(print, "handled")
sys.argv = ["completedp", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("--nonsense", 2)])
@pytest.mark.parametrize("several", [False, True])
def test_one_of_several_ends_before_its_interpreter_does(
    argument: str, status: int, several: bool
) -> None:
    """Threads of a group that still hold tensors abort an interpreter that is taken down."""
    environment = {name: value for name, value in os.environ.items() if name not in RANK_2_OF_4}
    done = subprocess.run(
        [sys.executable, "-c", LAST_WORDS, argument],
        capture_output=True,
        text=True,
        env=environment | (RANK_2_OF_4 if several else {}),
    )
    assert done.returncode == status, done.stderr
    assert "handled" in done.stdout
    assert ("taken down" in done.stderr) != several
