"""How long `completedp --help` takes: the median of several fresh processes.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path

from completedp import files

RESULTS = Path(__file__).parent / "results"
RUNS = 15


def main() -> None:
    times = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run(["completedp", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    times = times[1:]  # the first fills the file cache
    result = {
        "command": "python benchmarks/startup.py",
        "seconds": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "runs": RUNS,
    }
    files.write_json(RESULTS / "startup.json", result)
    print(json.dumps(result["seconds"]))


if __name__ == "__main__":
    main()
