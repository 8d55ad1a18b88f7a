"""How much slower is this tree than another one, at the start of a search and at `status`?

    git worktree add /tmp/before <commit>
    python benchmarks/reliability/times.py --before /tmp/before --pairs 9

Both trees run in turn with the same Python and packages. A start ends when the first proposal is in the
journal; `status` reads a study of 2,000 trials. Printed: the median wall seconds of each tree, and the
median ratio of the pairs with the interval of the sign test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp import files
from completedp.config import StudyConfig
from completedp.lm.preset_files import load_preset
from completedp.models import content_of
from completedp.runs.journal import Journal

TRIALS = 2000
POLL_SECONDS = 0.002


def main() -> None:
    parser = result.parser(__doc__, "reliability_times.json")
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--pairs", type=int, default=15)
    given = parser.parse_args()
    trees = {"before": given.before.resolve(), "after": result.HERE.parent}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        large_study(root)
        found = {
            "status of 2,000 trials": compared(trees, given.pairs, lambda tree: status(tree, root)),
            "start of a search": compared(trees, given.pairs, lambda tree: start(tree, root)),
        }
    result.write(given.out, found)
    print(json.dumps(found, indent=1))


def compared(
    trees: dict[str, Path], pairs: int, measured: Callable[[Path], float]
) -> dict[str, Any]:
    for tree in trees.values():
        measured(tree)  # fills the file cache for both
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for i in range(pairs):
        for name in list(trees)[:: 1 if i % 2 else -1]:
            seconds[name].append(measured(trees[name]))
    ratios = sorted(a / b for a, b in zip(seconds["after"], seconds["before"], strict=True))
    # With nine pairs the third lowest and highest (82 %), with fifteen the fourth (96 %).
    cut = pairs // 4
    return {
        **{name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(ratios[cut], 4), round(ratios[-1 - cut], 4)],
    }


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "completedp", *arguments]


def status(tree: Path, root: Path) -> float:
    began = time.perf_counter()
    command = program("status", "large", "--json", "--root", str(root))
    subprocess.run(command, env=environment(tree), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def start(tree: Path, root: Path) -> float:
    """Seconds until the first proposal is on record; then the search is killed."""
    journal = root / "studies" / "begun" / "journal.jsonl"
    shutil.rmtree(journal.parent, ignore_errors=True)
    options = ["--preset", "tiny", "--budget", "200", "--name", "begun", "--root", str(root)]
    began = time.perf_counter()
    with subprocess.Popen(
        program("search", *options),
        env=environment(tree),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
            assert process.poll() is None, "the search has ended"
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return seconds


def large_study(root: Path) -> None:
    """A study of 2,000 finished trials, as a search would have left its journal."""
    config = load_preset("tiny")
    # Without the kind, which trees of before 2026-11-27 do not know.
    content = {**config.to_dict(), "model": content_of(config.model)}
    first = {
        "name": "large",
        "config": content,
        "digest": files.digest(content),
        "seed": 0,
        "budget": TRIALS + 16,
        "data": {"digest": "sha256:0", "tokens": {}, "bytes_per_token": {"report": 1.0}},
        "versions": {},
    }
    path = root / "studies" / "large" / "journal.jsonl"
    Journal.create(path, first).close()
    with path.open("a", encoding="utf-8") as file:
        for trial in range(TRIALS):
            for record in _trial(config, trial):
                file.write(json.dumps(record) + "\n")


def _trial(config: StudyConfig, trial: int) -> list[dict[str, Any]]:
    phase = "global" if trial < TRIALS // 4 else "module"
    values = {f"global.{kind}": 0.5 for kind in ("lr", "beta1", "beta2", "eps")}
    if phase == "module":
        values |= {f"depth.lr.{layer}": 0.25 for layer in range(config.model.depth)}
        values |= {f"type.lr.{name}": -0.125 for name in ("q", "k", "v", "embedding")}
    ended = {"status": "completed", "loss": 2.0 + 1 / (trial + 1), "steps": 384, "tokens": 786432}
    return [
        {"event": "proposed", "trial": trial, "values": values, "phase": phase, "seed": 1},
        {"event": "finished", "trial": trial, **ended, "seconds": 5.0, "seed": 1},
    ]


if __name__ == "__main__":
    main()
