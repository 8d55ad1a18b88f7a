"""What share of its workers' time did a finished study spend without a trial on them?

    python benchmarks/engine/idle_share.py <study folder> --workers 2

Computed from the study's own files: a trial's seconds are in the journal, and its end is the time of its
curve's file. The time from the start of the first trial to the end of the last one is counted. So the waits
between phases count (no per-module trial begins before the last global one has ended, and no confirmation
before the last search trial), and the program's start-up does not. The counted trials must have run without
an interruption.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp.runs.journal import read_records, trials


def main() -> None:
    parser = result.parser(__doc__, "idle_share.json")
    parser.add_argument("study", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="count from this trial on")
    arguments = parser.parse_args()
    found = idle(arguments.study, arguments.workers, arguments.first)
    result.write(arguments.out, found)
    print(json.dumps(found, indent=1))


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
