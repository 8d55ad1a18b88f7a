"""How many searches die before their first trial has ended, on a machine that is too busy?

    python benchmarks/reliability/starts.py --starts 40

Six busy loops compete with each search for the cores. In every second start the threads take turns every 10
µs instead of every 5 ms, so that a thread may be stopped anywhere while another imports. A start is stopped
at its first finished trial. A search has died if it ends before that, or writes a traceback. Printed: the
seconds of each start, the number of deaths, and what the dead ones said.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp import files
from completedp.lm.preset_files import load_preset

LOOPS = 6
BUDGET = 12
SECONDS = 600
TOKENS = 16_384  # a run that ends within a second
COMMAND = "import sys; sys.setswitchinterval({}); from completedp.cli.app import main; main()"


def main() -> None:
    parser = result.parser(__doc__, "starts.json")
    parser.add_argument("--starts", type=int, default=40)
    arguments = parser.parse_args()
    starts = []
    with tempfile.TemporaryDirectory() as folder, busy():
        preset = Path(folder) / "small.yaml"
        tiny = load_preset("tiny")
        train = dataclasses.replace(tiny.train, tokens=TOKENS, eval_tokens=8192)
        files.write_yaml(preset, dataclasses.replace(tiny, train=train).to_dict())
        for i in range(arguments.starts):
            interval = 1e-5 if i % 2 else 5e-3
            starts.append(started(Path(folder) / str(i), preset, interval))
            print(json.dumps(starts[-1]), flush=True)
    seconds = sorted(start["seconds"] for start in starts)
    found = {
        "busy_loops": LOOPS,
        "starts": len(starts),
        "of_these_with_turns_of_10_us": sum(start["interval"] < 1e-4 for start in starts),
        "deaths": sum(start["died"] is not None for start in starts),
        "seconds": {"median": seconds[len(seconds) // 2], "longest": seconds[-1]},
        "said": [start["died"] for start in starts if start["died"] is not None],
    }
    result.write(arguments.out, found)
    print(json.dumps(found, indent=1))
    sys.exit(found["deaths"] != 0)


@contextmanager
def busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOOPS)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def started(root: Path, preset: Path, interval: float) -> dict[str, Any]:
    """One start; `died` is the last line of a search that died."""
    root.mkdir()
    journal = root / "studies" / "s" / "journal.jsonl"
    log = root / "log"
    began = time.monotonic()
    how = ["--preset", str(preset), "--budget", str(BUDGET), "--workers", "1", "--name", "s"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND.format(interval), "search", *how, "--root", str(root)],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while process.poll() is None and not has_finished(journal):
            if time.monotonic() - began > SECONDS:
                break
            time.sleep(0.1)
        good = has_finished(journal)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    said = log.read_text(errors="replace")
    died = None if good and "Traceback" not in said else (said.splitlines() or ["nothing"])[-1]
    return {
        "interval": interval,
        "seconds": round(time.monotonic() - began, 1),
        "died": died,
    }


def has_finished(journal: Path) -> bool:
    return journal.exists() and b'"finished"' in journal.read_bytes()


if __name__ == "__main__":
    main()
