"""What share of its workers' time a finished study spent without a trial on them.

    python benchmarks/idle_share.py <study folder> --workers 2

From what the study itself left behind: a trial's seconds are in the journal, its end is the time of its
curve's file. Counted from the first trial's begin to the last one's end, so with the waits between phases
(no per-module trial before the last global one has ended, no confirmation before the last search trial),
without the start-up of the program. The trials counted must have run in one piece.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from completedp import files
from completedp.runs.journal import read_records, trials

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="count from this trial on")
    parser.add_argument("--out", type=Path, default=RESULTS / "idle_share.json")
    arguments = parser.parse_args()
    result = idle(arguments.study, arguments.workers, arguments.first)
    command = f"python benchmarks/idle_share.py <study folder> --first {arguments.first}"
    files.write_json(arguments.out, {"command": command, **result})
    print(json.dumps(result, indent=1))


def idle(study: Path, workers: int, first: int) -> dict[str, Any]:
    ended = trials(read_records(study / "journal.jsonl"))
    found = {n: t for n, t in ended.items() if n >= first and t.status != "set_aside"}
    ends = {n: (study / "curves" / f"{n}.jsonl").stat().st_mtime for n in found}
    began = min(ends[n] - t.seconds for n, t in found.items())
    span = max(ends.values()) - began
    busy = sum(t.seconds for t in found.values())
    return {
        "trials": len(found),
        "mean_seconds": busy / len(found),
        "idle_share": 1 - busy / (workers * span),
    }


if __name__ == "__main__":
    main()
