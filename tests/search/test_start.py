"""A search starts, however its threads take turns."""

import os
import subprocess
import sys
from pathlib import Path

import completedp

STARTS = 4


def test_no_start_dies_where_threads_take_turns_at_any_moment(tmp_path: Path) -> None:
    script = Path(__file__).parent / "starts.py"
    paths = [str(Path(completedp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(STARTS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")
