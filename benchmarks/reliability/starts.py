"""Start searches on a machine that is too busy, and count those that die before their first trial has ended.

    python benchmarks/reliability/starts.py --starts 40

Six loops take every core beside them. In every second start the threads take turns every 10 µs instead of
every 5 ms, so that one may be stopped anywhere while another imports. A start is ended at its first finished
trial; one that ends by itself before, or writes a traceback, has died.
"""

from __future__ import annotations

import argparse
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

from completedp import files
from completedp.lm.preset_files import load_preset

RESULTS = Path(__file__).parent.parent / "results"
LOOPS = 6
BUDGET = 12
SECONDS = 600
TOKENS = 16_384  # a run that ends within a second
COMMAND = "import sys; sys.setswitchinterval({}); from completedp.cli.app import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS / "starts.json")
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
    result = {
        "command": f"python benchmarks/reliability/starts.py --starts {arguments.starts}",
        "busy_loops": LOOPS,
        "starts": len(starts),
        "of_these_with_turns_of_10_us": sum(start["interval"] < 1e-4 for start in starts),
        "deaths": sum(start["died"] is not None for start in starts),
        "seconds": {"median": seconds[len(seconds) // 2], "longest": seconds[-1]},
        "said": [start["died"] for start in starts if start["died"] is not None],
    }
    files.write_json(arguments.out, result)
    print(json.dumps(result, indent=1))
    sys.exit(result["deaths"] != 0)


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
    """One start; `died` is the last line that a search which died has said."""
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
